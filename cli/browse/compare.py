"""What differs between two trees. What has one and the same id is equal, and is not read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cli.browse.nodes import same_content, same_metadata
from cli.browse.trees import Trees
from shared.repository.tree import Node

ADDED, REMOVED, CONTENT, METADATA, TYPE = "+", "-", "M", "U", "T"


@dataclass(slots=True)
class Change:
    """One path (relative) that differs; `old` or `new` is None where it is not there."""

    kind: str
    path: bytes
    old: Node | None
    new: Node | None


@dataclass(slots=True)
class Totals:
    """How much differs: files and other nodes, directories, and bytes of files."""

    added: int = 0
    removed: int = 0
    changed: int = 0
    metadata: int = 0
    directories_added: int = 0
    directories_removed: int = 0
    bytes_added: int = 0
    bytes_removed: int = 0
    bytes_before: int = 0  # of those whose content changed
    bytes_after: int = 0

    def count(self, change: Change) -> None:
        """One change more. What is of another type now is counted as removed and added."""
        old, new = change.old, change.new
        if change.kind == METADATA:
            self.metadata += 1
        elif change.kind == CONTENT and old is not None and new is not None:
            self.changed += 1
            self.bytes_before += old.size
            self.bytes_after += new.size
        else:
            if old is not None:
                self.directories_removed += old.type == "dir"
                self.removed += old.type != "dir"
                self.bytes_removed += old.size if old.type == "file" else 0
            if new is not None:
                self.directories_added += new.type == "dir"
                self.added += new.type != "dir"
                self.bytes_added += new.size if new.type == "file" else 0


def compare(trees: Trees, old: Node, new: Node, path: bytes) -> Iterator[Change]:
    """What differs between two directories that stand at `path`, by name; a directory before what it holds."""
    stack: list[tuple[bytes, Node | None, Node | None]] = [(path, old, new)]
    while stack:
        at, before, after = stack.pop()
        if before is not old or after is not new:
            kind = _kind(before, after)
            if kind:
                yield Change(kind, at, before, after)
        one = before.subtree if before is not None else None
        other = after.subtree if after is not None else None
        if one == other:
            continue
        trees.ahead(tree for tree in (one, other) if tree is not None)
        was = trees.nodes(one, at) if one is not None else []
        now = trees.nodes(other, at) if other is not None else []
        if was is None or now is None:
            continue  # told; to call all of the other side new or gone would be a guess
        left, right = {node.name: node for node in was}, {node.name: node for node in now}
        stack += [
            (at + b"/" + name if at else name, left.get(name), right.get(name))
            for name in sorted(left.keys() | right.keys(), reverse=True)
        ]


def _kind(old: Node | None, new: Node | None) -> str:
    if old is None:
        return ADDED
    if new is None:
        return REMOVED
    if old.type != new.type:
        return TYPE
    if old.type != "dir" and not same_content(old, new):
        return CONTENT
    return "" if same_metadata(old, new) else METADATA
