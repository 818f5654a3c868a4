"""Reading a segment: an immutable, sorted file of blob records.

Invariant: no byte of it is believed before the checksum of its block was compared, at every read.
It is read with pread, never mapped: a mapped file that is cut is a SIGBUS, a short read is only a
short read. What does not verify raises `Corrupt`, which names the segment so that it can be rebuilt.

Nothing is kept in memory but the header, so a segment of any size costs a few kilobytes while open.
An open one goes on answering after its file was deleted or replaced, also in a forked child.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from shared.repository.indexcache.layout import (
    CRC,
    HEADER,
    KEY_SIZE,
    PACK,
    RECORD,
    RECORD_TAIL,
    SLOT,
    SLOT_PAIR,
    Layout,
    Source,
    Table,
    Unusable,
    header_size,
)

WINDOW_BLOCKS = 256  # read at once at most, about 1 MiB
GAP_BLOCKS = 4  # not asked for, but cheaper to read through than to go around


class Corrupt(Exception):
    """A segment's bytes do not verify."""

    def __init__(self, segment: Segment, reason: str) -> None:
        super().__init__(f"{segment.name}: {reason}")
        self.segment = segment


class Location(NamedTuple):
    """Where a blob lies: pack id (32 bytes), offset and stored length in bytes; `uncompressed` 0 if stored bare."""

    pack: bytes
    offset: int
    length: int
    uncompressed: int


class Segment:
    """One open segment. `name` is its file's, or empty for one that has none (see `assembly`)."""

    def __init__(self, fd: int, layout: Layout, name: str = "") -> None:
        self._fd = fd
        self.layout = layout
        self.name = name
        self.sources: tuple[Source, ...] = layout.sources
        self._owned = bytes(len(self.sources))
        self.whole = False
        self.assign(frozenset(source.index_id for source in self.sources))

    @classmethod
    def open(cls, fd: int, key: bytes, name: str = "") -> Segment:
        """Take over `fd`, whose header must verify and whose size must be right. Raises Unusable, OSError."""
        try:
            head = os.pread(fd, HEADER.size, 0)
            if len(head) < HEADER.size:
                raise Unusable("shorter than a header")
            length, size = header_size(HEADER.unpack(head)[6]), os.fstat(fd).st_size
            if length > size:
                raise Unusable("shorter than its header")
            layout = Layout.decode(os.pread(fd, length, 0), key)
            if layout.size != size:
                raise Unusable(f"expected {layout.size} bytes, got {size}")
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, layout, name)

    def close(self) -> None:
        """Give up the file; it is not read after that."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def assign(self, indexes: AbstractSet[bytes]) -> frozenset[bytes]:
        """Let only records of these index files count here; returns those that it has."""
        self._owned = bytes(source.index_id in indexes for source in self.sources)
        owned = [source for source in self.sources if source.index_id in indexes]
        self.whole = len(owned) == len(self.sources)
        self.owned = frozenset(source.index_id for source in owned)
        self.live_blobs = sum(source.blobs for source in owned)
        self.live_packs = sum(source.packs for source in owned)
        return self.owned

    def owns(self, source: int) -> bool:
        """Whether records of the source of that number count here."""
        return bool(self._owned[source])

    def present(self, keys: Sequence[bytes], absent: AbstractSet[bytes]) -> set[bytes]:
        """Which of the ascending keys (id and type) have a location outside the packs in `absent`. Raises Corrupt."""
        if not absent and self.whole:  # every record counts, so nobody needs to know its pack
            return {keys[position] for position, _, _, _, _ in self._find(keys)}
        return set(self.locate(keys, absent))

    def locate(self, keys: Sequence[bytes], absent: AbstractSet[bytes]) -> dict[bytes, Location]:
        """A location outside the packs in `absent` of each of the ascending keys that has one. Raises Corrupt."""
        hits = self._find(keys)
        packs = self._resolve(sorted({number for _, number, _, _, _ in hits}))
        found: dict[bytes, Location] = {}
        owned = self._owned
        for position, number, offset, length, uncompressed in hits:
            pack, source = packs[number]
            if owned[source] and pack not in absent:
                found[keys[position]] = Location(pack, offset, length, uncompressed)
        return found

    def packs(self) -> Iterator[tuple[bytes, int, int, int]]:
        """The packs that count: id, size in bytes, own number, source's number; ascending. Raises Corrupt."""
        table, owned = self.layout.packs_table, self._owned
        for first in range(0, table.blocks, WINDOW_BLOCKS):
            payload = self.read_blocks(table, first, min(first + WINDOW_BLOCKS, table.blocks))
            for number, (pack, size, source) in enumerate(PACK.iter_unpack(payload), first * table.per_block):
                self._check_source(source)
                if owned[source]:
                    yield pack, size, number, source

    def read_blocks(self, table: Table, first: int, last: int) -> bytes:
        """The items of the blocks [first, last) of a table, verified. Raises Corrupt."""
        full = table.per_block * table.item
        start = table.offset + first * (full + CRC.size)
        size = min(table.end, table.offset + last * (full + CRC.size)) - start
        try:
            raw = os.pread(self._fd, size, start)
        except OSError as error:
            raise Corrupt(self, f"can't be read: {error}") from error
        if len(raw) != size:
            raise Corrupt(self, f"cut: expected {size} bytes at {start}, got {len(raw)}")
        parts = []
        view = memoryview(raw)
        at = 0
        checksum, expected = table.checksum, CRC.unpack_from
        for block in range(first, last):
            end = min(at + full, size - CRC.size)
            payload = view[at:end]
            if checksum(block, payload) != expected(raw, end)[0]:
                raise Corrupt(self, f"block {block} at byte {start + at}: its checksum does not match")
            parts.append(payload)
            at = end + CRC.size
        return b"".join(parts)

    def _find(self, keys: Sequence[bytes]) -> list[tuple[int, int, int, int, int]]:
        """Per record of one of the ascending keys: position in `keys`, pack number, offset, length, uncompressed."""
        hits: list[tuple[int, int, int, int, int]] = []
        found = hits.append
        ranges, positions = self._slots(keys)
        tail = RECORD_TAIL.unpack_from
        for begin, end, first, payload in self._windows(self.layout.records_table, ranges):
            seek = payload.find
            for (low, high), position in zip(ranges[begin:end], positions[begin:end], strict=True):
                stop = (high - first) * RECORD.size
                key = keys[position]
                at = seek(key, (low - first) * RECORD.size, stop)
                while at >= 0 and at % RECORD.size:  # the bytes stand there, but across two records
                    at = seek(key, at + 1, stop)
                if at < 0:
                    continue
                found((position, *tail(payload, at + KEY_SIZE)))
                while (at := at + RECORD.size) < stop and payload.startswith(key, at):  # in another pack, too
                    found((position, *tail(payload, at + KEY_SIZE)))
        return hits

    def _slots(self, keys: Sequence[bytes]) -> tuple[list[tuple[int, int]], list[int]]:
        """The ranges of records in which keys can stand, and those keys' positions; empty ranges are left out."""
        shift = 32 - self.layout.bits
        numbers = [int.from_bytes(key[:4], "big") >> shift for key in keys]
        wanted = [(number, number + 2) for number in numbers]
        ranges: list[tuple[int, int]] = []
        positions: list[int] = []
        pair = SLOT_PAIR.unpack_from
        total = self.layout.records
        for begin, end, first, payload in self._windows(self.layout.slots_table, wanted):
            for position in range(begin, end):
                low, high = pair(payload, (numbers[position] - first) * SLOT.size)
                if not low <= high <= total:
                    raise Corrupt(self, f"slot {numbers[position]} says {low} to {high} of {total}")
                if low < high:
                    ranges.append((low, high))
                    positions.append(position)
        return ranges, positions

    def _resolve(self, numbers: Sequence[int]) -> dict[int, tuple[bytes, int]]:
        """Id and source of the packs of these ascending numbers."""
        packs: dict[int, tuple[bytes, int]] = {}
        if numbers and numbers[-1] >= self.layout.packs:
            raise Corrupt(self, f"pack number {numbers[-1]} of {self.layout.packs}")
        ranges = [(number, number + 1) for number in numbers]
        for begin, end, first, payload in self._windows(self.layout.packs_table, ranges):
            for number in numbers[begin:end]:
                pack, _, source = PACK.unpack_from(payload, (number - first) * PACK.size)
                self._check_source(source)
                packs[number] = (pack, source)
        return packs

    def _check_source(self, source: int) -> None:
        if source >= len(self.sources):
            raise Corrupt(self, f"source {source} of {len(self.sources)}")

    def _windows(self, table: Table, ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int, bytes]]:
        """Read what ascending, non-empty ranges of items need, each block once, neighbours together.

        Yields (begin, end, first, payload): the ranges [begin, end) lie in `payload`, which begins with item `first`.
        """
        per = table.per_block
        begin, total = 0, len(ranges)
        while begin < total:
            low, high = ranges[begin]
            start, stop = low // per, (high - 1) // per
            end = begin + 1
            while end < total:
                low, high = ranges[end]
                last = (high - 1) // per
                if low // per > stop + GAP_BLOCKS or last - start >= WINDOW_BLOCKS:
                    break
                stop = last
                end += 1
            yield begin, end, start * per, self.read_blocks(table, start, stop + 1)
            begin = end
