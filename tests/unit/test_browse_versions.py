"""Versions over many snapshots, and what differs between two trees: on trees held in memory."""

from __future__ import annotations

import random

import pytest

from cli.browse.compare import Change, Totals, compare
from cli.browse.trees import Trees
from cli.browse.versions import ranges, walk_versions
from shared.repository.tree import Node
from tests.support.browsing import Forest, dir_node, file_node


def everything(*_: bytes) -> bool:
    """A pattern for all."""
    return True


def found(trees: Trees, roots: list[bytes]) -> list[tuple[bytes, list[tuple[int, int]]]]:
    """Paths with (mtime, mask) of their versions."""
    return [
        (one.path, [(version.node.mtime, version.seen) for version in one.versions])
        for one in walk_versions(trees, roots, everything, everything)
    ]


@pytest.mark.parametrize(
    ("mask", "runs"), [(0, []), (1, [(0, 0)]), (0b1110110, [(1, 2), (4, 6)]), (1 << 900, [(900, 900)])]
)
def test_ranges_of_a_mask(mask: int, runs: list[tuple[int, int]]) -> None:
    """From and to of each run of bits."""
    assert ranges(mask) == runs


def test_each_version_comes_once_with_its_snapshots() -> None:
    """In the order of paths; a version that came back has a gap."""
    forest = Forest()
    old, new = file_node(b"f", b"old", mtime=1), file_node(b"f", b"new", mtime=2)
    still = file_node(b"still", b"x", mtime=3)
    roots = [forest.put(dir_node(b"d", forest.put(one, still))) for one in (old, new, old)]
    roots.append(forest.put(dir_node(b"d", forest.put(still))))
    trees = Trees(forest, forest, pytest.fail)
    assert found(trees, roots) == [
        (b"d", [(0, 0b1111)]),
        (b"d/f", [(1, 0b101), (2, 0b010)]),
        (b"d/still", [(3, 0b1111)]),
    ]


def test_a_hundred_snapshots_cost_one_and_what_changed() -> None:
    """Trees that are the same in all are read once, however many snapshots there are."""
    forest = Forest()
    big = [dir_node(b"%d" % number, forest.put(file_node(b"f%d" % number))) for number in range(200)]
    roots = [
        forest.put(dir_node(b"log", forest.put(file_node(b"l", b"%d" % number))), dir_node(b"same", forest.put(*big)))
        for number in range(100)
    ]
    trees = Trees(forest, forest, pytest.fail)
    assert len(found(trees, roots)) == 1 + 1 + 1 + 200 + 200
    assert (len(forest.asked), len(set(forest.asked))) == (100 + 100 + 1 + 200, 100 + 100 + 1 + 200)


def test_a_directory_in_which_nothing_can_match_is_not_read() -> None:
    """Absolute patterns bind the walk."""
    forest = Forest()
    root = forest.put(dir_node(b"a", forest.put(file_node(b"x"))), dir_node(b"b", b"\1" * 32))
    walked = walk_versions(Trees(forest, forest, pytest.fail), [root], everything, lambda path: path != b"b")
    assert [one.path for one in walked] == [b"a", b"a/x", b"b"]


def test_a_missing_tree_is_told_once() -> None:
    """And the rest is found."""
    forest = Forest()
    lost = b"\1" * 32
    roots = [forest.put(dir_node(b"a", lost), file_node(b"f%d" % number)) for number in range(3)]
    told: list[str] = []
    paths = [path for path, _ in found(Trees(forest, forest, told.append), roots)]
    assert (paths, told) == ([b"a", b"f0", b"f1", b"f2"], [f"/a: its tree {lost.hex()[:16]} is in no index"])


def test_a_tree_that_is_none_is_told() -> None:
    """Bytes that are no tree, and names that reach outside, are problems and no results."""
    forest = Forest()
    bad = forest.put(file_node(b"x"))
    forest.blobs[bad] = b"{}"
    raw = forest.put(file_node(b"y"))
    forest.blobs[raw] = forest.blobs[raw].replace(b'"y"', b'".."')
    told: list[str] = []
    root = forest.put(dir_node(b"a", bad), dir_node(b"b", raw))
    assert [path for path, _ in found(Trees(forest, forest, told.append), [root])] == [b"a", b"b"]
    assert [line.partition(": ")[0] for line in told] == ["/a", "/b"]


def test_little_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees that were read go when newer ones need the room, and the answers stay the same."""
    monkeypatch.setattr("cli.browse.trees._KEPT_BYTES", 1000)
    forest = Forest()
    root = forest.put(*(dir_node(b"%03d" % n, forest.put(file_node(b"f%d" % n, mtime=n))) for n in range(300)))
    trees = Trees(forest, forest, pytest.fail)
    got = found(trees, [root])
    assert [versions[0][0] for path, versions in got if b"/" in path] == list(range(300))
    assert trees._size <= 1000 + len(forest.blobs[root])


# -- what differs ---------------------------------------------------------------------------------


def changes(forest: Forest, old: bytes, new: bytes) -> list[Change]:
    """All of them."""
    trees = Trees(forest, forest, pytest.fail)
    return list(compare(trees, dir_node(b"/", old), dir_node(b"/", new), b""))


def test_each_kind_of_change_has_its_letter() -> None:
    """Added, removed, content, metadata, type; what is below a new directory too."""
    forest = Forest()
    sub = forest.put(file_node(b"x", b"1"))
    old = forest.put(
        file_node(b"content", b"1", mtime=1), file_node(b"gone", b"12"), file_node(b"mode"), file_node(b"same"),
        file_node(b"time", b"t", mtime=1), file_node(b"type", b"123"), Node(b"link", "symlink", linktarget=b"a"),
        dir_node(b"touched", sub, mtime=1),
    )  # fmt: skip
    new = forest.put(
        file_node(b"content", b"22", mtime=2), file_node(b"mode", mode=0o600), file_node(b"same"),
        file_node(b"time", b"t", mtime=2), dir_node(b"type", sub), Node(b"link", "symlink", linktarget=b"b"),
        dir_node(b"touched", sub, mtime=2), dir_node(b"new", sub),
    )  # fmt: skip
    got = changes(forest, old, new)
    assert [(one.kind, one.path) for one in got] == [
        ("M", b"content"), ("-", b"gone"), ("M", b"link"), ("U", b"mode"), ("+", b"new"), ("+", b"new/x"),
        ("U", b"time"), ("T", b"type"), ("+", b"type/x"),
    ]  # fmt: skip
    totals = Totals()
    for one in got:
        totals.count(one)
    assert totals == Totals(
        added=2, removed=2, changed=2, metadata=2, directories_added=2,
        bytes_added=2, bytes_removed=5, bytes_before=1, bytes_after=2,
    )  # fmt: skip


def test_equal_trees_are_not_read() -> None:
    """What has one id is the same, however large it is."""
    forest = Forest()
    same = b"\1" * 32  # is in no index, so reading it would fail
    old = forest.put(dir_node(b"same", same), file_node(b"f", b"1"))
    new = forest.put(dir_node(b"same", same), file_node(b"f", b"2"))
    assert [(one.kind, one.path) for one in changes(forest, old, new)] == [("M", b"f")]
    assert changes(forest, same, same) == []


def test_what_can_not_be_read_is_not_called_new_or_gone() -> None:
    """A damaged side is told, and nothing is guessed."""
    forest = Forest()
    told: list[str] = []
    old, new = forest.put(file_node(b"f")), b"\2" * 32
    trees = Trees(forest, forest, told.append)
    assert list(compare(trees, dir_node(b"/", old), dir_node(b"/", new), b"")) == []
    assert len(told) == 1


@pytest.mark.parametrize("seed", range(5))
def test_versions_and_changes_agree(seed: int) -> None:
    """Random trees: a path differs between two snapshots exactly where its versions say so."""
    dice = random.Random(seed)
    forest = Forest()

    def grow(depth: int) -> bytes:
        nodes = [file_node(b"f%d" % n, b"%d" % dice.randrange(3)) for n in range(3) if dice.random() < 0.8]
        nodes += [dir_node(b"d%d" % n, grow(depth - 1)) for n in range(2) if depth and dice.random() < 0.8]
        return forest.put(*nodes)

    old, new = grow(3), grow(3)
    trees = Trees(forest, forest, pytest.fail)
    differ = {
        one.path
        for one in walk_versions(trees, [old, new], everything, everything)
        if len(one.versions) > 1 or one.versions[0].seen != 0b11
    }
    assert {one.path for one in changes(forest, old, new)} == differ
