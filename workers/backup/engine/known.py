"""What is known to be stored: the site's index, and what this run has claimed, uploaded and indexed.

Invariants: a pack enters an index file only when it is durable; an index file is written at least every
60 s, 512 MiB or 50,000 blobs; what is indexed is forgotten here, so memory is bounded by those; and our
lock is looked at before each index file is put. `relied_on` are the index files that an answer of this pass
may stand on; where one of them is gone at its end, so may be what was taken as stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from shared.repository.index import FLUSH_BLOBS
from shared.repository.indexcache import IndexCache
from shared.repository.locks import RepositoryLock
from shared.repository.pack import (
    RECORD_SIZE,
    Blob,
    BlobType,
    content_of_records,
    ids_of_records,
    to_records,
)
from shared.repository.repository import Repository
from workers.backup.engine.indexwriter import IndexWriter, Queued, blobs_of
from workers.backup.engine.packer import StoredPack

FLUSH_BYTES = 512 << 20
FLUSH_SECONDS = 60.0

Answer = Callable[[bytes], None]


class Known:
    """See the module. `ready` once the index may be read."""

    def __init__(self, repo: Repository, lock: RepositoryLock, on_packed: Callable[[str], None]) -> None:
        self.ready = False
        self.bytes_stored = 0
        self.packs_stored = 0
        self.relied_on: set[str] = set()
        self._repo = repo
        self._lock = lock
        self._on_packed = on_packed
        self._index: IndexCache | None = None
        self._writer: IndexWriter | None = None
        self._absent: frozenset[bytes] = frozenset()
        self._claimed: dict[BlobType, set[bytes]] = {BlobType.DATA: set(), BlobType.TREE: set()}
        self._pending: list[Queued] = []
        self._own: dict[str, list[Queued]] = {}  # index files that we wrote and the cache has not taken up yet
        self._pending_blobs = 0
        self._pending_bytes = 0
        self._pending_since = 0.0
        self._questions: list[tuple[bytes, Answer]] = []

    def open(self, index: IndexCache, absent: frozenset[bytes], journaled: Iterable[str]) -> int:
        """From here on the index answers. Packs (hex) that earlier attempts journaled are indexed; how many were.

        Questions that waited are answered only after that, or what those packs hold would be stored again.
        """
        self._index = index
        self._writer = IndexWriter(self._repo, index.prepare)
        self._absent = absent
        self.ready = True
        resumed = self._resume(journaled)
        self.begin_pass()
        questions, self._questions = self._questions, []
        for ids, answer in questions:
            self.ask(ids, answer)
        return resumed

    def load_index(self, name: str) -> Iterator[tuple[bytes, list[Blob]]]:
        """What an index file (hex) lists. Our own are not fetched and decoded again. Raises MissingObject, Damaged."""
        own = self._own.pop(name, None)
        if own is None:
            return iter(self._repo.load_index(name))
        return ((pack, blobs_of(parts)) for pack, parts in own)

    def begin_pass(self) -> None:
        """What earlier passes relied on does not matter any more."""
        self.relied_on = set(self.index.index_ids)

    @property
    def index(self) -> IndexCache:
        """The index. Raises RuntimeError before `open`."""
        if self._index is None:
            raise RuntimeError("the index is not open yet")
        return self._index

    def ask(self, ids: bytes, answer: Answer) -> None:
        """Claim data blobs, ids one behind the other, for who asks; the answer has a byte each, 1 for new."""
        if not self.ready:
            self._questions.append((ids, answer))
            return
        listed = [ids[at : at + 32] for at in range(0, len(ids), 32)]
        answer(bytes(self.claim(BlobType.DATA, listed)))

    def drop_questions(self) -> None:
        """Forget questions that wait: nobody wants the answers any more."""
        self._questions.clear()

    def drop_claims(self) -> None:
        """Nobody works on what was claimed any more; all that was stored is indexed."""
        for claimed in self._claimed.values():
            claimed.clear()
        if self.ready:
            self.index.refresh()

    def claim(self, blob_type: BlobType, ids: Sequence[bytes]) -> list[bool]:
        """Whether each blob is to be stored by the caller; it is then claimed for it."""
        claimed = self._claimed[blob_type]
        out = []
        missing = self.index.missing(blob_type, ids, self._absent) if self.index.index_ids else [True] * len(ids)
        for blob_id, new in zip(ids, missing, strict=True):
            if new and blob_id not in claimed:
                claimed.add(blob_id)
                out.append(True)
            else:
                out.append(False)
        return out

    def not_stored(self, blob_type: BlobType, ids: Sequence[bytes]) -> list[bytes]:
        """Those of these blobs that are neither indexed nor claimed."""
        claimed = self._claimed[blob_type]
        missing = self.index.missing(blob_type, ids, self._absent)
        return [blob_id for blob_id, lacks in zip(ids, missing, strict=True) if lacks and blob_id not in claimed]

    def locate_tree(self, tree: bytes) -> tuple[Any, ...]:
        """Where a tree's blob lies, as (pack, offset, length, uncompressed); nothing where it does not."""
        (found,) = self.index.lookup(BlobType.TREE, [tree], self._absent)
        return (found.pack, found.offset, found.length, found.uncompressed) if found else ()

    def _resume(self, packs: Iterable[str]) -> int:
        from shared.repository.errors import Damaged
        from shared.storage.api import MissingObject

        wanted = {bytes.fromhex(pack) for pack in packs} - self._absent
        if not wanted:
            return 0
        wanted -= {pack for pack, _ in self.index.packs() if pack in wanted}
        resumed = 0
        for pack in sorted(wanted):
            try:
                blobs = self._repo.pack_header(pack)
            except (MissingObject, Damaged):
                continue  # never finished, or pruned meanwhile: its blobs are stored again
            for blob in blobs:
                self._claimed[blob.type].add(blob.id)
            parts = [(kind, to_records(blob for blob in blobs if blob.type is kind)) for kind in BlobType]
            self._queue(pack, sum(blob.length for blob in blobs), parts, len(blobs))
            resumed += 1
        self.flush()
        self.index.refresh()
        return resumed

    def stored(self, stored: StoredPack) -> int:
        """A pack of this run is durable: it may be indexed. Returns the bytes of content that it brought."""
        pack, size, kind, records = stored
        self.packs_stored += 1
        self.bytes_stored += size
        self._on_packed(pack.hex())
        self._queue(pack, size, [(BlobType(kind), records)], len(records) // RECORD_SIZE)
        return content_of_records(records)

    def _queue(self, pack: bytes, size: int, parts: list[tuple[BlobType, bytes]], blobs: int) -> None:
        if not self._pending:
            self._pending_since = time.monotonic()
        self._pending.append((pack, parts))
        self._pending_blobs += blobs
        self._pending_bytes += size

    def flush_if_due(self) -> None:
        """Begin an index file where one is due, and take up one that is stored. Raises Locked, StorageError."""
        if self._writer is None:
            return
        if self._take_up(self._writer, wait=False):
            self.index.refresh()
            self.relied_on |= self.index.index_ids
        if not self._writer.busy and self._is_due():
            self._begin(self._writer)

    def flush(self) -> None:
        """Write what is pending as an index file. Raises Locked where our lock is gone, StorageError."""
        if self._writer is None:
            return
        self._take_up(self._writer, wait=True)
        if self._pending:
            self._begin(self._writer)
            self._take_up(self._writer, wait=True)

    def end(self) -> None:
        """Before the lock is given up, however the run has ended: no index file is put after that."""
        if self._writer is not None:
            self._writer.end()

    def _is_due(self) -> bool:
        return bool(self._pending) and (
            self._pending_blobs >= FLUSH_BLOBS
            or self._pending_bytes >= FLUSH_BYTES
            or time.monotonic() - self._pending_since >= FLUSH_SECONDS
        )

    def _begin(self, writer: IndexWriter) -> None:
        self._lock.ensure_held()
        packs, self._pending = self._pending, []
        self._pending_blobs = self._pending_bytes = 0
        writer.start(packs)

    def _take_up(self, writer: IndexWriter, *, wait: bool) -> bool:
        """Whether an index file was stored: what it lists is the index's to know from the next refresh on."""
        done = writer.take(wait=wait)
        if done is None:
            return False
        name, packs = done
        self.relied_on.add(name)
        self._own[name] = packs
        for _, parts in packs:
            for kind, records in parts:
                self._claimed[kind].difference_update(ids_of_records(records))
        return True
