"""Merging segments: which ones, and how in bounded memory.

Size-tiered: a segment stays as it is while it is more than twice as large as all smaller ones
together. So there are at most some log3(n) of them, and a record is rewritten about as often.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import compress

from shared.repository.indexcache.layout import KEY_SIZE, PACK, RECORD, Layout, Source
from shared.repository.indexcache.segment import Corrupt, Segment
from shared.repository.indexcache.writer import SegmentWriter, renumber

FAN_IN = 128  # segments merged at once; bounds open files
SMALL = 4096  # records; below that a merge costs less than one more segment to ask
_DEAD = 0xFFFFFFFF
_WINDOW_RECORDS = 1 << 17  # records held at once by all inputs together, some 15 MB as objects
_BATCH_PACKS = 1 << 13


def choose(segments: Sequence[Segment]) -> list[Segment]:
    """The segments to be merged into one next; none where the tiers are in order."""
    ordered = sorted(segments, key=lambda segment: segment.live_blobs)
    smaller = cut = 0
    for position, segment in enumerate(ordered):
        if position and segment.live_blobs <= max(2 * smaller, SMALL):
            cut = position + 1
        smaller += segment.live_blobs
    # Records of index files that are gone cost space and reads: a quarter is enough to be rid of them.
    wasteful = [segment for segment in ordered[cut:] if 4 * segment.live_blobs < 3 * segment.layout.records]
    return (ordered[:cut] + wasteful)[:FAN_IN]


def merged_layout(key: bytes, segments: Sequence[Segment]) -> Layout:
    """The layout of the segment that `merge` writes."""
    return Layout.new(key, [source for _, source in _owned_sources(segments)])


def merge(write: Callable[[bytes], object], layout: Layout, segments: Sequence[Segment]) -> None:
    """Write one segment of all records that count in these. Raises Corrupt."""
    writer = SegmentWriter(write, layout)
    numbers = _merge_packs(writer, segments)
    total = sum(segment.layout.records for segment in segments)
    cursors = [_Cursor(segment, table, total) for segment, table in zip(segments, numbers, strict=True)]
    while True:
        for cursor in cursors:
            cursor.fill()
        # What every unfinished input has read up to can be written: nothing smaller can follow.
        ends = [cursor.last_key for cursor in cursors if not cursor.exhausted]
        boundary = min(ends) if ends else None
        batch: list[bytes] = []
        for cursor in cursors:
            batch += cursor.take(boundary)
        batch.sort()
        writer.records(batch)
        if boundary is None:
            break
    for cursor in cursors:
        cursor.check()
    writer.finish()


def _owned_sources(segments: Sequence[Segment]) -> Iterator[tuple[tuple[int, int], Source]]:
    for which, segment in enumerate(segments):
        for number, source in enumerate(segment.sources):
            if segment.owns(number):
                yield (which, number), source


def _merge_packs(writer: SegmentWriter, segments: Sequence[Segment]) -> list[array[int]]:
    """Write the packs in order; per segment a table from its own pack numbers to the new ones."""
    sources = {place: new for new, (place, _) in enumerate(_owned_sources(segments))}
    numbers = [array("I", [_DEAD]) * segment.layout.packs for segment in segments]
    streams = [_packs_of(which, segment) for which, segment in enumerate(segments)]
    batch: list[bytes] = []
    counts = [0] * len(segments)
    for new, (pack, size, which, number, source) in enumerate(heapq.merge(*streams)):
        numbers[which][number] = new
        counts[which] += 1
        batch.append(PACK.pack(pack, size, sources[which, source]))
        if len(batch) == _BATCH_PACKS:
            writer.packs(b"".join(batch))
            batch.clear()
    writer.packs(b"".join(batch))
    for segment, count in zip(segments, counts, strict=True):
        if count != segment.live_packs:
            raise Corrupt(segment, f"{count} packs count, its header says {segment.live_packs}")
    return numbers


def _packs_of(which: int, segment: Segment) -> Iterator[tuple[bytes, int, int, int, int]]:
    for pack, size, number, source in segment.packs():
        yield pack, size, which, number, source


class _Cursor:
    """A segment's records that count, in order, with their new pack numbers, a window at a time."""

    def __init__(self, segment: Segment, numbers: array[int], total: int) -> None:
        self._segment = segment
        self._numbers = numbers
        self._table = segment.layout.records_table
        # Each input's share of memory is its share of the records, so that all advance at one pace.
        share = _WINDOW_RECORDS * segment.layout.records // max(total, 1)
        self._window = max(1, share // self._table.per_block)
        self._block = 0
        self._buffer = b""
        self._taken = 0

    @property
    def exhausted(self) -> bool:
        """Whether all of the segment has been read (not: taken)."""
        return self._block == self._table.blocks

    @property
    def last_key(self) -> bytes:
        """The key of the last record that was read."""
        return self._buffer[-RECORD.size : KEY_SIZE - RECORD.size]

    def fill(self) -> None:
        """Read on once less than half a window is left, so that no input holds up the others."""
        low = self._window * self._table.per_block * RECORD.size // 2
        while not self.exhausted and len(self._buffer) <= low:
            end = min(self._block + self._window, self._table.blocks)
            raw = self._segment.read_blocks(self._table, self._block, end)
            self._block = end
            try:
                records = renumber(raw, self._numbers)
            except IndexError:
                raise Corrupt(self._segment, "a record names a pack that is not there") from None
            self._buffer += records if self._segment.whole else _without_dead(records)

    def take(self, boundary: bytes | None) -> list[bytes]:
        """Hand out the records whose key is at most `boundary`; all that were read where it is None."""
        size, buffer = RECORD.size, self._buffer
        count = len(buffer) // size
        if boundary is not None:
            count = bisect_right(range(count), boundary, key=lambda at: buffer[at * size : at * size + KEY_SIZE])
        taken = [buffer[at : at + size] for at in range(0, count * size, size)]
        self._buffer = buffer[count * size :]
        self._taken += count
        return taken

    def check(self) -> None:
        """Hold what was handed out against the header. Raises Corrupt."""
        if self._taken != self._segment.live_blobs:
            raise Corrupt(self._segment, f"{self._taken} records count, its header says {self._segment.live_blobs}")


def _without_dead(records: bytes) -> bytes:
    """Only the records whose pack still counts."""
    entries = list(RECORD.iter_unpack(records))
    alive = [number != _DEAD for _, _, number, _, _, _ in entries]
    size = RECORD.size
    slices = (records[at : at + size] for at in range(0, len(records), size))
    return b"".join(compress(slices, alive))
