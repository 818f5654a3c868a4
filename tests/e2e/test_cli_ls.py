"""`holdfast ls` on real repositories: ours, and one that stock restic wrote."""

from __future__ import annotations

import base64
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.support.backups import OLD, run_restic, write
from tests.support.browsing import Looker, look_into


@pytest.fixture
def looker(tmp_path: Path) -> Looker:
    """A configured source with some files, not backed up yet."""
    looker = look_into(tmp_path)
    source = looker.shop.source
    write(f"{source}/a.txt", b"a")
    write(f"{source}/sub/b.txt", b"bb" * 1000)
    write(os.fsencode(source) + b"/new\nline-\xff", b"")
    os.symlink("a.txt", f"{source}/link")
    os.chmod(f"{source}/a.txt", 0o4750)  # noqa: S103 - a mode with all its letters
    return looker


@pytest.mark.parametrize("writer", ["holdfast", "restic-0.14", "restic-0.18"])
def test_what_was_backed_up_is_listed(looker: Looker, writer: str) -> None:
    """The directory that was backed up, its names escaped; a path, recursively, on request."""
    source = looker.shop.source
    if writer == "holdfast":
        looker.shop.backup()
    else:
        shutil.rmtree(looker.shop.repository)
        version = writer.removeprefix("restic-")
        run_restic(version, looker.shop.repository, "init")
        looker.shop.restic_backup(version)
    top = [f"{source}/a.txt", f"{source}/link -> a.txt", f"{source}/new\\nline-\\xff", f"{source}/sub/"]
    assert looker.lines("ls", "web1") == top
    assert looker.lines("ls", f"web1:{source}/", "-r") == [*top, f"{source}/sub/b.txt"]
    assert looker.lines("ls", f"web1:{source}/sub/b.txt") == [f"{source}/sub/b.txt"]
    assert looker.lines("ls", "web1:/") == [f"/{source.split('/')[1]}/"]
    out, err = looker.run("ls", "web1")
    assert err.startswith("web1 as it was ")
    assert looker.run("ls", "web1", "-q") == (out, "")


def test_a_long_listing_has_mode_owner_size_and_time(looker: Looker) -> None:
    """As `ls -l`; the time local, and UTC beside it where they differ."""
    looker.shop.backup()
    (line,) = looker.lines("ls", f"web1:{looker.shop.source}/a.txt", "-l")
    mode, owner, size, day, *_ = line.split()
    stat = os.stat(f"{looker.shop.source}/a.txt")
    assert (mode, size, day) == ("-rwsr-x---", "1", time.strftime("%Y-%m-%d", time.localtime(OLD / 1e9)))
    assert owner.count(":") == 1
    assert line.endswith(f"{looker.shop.source}/a.txt")
    assert stat.st_size == 1


def test_programs_get_exact_names(looker: Looker) -> None:
    """In JSON, with base64 beside what is not UTF-8."""
    looker.shop.backup()
    got = looker.ask("ls", "web1")
    raw = os.fsencode(looker.shop.source) + b"/new\nline-\xff"
    odd = got["entries"][2]
    assert base64.b64decode(odd["path_base64"]) == raw
    assert [entry["type"] for entry in got["entries"]] == ["file", "symlink", "file", "dir"]
    plain = got["entries"][0]
    assert (plain["path"], plain["size"], plain["mode"], plain["mtime"]) == (
        f"{looker.shop.source}/a.txt", 1, "4750", "2020-09-13T12:26:40Z",
    )  # fmt: skip
    assert (got["source"], got["snapshot"]["complete"], got["problems"]) == ("web1", True, [])


def test_which_snapshot_is_looked_at(looker: Looker) -> None:
    """An id's beginning, latest~1, a time; what there is none of is said with code 26."""
    first = looker.shop.backup().snapshot
    time.sleep(1.1)
    between = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    time.sleep(1.1)
    write(f"{looker.shop.source}/later", b"")
    looker.shop.backup()
    counts = [
        len(looker.ask("ls", "web1", *options)["entries"])
        for options in ([], ["--snapshot", first[:9]], ["--snapshot", "latest~1"], ["--before", between])
    ]
    assert counts == [5, 4, 4, 4]
    for arguments, code, said in (
        (["web1", "--snapshot", "latest~2"], 26, "it has 2"),
        (["web1", "--snapshot", "0" * 64], 26, "there is no snapshot"),
        (["web1", "--snapshot", "newest"], 2, "is no snapshot"),
        (["web1", "--snapshot", first, "--before", between], 2, "exclude each other"),
        (["web1", "--before", "2001-01-01"], 26, "until 2001-01-01"),
        (["web1:/absent/x"], 26, "holds no /absent/x"),
        (["web1:x"], 2, "is not absolute"),
        (["web2"], 10, "there is no source"),
    ):
        assert said in looker.run("ls", *arguments, code=code)[1], arguments


def test_snapshots_of_another_source_are_not_looked_at(looker: Looker) -> None:
    """In a repository that two share, each sees its own."""
    theirs = looker.shop.backup(source="db1").snapshot
    said = looker.run("ls", "web1", "--snapshot", theirs, code=26)[1]
    assert "is of source db1, and not of web1" in said
    assert "it has 0" in looker.run("ls", "web1", code=26)[1]


def test_several_paths_are_listed_from_above_them(looker: Looker) -> None:
    """Where more than one directory was backed up, the listing starts where they part."""
    other = f"{looker.shop.base}/other"
    write(f"{other}/x", b"")
    looker.shop.backup(looker.shop.source, other)
    assert looker.lines("ls", "web1") == [f"{other}/", f"{looker.shop.source}/"]


def test_a_damaged_directory_is_a_warning(looker: Looker) -> None:
    """The rest is listed, the code is 3, and there is no trace."""
    done = looker.shop.backup()
    sub = looker.shop.tree_of(bytes(looker_tree(looker, done.snapshot)), f"{looker.shop.source}/sub")
    looker.lose_tree(sub)
    out, err = looker.run("ls", "web1", "-r", code=3)
    assert len(out.splitlines()) == 4
    assert f"warning: {looker.shop.source}/sub: pack " in err
    assert len(looker.ask("ls", "web1", "-r", code=3)["problems"]) == 1
    assert "can't be read" in looker.run("ls", f"web1:{looker.shop.source}/sub/b.txt", code=24)[1]


def looker_tree(looker: Looker, snapshot: str) -> bytes:
    """The tree of a snapshot."""
    return next(one.tree for one in looker.shop.open().snapshots() if one.id == snapshot)
