"""A run: index files just loaded, sorted in memory and written as one small segment."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence

from shared.repository.errors import Damaged
from shared.repository.indexcache.layout import PACK, RECORD, Layout, Source
from shared.repository.indexcache.writer import SegmentWriter, renumber
from shared.repository.pack import Blob, pack_size

RUN_RECORDS = 100_000  # some 10 MB in memory; a run is closed once it has as many
_BATCH = 1 << 15  # records that are joined and written at once


class Run:
    """Collects the records of index files until there are enough for a segment."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self._packs: list[tuple[bytes, int, int]] = []  # id, size, source
        self._records: list[bytes] = []

    @property
    def full(self) -> bool:
        """Whether it is time to write it."""
        return len(self._records) >= RUN_RECORDS

    def add(self, index: bytes, packs: Iterable[tuple[bytes, Sequence[Blob]]]) -> None:
        """Take all that one index file lists, or nothing where reading it raises. Raises Damaged."""
        listed: list[tuple[bytes, int, int]] = []
        records: list[bytes] = []
        pack_record = RECORD.pack
        first, source = len(self._packs), len(self.sources)
        try:
            for pack_id, blobs in packs:
                number = first + len(listed)
                listed.append((pack_id, pack_size(list(blobs)), source))
                records += [
                    pack_record(blob_id, kind, number, offset, length, uncompressed)
                    for blob_id, kind, offset, length, uncompressed in blobs
                ]
        except struct.error as error:
            raise Damaged(f"index {index.hex()}: a number beyond 32 bits: {error}") from error
        self._packs += listed
        self._records += records
        self.sources.append(Source(index, len(listed), len(records)))

    def layout(self, key: bytes) -> Layout:
        """The layout of a segment that holds this run."""
        return Layout.new(key, self.sources)

    def write(self, write: Callable[[bytes], object], layout: Layout) -> None:
        """Write the segment; may be called again after a failure."""
        writer = SegmentWriter(write, layout)
        order = sorted(range(len(self._packs)), key=self._packs.__getitem__)
        numbers = [0] * len(order)
        for new, old in enumerate(order):
            numbers[old] = new
        writer.packs(b"".join(PACK.pack(*self._packs[old]) for old in order))
        self._records.sort()
        size = RECORD.size
        for at in range(0, len(self._records), _BATCH):
            batch = renumber(b"".join(self._records[at : at + _BATCH]), numbers)
            writer.records([batch[start : start + size] for start in range(0, len(batch), size)])
        writer.finish()
