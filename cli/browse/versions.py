"""All versions of all paths in some snapshots, each tree read once for each path at which it stands.

The snapshots are walked side by side. At one path they mostly have one and the same tree, which is then read for all
of them; where they differ, each tree that is not like another is. So a hundred snapshots cost what one costs, and what
has changed between them. Which snapshots are meant is a bit mask: bit 0 is the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cli.browse.nodes import version_key
from cli.browse.trees import AHEAD, Trees
from shared.repository.tree import Node


@dataclass(slots=True)
class Version:
    """What stood at one path, and in which snapshots: `seen` is a bit mask."""

    node: Node
    seen: int


@dataclass(slots=True)
class Found:
    """A path (relative) and its versions, those that came first first."""

    path: bytes
    versions: list[Version]


def walk_versions(
    trees: Trees,
    roots: Sequence[bytes],
    match: Callable[[bytes, bytes], bool],
    may_hold: Callable[[bytes], bool],
) -> Iterator[Found]:
    """Every path that matches, by name, a directory before what it holds.

    `roots`: the snapshots' trees, the oldest first. `match` gets path and name; `may_hold` a directory's path, and
    says whether to look into it.
    """
    top: dict[bytes, int] = {}
    for number, root in enumerate(roots):
        top[root] = top.get(root, 0) | 1 << number
    # Of each directory that is still to be looked into: its path, and its trees with their snapshots. An entry that
    # has a `Found` stands for a path that is to be given.
    stack: list[tuple[bytes, dict[bytes, int], Found | None]] = [(b"", top, None)]
    while stack:
        path, here, found = stack.pop()
        if found is not None:
            yield found
        if not here or not may_hold(path):
            continue
        _read_ahead(trees, here, stack)
        names: dict[bytes, list[tuple[Node, int]]] = {}
        for tree, mask in here.items():
            for node in trees.nodes(tree, path) or ():
                names.setdefault(node.name, []).append((node, mask))
        below = []
        for name in sorted(names):
            child = path + b"/" + name if path else name
            hit = Found(child, merge(names[name])) if match(child, name) else None
            subtrees: dict[bytes, int] = {}
            for node, mask in names[name]:
                if node.subtree is not None:
                    subtrees[node.subtree] = subtrees.get(node.subtree, 0) | mask
            if hit or subtrees:
                below.append((child, subtrees, hit))
        stack += reversed(below)


def _read_ahead(
    trees: Trees, here: dict[bytes, int], stack: list[tuple[bytes, dict[bytes, int], Found | None]]
) -> None:
    """The trees of this directory, with those that come next."""
    if all(trees.has(tree) for tree in here):
        return
    wanted = list(here)
    for _, later, _ in stack[: -AHEAD - 1 : -1]:
        if len(wanted) >= AHEAD:
            break
        wanted += later
    trees.ahead(wanted)


def merge(nodes: list[tuple[Node, int]]) -> list[Version]:
    """Nodes of one path with their snapshots as versions, ordered by the first snapshot that has it."""
    versions: dict[tuple[object, ...], Version] = {}
    for node, mask in nodes:
        version = versions.setdefault(version_key(node), Version(node, 0))
        version.seen |= mask
    return sorted(versions.values(), key=lambda version: version.seen & -version.seen)


def ranges(mask: int) -> list[tuple[int, int]]:
    """The runs of set bits, as the numbers of the first and the last of each."""
    found: list[tuple[int, int]] = []
    at = 0
    while mask:
        low = (mask & -mask).bit_length() - 1
        mask >>= low
        at += low
        length = ((mask + 1) & -(mask + 1)).bit_length() - 1
        found.append((at, at + length - 1))
        mask >>= length
        at += length
    return found
