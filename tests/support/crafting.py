"""Repositories made blob by blob, so that each fault can be put into one for real."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import Any

from shared.repository.compression import compressor
from shared.repository.index import encode_index
from shared.repository.pack import Blob, BlobType, PackBuilder, from_records
from shared.repository.repository import pack_key
from shared.repository.snapshot import Snapshot, encode_snapshot
from shared.repository.tree import MODE_DIR, Node, encode_tree
from tests.support.backups import OLD, Shop


class Crafted:
    """Writes into a shop's repository. `flush` ends the packs, `index` lists them, `snapshot` does both."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.repo = shop.open()
        self.packs: list[tuple[bytes, list[Blob]]] = []  # those that the next index file lists
        self._builders: dict[BlobType, tuple[PackBuilder, bytearray]] = {}
        self._seen: set[tuple[BlobType, bytes]] = set()

    def blob(self, kind: BlobType, content: bytes, *, blob_id: bytes = b"") -> bytes:
        """Add a blob; its id, which may be a false one."""
        blob_id = blob_id or hashlib.sha256(content).digest()
        packed = compressor().compress(content)
        if len(packed) < len(content):
            return self.raw(kind, blob_id, packed, len(content))
        return self.raw(kind, blob_id, content, 0)

    def raw(self, kind: BlobType, blob_id: bytes, stored: bytes, uncompressed: int) -> bytes:
        """Add a blob as it is to be sealed, whatever its index entry says."""
        if kind not in self._builders:
            data = bytearray()
            self._builders[kind] = PackBuilder(self.repo.sealer(), kind, data.extend), data
        builder, _ = self._builders[kind]
        if (kind, blob_id) not in self._seen:
            self._seen.add((kind, blob_id))
            builder.add(blob_id, stored, uncompressed)
        return blob_id

    def file(self, name: bytes, *contents: bytes, **fields: Any) -> Node:
        """A file of these blobs; given `content`, they are not stored and only count for its size."""
        if "content" not in fields:
            fields["content"] = [self.blob(BlobType.DATA, content) for content in contents]
        defaults = {"mode": 0o644, "mtime": OLD, "atime": OLD, "uid": os.geteuid(), "gid": os.getegid(), "links": 1}
        return Node(name, "file", **{**defaults, "size": sum(map(len, contents)), **fields})

    def directory(self, name: bytes, *nodes: Node, subtree: bytes = b"", **fields: Any) -> Node:
        """A directory of these nodes, or of a tree that is stored already."""
        tree = subtree or self.tree(*nodes)
        defaults = {"mode": MODE_DIR | 0o755, "mtime": OLD, "atime": OLD, "uid": os.geteuid(), "gid": os.getegid()}
        return Node(name, "dir", subtree=tree, **{**defaults, **fields})

    def tree(self, *nodes: Node) -> bytes:
        """Store a tree; its id."""
        return self.blob(BlobType.TREE, encode_tree(nodes))

    def flush(self) -> list[bytes]:
        """Store the packs that are open; their ids."""
        ids = []
        for builder, data in self._builders.values():
            pack = builder.close()
            self.repo.store.put(pack_key(pack), data)
            self.packs.append((pack, list(from_records(builder.type, builder.records))))
            ids.append(pack)
        self._builders.clear()
        return ids

    def index(self, packs: Iterable[tuple[bytes, list[Blob]]] | None = None) -> str:
        """Store an index file that lists these packs, or those since the last one; its id."""
        listed = self.packs if packs is None else list(packs)
        self.packs = []
        return self.repo.save("index", *encode_index(listed))

    def snapshot(self, *nodes: Node, tree: bytes = b"", paths: tuple[bytes, ...] = (b"/data",)) -> str:
        """Store a snapshot whose top holds these nodes, or is this tree; its id."""
        top = tree or self.tree(*nodes)
        self.flush()
        if self.packs:
            self.index()
        return self.repo.save("snapshots", encode_snapshot(Snapshot(OLD, top, list(paths), hostname="web1")))

    def pack_path(self, pack: bytes) -> str:
        """The file of a pack."""
        return os.path.join(self.shop.repository, pack_key(pack))


def change_object(path: str, change: Any) -> None:
    """Replace a stored object by what `change(its bytes)` gives, under its old name."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    changed = change(data)
    os.chmod(path, 0o600)
    with open(path, "wb") as file:
        file.write(data if changed is None else changed)
