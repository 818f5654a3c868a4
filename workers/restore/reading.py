"""Blobs out of packs: near ones in one read, each decoded once.

Invariant: what is given as content has been authenticated, unpacked within its stated size, and hashed;
one blob that is damaged does not keep its neighbours from being read.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from typing import NamedTuple

import zstandard

from shared.repository.compression import DATA_BLOB_MAX, TREE_BLOB_MAX, decompress
from shared.repository.crypto import OVERHEAD, Buffer, Sealer
from shared.repository.errors import Damaged
from shared.repository.pack import BlobType
from shared.repository.repository import pack_key
from shared.storage.api import MissingObject, ObjectStore, Permanent

_ROOM = 8 << 20  # bytes; the largest blob of restic's chunker. Only what is used of it takes memory


class Span(NamedTuple):
    """A blob's place in its pack. `length` is as stored; `uncompressed` is 0 where it is stored bare."""

    offset: int
    length: int
    uncompressed: int
    id: bytes


class Reader:
    """Reads the blobs of packs. For one thread."""

    def __init__(self, store: ObjectStore, sealer: Sealer, *, remote: bool) -> None:
        self._store = store
        self._sealer = sealer
        self._unzip = zstandard.ZstdDecompressor()
        # What is decrypted, one blob after the other. Not a bytearray, which writes zeros to all of it.
        self._room = memoryview(mmap.mmap(-1, _ROOM, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        # Where each request waits for a network, it is cheaper to read on than to ask again. What is read at once is
        # memory that each helper holds: on a disk more than a MiB gains nothing, and over a network more than 4 little
        # (a GiB of large files from MinIO: 126 MiB in all at the peak, where it was 171 with 16, and no slower).
        self._gap = (1 << 20) if remote else (64 << 10)
        self._most = (4 << 20) if remote else (1 << 20)

    def blobs(self, pack: bytes, spans: list[Span], blob_type: BlobType) -> Iterator[tuple[Span, Buffer | Damaged]]:
        """The content, or what is wrong with it, of each of these blobs of one pack, ascending by offset.

        Each of `spans` once. Content is good until the next is asked for. Raises StorageError, but not for
        a pack that is missing or cut: that is given as damage.
        """
        for run in self._runs(sorted(spans)):
            yield from self._run(pack, run, blob_type)

    def trees(self, pack: bytes, spans: list[Span]) -> Iterator[tuple[Span, bytes | Damaged]]:
        """As `blobs`, for trees; their content is good for ever."""
        for span, content in self.blobs(pack, spans, BlobType.TREE):
            yield span, content if isinstance(content, Damaged) else bytes(content)

    def _runs(self, spans: list[Span]) -> Iterator[list[Span]]:
        run: list[Span] = []
        end = 0
        for span in spans:
            stop = span.offset + span.length
            if run and (span.offset - end > self._gap or stop - run[0].offset > self._most):
                yield run
                run = []
            run.append(span)
            end = max(end, stop) if len(run) > 1 else stop
        if run:
            yield run

    def _run(self, pack: bytes, run: list[Span], blob_type: BlobType) -> Iterator[tuple[Span, Buffer | Damaged]]:
        start = run[0].offset
        stop = max(span.offset + span.length for span in run)
        try:
            stored = memoryview(self._store.get_range(pack_key(pack), start, stop - start))
        except MissingObject:
            damage = Damaged(f"pack {pack.hex()} is missing at {self._store.url}")
            yield from ((span, damage) for span in run)
            return
        except Permanent as error:
            if len(run) > 1:  # cut: what lies before the cut can still be had
                for span in run:
                    yield from self._run(pack, [span], blob_type)
                return
            yield run[0], Damaged(f"pack {pack.hex()} can't be read: {error}")
            return
        for span in run:
            at = span.offset - start
            try:
                yield span, self.open(span, stored[at : at + span.length], blob_type)
            except Damaged as error:
                yield span, Damaged(f"pack {pack.hex()}: blob {span.id.hex()[:16]}: {error.args[0]}")

    def open(self, span: Span, sealed: Buffer, blob_type: BlobType) -> Buffer:
        """The content in a blob's stored bytes, good until the next is opened. Raises Damaged."""
        size = span.uncompressed or span.length - OVERHEAD
        limit = TREE_BLOB_MAX if blob_type == BlobType.TREE else DATA_BLOB_MAX
        if size > limit:
            raise Damaged(f"it would unpack to {size} bytes, at most {limit} are allowed")
        room = self._room if len(sealed) <= _ROOM + OVERHEAD else memoryview(bytearray(len(sealed)))
        content: Buffer = room[: self._sealer.unseal_into(sealed, room)]
        if span.uncompressed:
            content = decompress(content, span.uncompressed, self._unzip)
        got = hashlib.sha256(content).digest()
        if got != span.id:
            raise Damaged(f"its content hashes to {got.hex()[:16]}")
        return content
