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


def merge(plan: Plan, roots: Sequence[bytes], load: Load, store: Store) -> bytes:
    """The root of the whole, of the roots of all shards. A tree is stored before the one that refers to it."""
    return _merge(plan, b"/", roots, load, store)


def _merge(plan: Plan, path: bytes, trees: Sequence[bytes], load: Load, store: Store) -> bytes:
    found: dict[bytes, list[Node]] = {}
    for tree in trees:
        for node in load(tree):
            found.setdefault(node.name, []).append(node)
    nodes = []
    for name, alike in found.items():
        # Looked at by several at different times: what was changed last is what there is.
        node = max(alike, key=lambda one: (one.ctime, one.mtime))
        below = os.path.join(path, name)
        if node.subtree is not None and below in plan.cuts:
            parts = [one.subtree for one in alike if one.subtree is not None]
            node.subtree = _merge(plan, below, parts, load, store)
        nodes.append(node)
    raw = encode_tree(nodes)
    made = hashlib.sha256(raw).digest()
    store(made, raw)
    return made
