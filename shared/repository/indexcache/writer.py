"""Writing a segment: header, packs, records, slots, front to back and in bounded memory."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence

from shared.repository.indexcache.layout import (
    CRC,
    KEY_SIZE,
    RECORD,
    SLOT,
    Layout,
    Table,
)

FLUSH = 1 << 20  # bytes collected before they are written


class SegmentWriter:
    """Takes packs, then records, each ascending, as many as the layout has; `finish` adds the slots.

    `write` gets the segment's bytes in order. The slots are the one thing held until the end: four bytes
    for some fifty records.
    """

    def __init__(self, write: Callable[[bytes], object], layout: Layout) -> None:
        self._write = write
        self._layout = layout
        self._packs = _TableWriter(write, layout.packs_table)
        self._records = _TableWriter(write, layout.records_table)
        self._slots = array("I", [0])  # the first slot begins with the first record
        write(layout.encode())

    def packs(self, packs: bytes) -> None:
        """Append packed pack entries."""
        self._packs.append(packs)

    def records(self, records: Sequence[bytes]) -> None:
        """Append records; none sorts before those already there."""
        if not records:
            return
        if not self._records.items:
            self._packs.close()
        bits = self._layout.bits
        before = self._records.items
        # A slot whose prefix the last record has not reached may still begin in a later batch.
        last = int.from_bytes(records[-1][:4], "big") >> (32 - bits)
        at = 0
        for slot in range(len(self._slots), last + 1):
            at = bisect_left(records, (slot << (32 - bits)).to_bytes(4, "big"), at)
            self._slots.append(before + at)
        self._records.append(b"".join(records))

    def finish(self) -> None:
        """Write what is left. Raises ValueError where it got other counts than the layout has."""
        if not self._records.items:
            self._packs.close()
        self._records.close()
        slots = self._layout.slots_table
        self._slots.extend([self._layout.records] * (slots.count - len(self._slots)))
        table = _TableWriter(self._write, slots)
        step = FLUSH // SLOT.size
        for first in range(0, slots.count, step):
            table.append(b"".join(map(SLOT.pack, self._slots[first : first + step])))
        table.close()


class _TableWriter:
    """Cuts a table's items into blocks with their checksums."""

    def __init__(self, write: Callable[[bytes], object], table: Table) -> None:
        self._write = write
        self._table = table
        self._pending = bytearray()
        self._block = 0
        self.items = 0

    def append(self, items: bytes) -> None:
        """Take whole items."""
        self.items += len(items) // self._table.item
        self._pending += items
        if len(self._pending) >= FLUSH:
            self._flush(len(self._pending) // self._full)

    def close(self) -> None:
        """Write what is left. Raises ValueError unless the table is exactly full."""
        if self.items != self._table.count:
            raise ValueError(f"expected {self._table.count} items, got {self.items}")
        self._flush(-(-len(self._pending) // self._full))

    @property
    def _full(self) -> int:
        return self._table.per_block * self._table.item

    def _flush(self, blocks: int) -> None:
        parts: list[bytes] = []
        full = self._full
        for number in range(blocks):
            payload = bytes(self._pending[number * full : (number + 1) * full])
            parts += (payload, CRC.pack(self._table.checksum(self._block + number, payload)))
        self._write(b"".join(parts))
        self._block += blocks
        del self._pending[: blocks * full]


def renumber(records: bytes, numbers: Sequence[int]) -> bytes:
    """The same records, each pack number n replaced by numbers[n]. Raises IndexError for an n beyond.

    Works on columns of bytes, as unpacking each record would take ten times as long.
    """
    count = len(records) // RECORD.size
    table = bytearray(records)
    column = bytearray(4 * count)
    for byte in range(4):
        column[byte::4] = table[KEY_SIZE + byte :: RECORD.size]
    column[:] = struct.pack(f"<{count}I", *map(numbers.__getitem__, struct.unpack(f"<{count}I", column)))
    for byte in range(4):
        table[KEY_SIZE + byte :: RECORD.size] = column[byte::4]
    return bytes(table)
