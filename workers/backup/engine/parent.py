"""A parent's directory as a record: from the local cache, else from the tree in the repository."""

from __future__ import annotations

from typing import Any

from shared.repository.crypto import Sealer
from shared.repository.errors import Damaged
from shared.repository.pack import Blob, BlobType
from shared.repository.repository import open_blob, pack_key
from shared.repository.tree import Node, decode_tree, encode_node
from shared.storage.api import MissingObject, ObjectStore, Permanent
from workers.backup.engine.nodes import DIR_TAIL
from workers.backup.engine.treecache import NO_REF, Entry, Record, Ref, SubEntry, TreeReader


class ParentReader:
    """What the parent snapshot held, directory by directory. A miss is no error: what is unknown is read."""

    def __init__(self, cache: TreeReader, store: ObjectStore, sealer: Sealer) -> None:
        self._cache = cache
        self._store = store
        self._sealer = sealer

    def record(self, ref: Ref, tree: bytes, location: tuple[Any, ...]) -> Record | None:
        """The record of `tree`. `location`: (pack, offset, length, uncompressed) of its blob, or nothing."""
        found = self._cache.read(ref, tree)
        if found is not None or not location:
            return found
        pack, offset, length, uncompressed = location
        blob = Blob(tree, BlobType.TREE, offset, length, uncompressed)
        try:
            stored = self._store.get_range(pack_key(pack), offset, length)
            return record_of(tree, decode_tree(open_blob(self._sealer, blob, stored)))
        except (Damaged, MissingObject, Permanent):  # Permanent: a pack that ends too early, a disk's EIO
            return None  # verification's business; here it only means that everything is read


def record_of(tree: bytes, nodes: list[Node]) -> Record:
    """The record that a scan of these nodes would have left."""
    subs: list[SubEntry] = []
    entries: list[Entry] = []
    for node in nodes:
        raw = encode_node(node)
        key = (node.inode, node.size, node.mtime, node.ctime)
        if node.type == "dir" and node.subtree is not None:
            subs.append((node.name, raw[:-DIR_TAIL], key, node.subtree, NO_REF))
        else:
            entries.append((node.name, raw, key, b"".join(node.content or [])))
    return Record(tree, subs, entries)
