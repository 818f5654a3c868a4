"""The trees of the directories that were cut, from what each shard has recorded. Pure apart from load and store.

A shard's root is a tree as any; in a directory that is cut it has only the shard's own names, and those of directories
that are cut in their turn, which all shards have. So a merge goes down the plan's directories, and takes the rest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence

from shared.repository.tree import Node, encode_tree
from workers.backup.shards.plan import Plan

Load = Callable[[bytes], list[Node]]  # the nodes of a tree
Store = Callable[[bytes, bytes], None]  # a tree's id and its content


def merge(plan: Plan, roots: Sequence[bytes], load: Load, store: Store) -> tuple[bytes, list[str]]:
    """The root of the whole, of the roots of all shards; and what some of them have not seen, for a person.

    A tree is stored before the one that refers to it.
    """
    problems: list[str] = []
    return _merge(plan, b"/", roots, load, store, problems), problems


def _merge(plan: Plan, path: bytes, trees: Sequence[bytes], load: Load, store: Store, problems: list[str]) -> bytes:
    found: dict[bytes, list[Node]] = {}
    for tree in trees:
        for node in load(tree):
            found.setdefault(node.name, []).append(node)
    nodes = []
    for name, alike in found.items():
        # Looked at by several at different times: what was changed last is what there is.
        node = max(alike, key=lambda one: (one.ctime, one.mtime))
        below = os.path.join(path, name)
        if below in plan.cuts:
            parts = [one.subtree for one in alike if one.subtree is not None]
            if len(parts) < len(trees):
                # Not mounted everywhere, or it came or went meanwhile: parts of it may be missing.
                problems.append(f"{shown(below)}: no directory for {len(trees) - len(parts)} of {len(trees)} shards")
            if node.subtree is not None:
                node.subtree = _merge(plan, below, parts, load, store, problems)
        nodes.append(node)
    raw = encode_tree(nodes)
    made = hashlib.sha256(raw).digest()
    store(made, raw)
    return made


def shown(path: bytes) -> str:
    """A path as it stands among problems."""
    return os.fsdecode(path).encode(errors="backslashreplace").decode()
