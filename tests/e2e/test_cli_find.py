"""`holdfast find` in all snapshots of a real repository, ours and restic's."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from tests.support.backups import OLD, SECOND, run_restic, write
from tests.support.browsing import Looker, look_into


@pytest.fixture
def looker(tmp_path: Path) -> Looker:
    """Four snapshots: a file that changes in the third, and one that is gone in the last two."""
    looker = look_into(tmp_path)
    source = looker.shop.source
    write(f"{source}/docs/invoice.pdf", b"one")
    write(f"{source}/docs/gone.pdf", b"12345")
    for number in range(4):
        if number == 2:
            write(f"{source}/docs/invoice.pdf", b"twice", mtime=OLD + SECOND)
            os.unlink(f"{source}/docs/gone.pdf")
        looker.shop.backup(kind="full")
    return looker


def test_each_version_comes_once_with_its_snapshots(looker: Looker) -> None:
    """By path; from the first to the last snapshot that has it."""
    ids = [one.id for one in sorted(looker.shop.open().snapshots(), key=lambda one: one.time)]
    got = looker.ask("find", "web1", "*.pdf")
    found = [
        (
            one["path"].removeprefix(looker.shop.source),
            [(v["size"], v["snapshots"], v["ranges"][0]["first"]["id"]) for v in one["versions"]],
        )
        for one in got["found"]
    ]
    assert found == [
        ("/docs/gone.pdf", [(5, 2, ids[0])]),
        ("/docs/invoice.pdf", [(3, 2, ids[0]), (5, 2, ids[2])]),
    ]
    lines = looker.lines("find", "web1", "*/invoice.pdf")
    assert lines[0] == f"{looker.shop.source}/docs/invoice.pdf"
    assert [f"in 2 from {ids[0][:8]}" in lines[2], f"in 2 from {ids[2][:8]}" in lines[4]] == [True, True]
    assert lines[5] == "2 versions of 1 path in 4 snapshots"


def test_the_printed_command_restores_the_last_hit(looker: Looker) -> None:
    """Pasted as it stands, it brings back the newest version."""
    (line,) = [one for one in looker.lines("find", "web1", "gone.*") if one.startswith("to restore the last: ")]
    words = shlex.split(line.removeprefix("to restore the last: "))
    assert words[:2] == ["holdfast", "restore"]
    target = Path(looker.shop.base, "back")
    looker.run(*words[1:], "--to", str(target), "--direct")
    assert (target / "gone.pdf").read_bytes() == b"12345"


def test_fewer_can_be_asked_for(looker: Looker) -> None:
    """Only the newest version of each path, some snapshots, a time, any case; nothing is no error."""
    counts = [
        [len(one["versions"]) for one in looker.ask("find", "web1", *arguments)["found"]]
        for arguments in (
            ["*.pdf", "--newest"],
            ["*.pdf", "--snapshot", "latest"],
            ["*.pdf", "--snapshot", "latest", "--snapshot", "latest~3"],
            ["INVOICE.*", "-i"],
            ["INVOICE.*"],
            [f"{looker.shop.source}/docs/inv*", "docs"],
        )
    ]
    assert counts == [[1, 1], [1], [1, 2], [2], [], [2, 2]]
    assert looker.lines("find", "web1", "nothing") == ["nothing found in 4 snapshots"]
    assert looker.lines("find", "web1", "*.pdf", "--before", "2001-01-01") == ["nothing found in 0 snapshots"]
    assert "exclude each other" in looker.run("find", "web1", "x", "--before", "1h ago", "--snapshot", "a", code=2)[1]


def test_what_restic_wrote_is_found(looker: Looker) -> None:
    """Its snapshots bear no source, and are this one's where the repository is not shared."""
    looker.shop.restic_backup("0.18")
    run_restic("0.18", looker.shop.repository, "snapshots")
    (found,) = looker.ask("find", "web1", "invoice.pdf")["found"]
    assert [version["snapshots"] for version in found["versions"]] == [2, 3]


def test_what_is_damaged_is_told(looker: Looker) -> None:
    """A snapshot and a directory: the rest is found, the code is 3."""
    snapshots = sorted(looker.shop.open().snapshots(), key=lambda one: one.time)
    looker.lose_tree(looker.shop.tree_of(snapshots[0].tree, f"{looker.shop.source}/docs"))
    path = Path(looker.shop.repository, "snapshots", snapshots[3].id)
    path.chmod(0o600)
    path.write_bytes(b"x" + path.read_bytes()[1:])
    out, err = looker.run("find", "web1", "*.pdf", code=3)
    assert (b"1 version of 1 path in 3 snapshots" in out, err.count("warning: "), "Traceback" in err) == (
        True, 2, False,
    )  # fmt: skip
