"""All records of an index cache, a 256th of the ids at a time: for who compares all that is stored with what is used.

Each segment is read once from front to back, in bounded memory, but for the packs: each is held as long as the scan.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from shared.repository.indexcache.layout import RECORD
from shared.repository.indexcache.segment import WINDOW_BLOCKS, Segment

PARTS = 256  # by the first byte of a blob's id
PackEntry = tuple[bytes, int, bytes]  # a pack's id, its size in bytes, and the id of the index file that lists it


class Scan:
    """See the module. `packs` has, for each segment, what its pack numbers stand for; None where it counts no more."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.packs: list[list[PackEntry | None]] = []
        self._segments = segments
        for segment in segments:
            table: list[PackEntry | None] = [None] * segment.layout.packs
            for pack, size, number, source in segment.packs():
                table[number] = (pack, size, segment.sources[source].index_id)
            self.packs.append(table)

    def parts(self) -> Iterator[list[tuple[int, bytes]]]:
        """For each first byte of an id, ascending: (segment's number, its records as `RECORD`). Raises Corrupt."""
        cursors = [_Cursor(segment) for segment in self._segments]
        for first in range(PARTS):
            yield [(number, cursor.take(first)) for number, cursor in enumerate(cursors)]


class _Cursor:
    """A segment's records, in order."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._table = segment.layout.records_table
        self._block = 0
        self._buffer = b""

    def take(self, first: int) -> bytes:
        """The records from here on whose ids begin with at most this byte."""
        parts = []
        while True:
            count = self._count(first)
            parts.append(self._buffer[: count * RECORD.size])
            self._buffer = self._buffer[count * RECORD.size :]
            if self._buffer or self._block == self._table.blocks:
                return b"".join(parts)
            end = min(self._block + WINDOW_BLOCKS, self._table.blocks)
            self._buffer = self._segment.read_blocks(self._table, self._block, end)
            self._block = end

    def _count(self, first: int) -> int:
        buffer, size = self._buffer, RECORD.size
        return bisect_left(range(len(buffer) // size), first + 1, key=lambda at: buffer[at * size])
