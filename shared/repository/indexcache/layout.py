"""A segment's bytes: what stands where, and how each part of it is verified.

    header:   0 magic "HFINDEX1"  8 u32 length of the header  12 u32 nonce  16 repository and site (32, a hash)
             48 u64 records  56 u64 packs  64 u32 sources  68 u32 slot bits
             72 per source: index file id (32) | u64 packs | u64 blobs
                then the first 16 bytes of BLAKE2b over all that precedes
    packs:    pack id (32) | u64 size | u32 source, ascending
    records:  blob id (32) | u8 type | u32 pack number | u32 offset | u32 length | u32 uncompressed,
              ascending by (id, type)
    slots:    u32 number of the first record whose id begins with at least this prefix of "slot bits" bits;
              2^bits of them and one more, the number of records

All numbers are little-endian. The three tables follow each other without gaps. Each is cut into
blocks of whole items, at most 4,092 bytes, and behind each block stands its CRC-32.

Why a CRC is enough: the blocks guard against a disk's and a person's accidents, not against an
enemy (who can write here can replace the program). A false "present" would lose data, and it needs
all 32 bytes of a hash to match in a record, whatever the CRC says; a wrong location is noticed where
the blob is read, since its hash is verified there. The header decides which index files count, with
no hash behind it, so it carries a real digest. The CRC starts from the nonce, the table and the block's
number, so that a whole block from another place does not pass, nor one of zeros.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from typing import NamedTuple

MAGIC = b"HFINDEX1"
HEADER = struct.Struct("<8sII32sQQII")
SOURCE = struct.Struct("<32sQQ")
DIGEST_SIZE = 16
PACK = struct.Struct("<32sQI")
RECORD = struct.Struct("<32sBIIII")
RECORD_TAIL = struct.Struct("<IIII")  # what follows the key in a record
KEY_SIZE = 33  # id and type: what a record is found by
SLOT = struct.Struct("<I")
SLOT_PAIR = struct.Struct("<II")
BLOCK_MAX = 4092  # bytes of items in a block
CRC = struct.Struct("<I")
RECORDS_PER_SLOT = 64  # at most, on average: a lookup reads one block of records or two
RECORDS_MAX = (1 << 32) - 1


class Unusable(Exception):
    """These bytes are no segment that can be trusted here."""


class Source(NamedTuple):
    """An index file that a segment was made from: its id, and how many packs and blobs it lists."""

    index_id: bytes
    packs: int
    blobs: int


@dataclass(frozen=True, slots=True)
class Table:
    """Where the items of one table lie in the file."""

    offset: int  # bytes
    item: int  # bytes
    count: int  # items
    seed: int

    @property
    def per_block(self) -> int:
        """Items in every block but the last."""
        return BLOCK_MAX // self.item

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.count // self.per_block)

    @property
    def end(self) -> int:
        """The offset in bytes behind the last block."""
        return self.offset + self.count * self.item + self.blocks * CRC.size

    def checksum(self, block: int, payload: bytes | memoryview) -> int:
        """The CRC-32 that stands behind a block with these items."""
        return zlib.crc32(payload, (self.seed + block) & 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Layout:
    """A segment's header, and the places of its tables that follow from it."""

    key: bytes
    nonce: int
    sources: tuple[Source, ...]
    packs_table: Table = field(init=False)
    records_table: Table = field(init=False)
    slots_table: Table = field(init=False)

    def __post_init__(self) -> None:
        """Work out the tables. Raises Unusable for more than 2^32 - 1 records."""
        if self.records > RECORDS_MAX:
            raise Unusable(f"{self.records} records, at most {RECORDS_MAX} fit")
        seeds = [zlib.crc32(name, self.nonce) for name in (b"packs", b"records", b"slots")]
        packs = Table(self.header_size, PACK.size, self.packs, seeds[0])
        records = Table(packs.end, RECORD.size, self.records, seeds[1])
        slots = Table(records.end, SLOT.size, (1 << self.bits) + 1, seeds[2])
        object.__setattr__(self, "packs_table", packs)
        object.__setattr__(self, "records_table", records)
        object.__setattr__(self, "slots_table", slots)

    @classmethod
    def new(cls, key: bytes, sources: Sequence[Source]) -> Layout:
        """The layout of a segment to be written."""
        return cls(key, int.from_bytes(os.urandom(4), "little"), tuple(sources))

    @property
    def records(self) -> int:
        """How many records there are."""
        return sum(source.blobs for source in self.sources)

    @property
    def packs(self) -> int:
        """How many packs there are."""
        return sum(source.packs for source in self.sources)

    @property
    def bits(self) -> int:
        """How many leading bits of an id choose its slot."""
        return (self.records // RECORDS_PER_SLOT).bit_length()

    @property
    def header_size(self) -> int:
        """The header's length in bytes."""
        return header_size(len(self.sources))

    @property
    def size(self) -> int:
        """The segment's size in bytes."""
        return self.slots_table.end

    def encode(self) -> bytes:
        """The header's bytes."""
        head = HEADER.pack(
            MAGIC, self.header_size, self.nonce, self.key, self.records, self.packs, len(self.sources), self.bits
        )
        body = head + b"".join(SOURCE.pack(*source) for source in self.sources)
        return body + digest(body)

    @classmethod
    def decode(cls, raw: bytes, key: bytes) -> Layout:
        """Read a whole header and hold it against `key`. Raises Unusable."""
        magic, length, nonce, found, records, packs, sources, bits = HEADER.unpack_from(raw)
        if magic != MAGIC or length != len(raw) or length != header_size(sources):
            raise Unusable("not a segment's header")
        if raw[-DIGEST_SIZE:] != digest(raw[:-DIGEST_SIZE]):
            raise Unusable("the header's digest does not match")
        if found != key:
            raise Unusable("a segment of another repository or site")
        listed = SOURCE.iter_unpack(raw[HEADER.size : -DIGEST_SIZE])
        layout = cls(key, nonce, tuple(Source(*source) for source in listed))
        if (layout.records, layout.packs, layout.bits) != (records, packs, bits):
            raise Unusable("the header's counts do not agree")
        return layout


def header_size(sources: int) -> int:
    """The length in bytes of a header that names so many index files."""
    return HEADER.size + sources * SOURCE.size + DIGEST_SIZE


def digest(body: bytes) -> bytes:
    """What stands at a header's end."""
    return blake2b(body, digest_size=DIGEST_SIZE).digest()


def cache_key(repository_id: str, site: str) -> bytes:
    """What binds a segment to one repository at one site."""
    return sha256(b"\0".join((b"holdfast index cache 1", repository_id.encode(), site.encode()))).digest()
