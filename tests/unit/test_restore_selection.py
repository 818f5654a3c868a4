"""Which nodes a selection wants."""

from __future__ import annotations

import pytest

from shared.errors import UsageError
from workers.restore.selection import DROPPED, PASSING, WANTED, WHOLE, Selection, relative


def walk(selection: Selection, *steps: tuple[bytes, bool]) -> int:
    """The state at the end of a path of (path, is a directory)."""
    state = selection.start
    for path, is_dir in steps:
        if state != WHOLE:
            state = selection.state(path, is_dir=is_dir, parent=state)
    return state


def test_nothing_said_is_everything() -> None:
    """Without paths and patterns nothing needs to be asked."""
    assert Selection([], [], []).start == WHOLE


def test_paths_pass_through_what_is_above() -> None:
    """What lies above a path is passed through, what is below is whole, the rest is dropped."""
    selection = Selection([b"a/b", b"a/b/c"], [], [])
    assert walk(selection, (b"a", True)) == PASSING
    assert walk(selection, (b"a", True), (b"a/b", True)) == WHOLE
    assert walk(selection, (b"a", True), (b"a/x", True)) == DROPPED
    assert walk(selection, (b"a", True), (b"a/x", False)) == DROPPED
    assert walk(selection, (b"ab", True)) == DROPPED
    assert (selection.paths, selection.met) == ({b"a/b"}, {b"a/b"})  # the other lies within it


def test_excludes_win() -> None:
    """An excluded node is dropped, though a path or an include names it; so is all below it."""
    selection = Selection([b"a"], ["keep*"], ["*.tmp", "cache/"])
    assert walk(selection, (b"a", True), (b"a/keep", True), (b"a/keep/x.tmp", False)) == DROPPED
    assert walk(selection, (b"a", True), (b"a/keep", True), (b"a/keep/cache", True)) == DROPPED
    assert walk(selection, (b"a", True), (b"a/keep", True), (b"a/keep/cache", False)) == WANTED
    assert walk(selection, (b"a", True), (b"a/other", False)) == DROPPED


def test_names_that_are_not_utf8() -> None:
    """Patterns match names of any bytes."""
    assert walk(Selection([], ["*.log"], []), (b"\xff\xfe.log", False)) == WANTED


def test_paths_are_normal() -> None:
    """A path of a snapshot has no dots; slashes may be too many."""
    assert relative("//srv//www/") == b"srv/www"
    assert relative("/\udcff") == b"\xff"
    with pytest.raises(UsageError):
        relative("/srv/../etc")


def test_a_pattern_that_is_none() -> None:
    """A pattern that can't be read is the caller's mistake."""
    with pytest.raises(UsageError, match="a pattern can't be read"):
        Selection([], ["!"], [])
