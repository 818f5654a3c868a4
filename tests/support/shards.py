"""A backup in shards without a ledger: the engine's steps, one after the other, in this process."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from shared.repository.pack import BlobType
from shared.repository.repository import Repository
from shared.repository.tree import decode_tree
from tests.support.backups import Shop
from workers.backup.shards.run import run_shards
from workers.backup.spec import Selection, ShardsSpec

Results = list[dict[str, Any] | None]


def subtree(repo: Repository, tree: str, path: str) -> str:
    """The id of the tree of `path` below a tree, both in hex: those above it change with what else is there."""
    places = {
        blob.id: (pack, blob)
        for info in repo.store.list("index/")
        for pack, blobs in repo.load_index(info.key.rpartition("/")[2])
        for blob in blobs
        if blob.type is BlobType.TREE
    }
    at = bytes.fromhex(tree)
    for part in filter(None, os.fsencode(path).split(b"/")):
        nodes = {node.name: node for node in decode_tree(repo.load_blob(*places[at]))}
        below = nodes[part].subtree
        assert below is not None
        at = below
    return at.hex()


class Sharded:
    """One run of a shop's source, cut in `count`."""

    def __init__(self, shop: Shop, count: int = 4, *, kind: str = "incremental", **selection: Any) -> None:
        self.shop = shop
        self.count = count
        self.run = os.urandom(16).hex()
        self.plan = ""
        self._kind = kind
        self._selection = selection

    def step(self, number: int = -1, done: Results | None = None, *, cache: str = "") -> dict[str, Any]:
        """One engine: of the run itself, or of a shard."""
        run = self.run if number < 0 else f"{number:02x}{self.run[2:]}"
        spec = self.shop.spec(run=run, cache=cache)
        selection = dict(self._selection)
        spec.selection = Selection(selection.pop("paths", [self.shop.source]), **selection)
        spec.kind = "full" if self._kind == "full" else "incremental"
        spec.shards = ShardsSpec(self.run, self.count, self.plan, number, done or [])
        return run_shards(spec, self.shop.events.append)

    def cut(self) -> str:
        """The plan of it."""
        self.plan = self.step()["cut"]["plan"]
        return self.plan

    def do(self, numbers: Iterable[int] | None = None) -> Results:
        """Shards, all of them or some."""
        return [self.step(number) for number in (range(self.count) if numbers is None else numbers)]

    def whole(self) -> dict[str, Any]:
        """From the begin to the snapshot."""
        self.cut()
        return self.step(done=self.do())
