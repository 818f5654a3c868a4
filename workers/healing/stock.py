"""New packs of blobs that were brought back, and the index files that list what is here.

Invariant: a pack is listed only once it has been put and read back, and an index file names nothing else. So whatever
is killed, what was there before is there still: this only adds.
"""

from __future__ import annotations

from collections.abc import Callable

from shared.repository.pack import Blob, BlobType, PackBuilder, from_records
from shared.repository.repository import Repository, pack_key
from workers.healing.putting import put_named
from workers.healing.reading import Whole
from workers.maintenance.findings import MissingBlob
from workers.maintenance.prune_index import IndexRewrite
from workers.maintenance.spec import Healing


class Stock:
    """For one round. `look` raises where our lock is gone; nothing is put in a dry run."""

    def __init__(self, repo: Repository, pack_size: int, done: Healing, look: Callable[[], None]) -> None:
        self.packs: set[bytes] = set()  # new ones
        self.listed: set[MissingBlob] = set()  # of what would be listed in a dry run
        self._repo = repo
        self._pack_size = pack_size
        self._done = done
        self._open: dict[BlobType, tuple[PackBuilder, bytearray]] = {}
        self._index = IndexRewrite(repo, frozenset(), frozenset(), look)
        self._counted = 0  # of its files

    def add(self, whole: Whole) -> None:
        """Take a blob into a new pack. Raises StorageError."""
        kind = whole.blob.type
        if kind not in self._open:
            data = bytearray()
            self._open[kind] = PackBuilder(self._repo.sealer(), kind, data.extend, target=self._pack_size), data
        builder, _ = self._open[kind]
        builder.add_sealed(whole.blob.id, whole.sealed, whole.blob.uncompressed)
        self._done.blobs_healed += 1
        if builder.full:
            self._close(kind)

    def list_pack(self, pack: bytes, blobs: list[Blob]) -> None:
        """Have a pack listed that lies here. Raises StorageError, Locked."""
        if self._done.dry_run:
            self.listed.update((int(blob.type), blob.id) for blob in blobs)
        else:
            self._index.add(pack, blobs)

    def finish(self) -> None:
        """Put what is left. Raises StorageError, Locked."""
        for kind in list(self._open):
            self._close(kind)
        self._index.finish()
        self._done.index_files_written += self._index.written - self._counted
        self._counted = self._index.written

    def _close(self, kind: BlobType) -> None:
        builder, data = self._open.pop(kind)
        records = builder.records
        pack = builder.close()
        self._done.bytes_healed += len(data)
        if self._done.dry_run:
            return
        problem = put_named(self._repo.store, pack_key(pack), data, pack.hex())
        if problem:
            self._done.lose(pack_key(pack), f"a new pack of blobs that were found: {problem}")
            return
        self.packs.add(pack)
        self._index.add(pack, list(from_records(kind, records)))
