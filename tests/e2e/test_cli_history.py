"""`holdfast history`: one file through all snapshots, ours and restic's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.backups import OLD, SECOND, write
from tests.support.browsing import Looker, look_into


@pytest.fixture
def looker(tmp_path: Path) -> Looker:
    """Seven snapshots, the fourth by restic: absent, new, same, changed, metadata, gone, absent."""
    looker = look_into(tmp_path)
    path = f"{looker.shop.source}/etc/conf"
    write(f"{looker.shop.source}/other", b"")
    looker.shop.backup()
    write(path, b"one")
    looker.shop.backup()
    looker.shop.backup()
    write(path, b"twice", mtime=OLD + SECOND)
    looker.shop.restic_backup("0.18")
    os.chmod(path, 0o600)
    looker.shop.backup()
    os.unlink(path)
    looker.shop.backup()
    looker.shop.backup()
    return looker


def test_newest_first_with_what_happened(looker: Looker) -> None:
    """One line a snapshot, and the command that brings the newest version back."""
    got = looker.ask("history", f"web1:{looker.shop.source}/etc/conf")
    assert [(one["state"], one.get("size")) for one in got["versions"]] == [
        ("absent", None), ("gone", None), ("metadata", 5), ("changed", 5), ("same", 3), ("new", 3), ("absent", None),
    ]  # fmt: skip
    lines = looker.lines("history", f"web1:{looker.shop.source}/etc/conf", "--changes")
    assert [line.split("UTC")[1].split()[0] if "UTC" in line else "" for line in lines[:-1]]
    assert [any(f"  {word}" in line for line in lines) for word in ("gone", "new", "same", "absent")] == [
        True, True, False, False,
    ]  # fmt: skip
    newest = got["versions"][2]["snapshot"]
    assert f"--snapshot {newest[:8]} --config {looker.config}" in lines[-1]


def test_a_path_that_never_was_is_said(looker: Looker) -> None:
    """With code 26 and the way out."""
    said = looker.run("history", "web1:/never", code=26)[1]
    assert ("is in none of the 7 snapshots" in said, "holdfast find" in said) == (True, True)
    assert "names no path" in looker.run("history", "web1", code=2)[1]


def test_what_can_not_be_read_is_unknown(looker: Looker) -> None:
    """A damaged directory above it hides it in the snapshots that have that directory, and in no other."""
    by_time = sorted(looker.shop.open().snapshots(), key=lambda one: one.time)
    looker.lose_tree(looker.shop.tree_of(by_time[1].tree, f"{looker.shop.source}/etc"))
    got = looker.ask("history", f"web1:{looker.shop.source}/etc/conf", code=3)
    assert [one["state"] for one in got["versions"]] == [
        "absent", "gone", "metadata", "new", "unknown", "unknown", "absent",
    ]  # fmt: skip
    assert len(got["problems"]) == 1
