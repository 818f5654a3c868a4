"""The commands with `--direct`: engines in the command's own process, no Redis anywhere."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.command import Shop, open_shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A configured shop."""
    return open_shop(tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_from_nothing_to_a_restored_tree(shop: Shop) -> None:
    """init, backup, snapshots, restore, verify: each works after the one before."""
    first = shop.ask("backup", "data", "--direct")
    (shop.data / "new").write_text("new")
    second = shop.run("backup", "data", "--direct")
    assert (first["files_new"], "files: 1 new, " in second) == (12, True)
    listed = shop.ask("snapshots", "data")["snapshots"]
    assert [(one["id"] == first["snapshot"], one["complete"], one["files"]) for one in listed] == [
        (True, True, 12),
        (False, True, 13),
    ]
    said = shop.run("restore", "data", "--direct", "--verify")
    (target,) = shop.conf.glob("restored-data-*")
    assert contents(Path(f"{target}{shop.data}")) == contents(shop.data)
    assert f"to undo: rm -r {target}" in said
    assert "whole: no errors were found" in shop.run("verify", "data", "--data", "--direct")


def test_a_part_comes_back_as_it_was_at_a_time(shop: Shop) -> None:
    """A path lands in the target by its own name; `--before` and `--snapshot` go back in time."""
    old = shop.ask("backup", "data", "--direct")["snapshot"]
    time.sleep(1.1)
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    path = shop.data / "sub/file-3.txt"
    before = path.read_bytes()
    path.write_text("changed since")
    time.sleep(1.1)
    shop.run("backup", "data", "--direct")
    shop.run("restore", f"data:{path}", "--before", later, "--to", "a", "--direct")
    shop.run("restore", f"data:{path}", "--snapshot", old[:10], "--to", "b", "--direct")
    shop.run("restore", f"data:{path.parent}", "--to", "c", "--direct", "--include", "file-3.txt")
    got = {name: contents(shop.conf / name) for name in "abc"}
    assert got == {
        "a": {"file-3.txt": before},
        "b": {"file-3.txt": before},
        "c": {"sub/file-3.txt": b"changed since"},
    }


def test_a_restore_in_place_prints_an_undo_that_works(shop: Shop) -> None:
    """What is replaced is kept, and the line at the end brings it back."""
    shop.run("backup", "data", "--direct")
    path = shop.data / "sub/file-1.txt"
    path.write_text("precious")
    dry = shop.run("restore", "data", "--in-place", "--dry-run", "--direct")
    assert ("would restore 1 file" in dry, path.read_text()) == (True, "precious")
    said = shop.run("restore", "data", "--in-place", "--direct")
    assert path.read_text() == "file 1\n" * 101
    (undo,) = [line.removeprefix("to undo: ") for line in said.splitlines() if line.startswith("to undo: ")]
    assert os.system(undo) == 0  # noqa: S605 - the printed line is meant for a shell
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", [b"there", b"it's lat in\xe9\n"])
def test_the_undo_of_a_new_target_removes_just_that(shop: Shop, name: bytes) -> None:
    """Whatever bytes its name has, the printed line can be pasted; where the target was there, none is printed."""
    shop.run("backup", "data", "--direct")
    target = os.fsencode(shop.conf) + b"/" + name
    said = shop.run("restore", "data", "--direct", "--to", os.fsdecode(target))
    assert os.path.isdir(target)
    (undo,) = [line.removeprefix("to undo: ") for line in said.splitlines() if line.startswith("to undo: ")]
    subprocess.run(["bash", "-c", undo], check=True)
    assert not os.path.lexists(target)
    os.mkdir(target)
    assert "to undo" not in shop.run("restore", "data", "--direct", "--to", os.fsdecode(target))


def test_a_file_that_can_not_be_read_ends_in_code_3(shop: Shop) -> None:
    """The snapshot is made, and nobody can overlook what it lacks."""
    text = (shop.conf / "holdfast.yaml").read_text()
    both = text.replace(f'["{shop.data}"]', f'["{shop.data}", "{shop.base}/absent"]')
    (shop.conf / "holdfast.yaml").write_text(both)
    said = shop.run("backup", "data", "--direct", code=3)
    assert ("INCOMPLETE: 1 unreadable" in said, f"{shop.base}/absent" in said) == (True, True)
    assert "incomplete: 1 unreadable" in shop.run("snapshots", "data")


def test_wrong_secrets_and_lost_sites_are_said(shop: Shop) -> None:
    """Each has a code of its own and changes nothing."""
    shop.run("snapshots", "data", code=21)
    shop.run("backup", "data", "--direct")
    for name in ("fleet.secret", "recovery.password"):
        (shop.conf / name).write_text("x" * 40)
    assert "no key of the repository" in shop.run("backup", "data", "--direct", code=22)
    shutil.rmtree(shop.conf / "backups")
    assert "no such directory" in shop.run("restore", "data", "--direct", code=34)


def test_a_damaged_snapshot_is_left_out_and_told(shop: Shop) -> None:
    """The others are listed; the exit code says that something is missing."""
    whole = shop.ask("backup", "data", "--direct")["snapshot"]
    broken = shop.ask("backup", "data", "--direct", "--full")["snapshot"]
    path = shop.conf / "backups/repos/data/snapshots" / broken
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])
    got = shop.ask("snapshots", "data", code=3)
    assert [one["id"] for one in got["snapshots"]] == [whole]
    assert broken[:16] in got["damaged"][0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_backup_ends_cleanly(shop: Shop, number: signal.Signals) -> None:
    """Code 130, no trace, no lock left; the next run completes."""
    with (shop.data / "big").open("wb") as file:
        for _ in range(20):
            file.write(os.urandom(4 << 20))
    process = shop.start("backup", "data", "--direct")
    deadline = time.monotonic() + 30
    packs = shop.conf / "backups/repos/data/data"
    while not any(path.is_file() for path in packs.rglob("*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, "Traceback" in said, said.startswith("error: ")) == (130, False, True)
    assert list((shop.conf / "backups/repos/data/locks").glob("*")) == []
    assert "files: 13 new" in shop.run("backup", "data", "--direct")


def test_another_hosts_source_is_not_read_here(shop: Shop) -> None:
    """The files of this machine must not pass for those of that one."""
    path = shop.conf / "holdfast.yaml"
    path.write_text(path.read_text().replace("  data:\n", "  data:\n    host: elsewhere\n"))
    assert "is read on host elsewhere" in shop.run("backup", "data", "--direct", code=2)


def test_what_can_not_be_is_refused(shop: Shop) -> None:
    """Before anything is done, with the way out."""
    for arguments, code, said in (
        (["backup", "dta", "--direct"], 10, '(did you mean "data"?)'),
        (["restore", "data:relative", "--direct"], 2, "the path relative is not absolute"),
        (["restore", "data", "--in-place", "--to", "x"], 2, "exclude each other"),
        (["restore", "data", "--before", "noon"], 2, '"noon" is no time'),
        (["restore", "data", "--before", "3h ago", "--snapshot", "abc"], 2, "exclude each other"),
        (["verify", "data", "--data", "--data-share", "5%"], 2, "exclude each other"),
        (["verify", "data", "--data-share", "0%"], 2, "expected a share"),
        (["backup", "data"], 61, "Is `holdfast up` running? `holdfast up --status` tells. With --direct"),
    ):
        assert said in shop.run(*arguments, code=code)
    assert list((shop.conf / "backups").iterdir()) == []
