"""`holdfast diff` against what stock restic says of the same snapshots."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.backups import OLD, SECOND, write
from tests.support.browsing import Looker, look_into


@pytest.fixture
def looker(tmp_path: Path) -> Looker:
    """Two snapshots with every kind of difference."""
    looker = look_into(tmp_path)
    source = looker.shop.source
    for name, content in (("same", b"s"), ("content", b"old"), ("gone/x", b"123"), ("mode", b"m"), ("type", b"t")):
        write(f"{source}/{name}", content)
    looker.shop.backup()
    write(f"{source}/content", b"newer", mtime=OLD + SECOND)
    os.unlink(f"{source}/gone/x")
    os.rmdir(f"{source}/gone")
    os.chmod(f"{source}/mode", 0o600)
    os.unlink(f"{source}/type")
    os.symlink("same", f"{source}/type")
    write(f"{source}/sub/new", b"12345678")
    looker.shop.backup()
    return looker


def test_lines_are_those_of_restic(looker: Looker) -> None:
    """Letter and path, but for directories, whose own times restic takes for a difference."""
    snapshots = [one.id for one in sorted(looker.shop.open().snapshots(), key=lambda one: one.time)]
    lines = looker.lines("diff", "web1", "latest~1", "latest")
    mine = [line for line in lines[:-1] if not line.endswith("/") or line[0] in "+-"]
    theirs = looker.shop.restic("0.18", "diff", "--metadata", *snapshots).splitlines()
    theirs = [line.replace("TU   ", "T    ") for line in theirs]  # a change of type is one of metadata there
    theirs = [line for line in theirs if line[:5] in ("+    ", "-    ", "M    ", "U    ", "T    ")]
    theirs = [line for line in theirs if not line.endswith("/") or line[0] in "+-"]
    assert [line.partition(" -> ")[0] for line in mine] == theirs
    assert lines[-1] == (
        "2 files added (8 B); 2 files removed (4 B); 1 file changed (3 B -> 5 B); 1 with other metadata"
        "; 1 directory added; 1 directory removed"
    )


def test_programs_get_both_sides(looker: Looker) -> None:
    """Old and new node of each change, and the sums."""
    got = looker.ask("diff", "web1", "latest~1", "latest")
    content = next(one for one in got["changes"] if one["path"].endswith("/content"))
    assert (content["change"], content["old"]["size"], content["new"]["size"]) == ("M", 3, 5)
    assert (got["summary"]["added"], got["summary"]["bytes_after"], got["problems"]) == (2, 5, [])


def test_a_part_can_be_compared(looker: Looker) -> None:
    """Below a path that is a directory in both; the same snapshot does not differ from itself."""
    source = looker.shop.source
    looker.shop.backup()
    assert looker.lines("diff", "web1", "latest~1", "latest", f"{source}/sub") == ["no difference"]
    first = looker.ask("ls", "web1", "--snapshot", "latest~2")["snapshot"]["id"]
    assert looker.lines("diff", "web1", first[:12], first) == ["no difference"]
    assert "holds no" in looker.run("diff", "web1", "latest~2", "latest", f"{source}/sub", code=26)[1]
    assert "is no directory" in looker.run("diff", "web1", "latest~1", "latest", f"{source}/same", code=2)[1]
    assert "not absolute" in looker.run("diff", "web1", "latest~1", "latest", "sub", code=2)[1]
    assert "it has 3" in looker.run("diff", "web1", "latest~3", "latest", code=26)[1]


def test_a_damaged_directory_may_differ(looker: Looker) -> None:
    """It is told, nothing is guessed, and the code is 3."""
    new = max(looker.shop.open().snapshots(), key=lambda one: one.time)
    looker.lose_tree(looker.shop.tree_of(new.tree, f"{looker.shop.source}/sub"))
    out, err = looker.run("diff", "web1", "latest~1", "latest", code=3)
    assert (b"1 directory added" in out, f"{looker.shop.source}/sub: pack" in err) == (True, True)
