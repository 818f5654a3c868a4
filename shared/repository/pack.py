"""Packs: blobs one behind the other, then a sealed header that says what they are.

    blob 1 | ... | blob N | sealed header | u32le length of the sealed header
    header entry:  type (1) | u32le stored length | [u32le plaintext length, compressed types only] | blob id (32)
    types:         0 data, 1 tree, 2 compressed data, 3 compressed tree  ->  37 or 41 bytes

Offsets are implicit, so there are no gaps. A pack's id is the SHA-256 of all its bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

from shared.repository.crypto import OVERHEAD, Buffer, Sealer
from shared.repository.errors import Damaged

ENTRY_PLAIN = struct.Struct("<BI32s")
ENTRY_COMPRESSED = struct.Struct("<BII32s")
LENGTH_FIELD = struct.Struct("<I")
_RECORD = struct.Struct("<32sIII")  # a blob of a known type where many are kept: id, offset, length, uncompressed
RECORD_SIZE = _RECORD.size
HEADER_MAX = 16 << 20  # bytes of sealed header
TARGET_SIZE = 16 << 20  # bytes; a pack is closed once it has as many
TARGET_MIN, TARGET_MAX = 4 << 20, 128 << 20
COMPRESSED_FLAG = 2
SCRATCH = 256 << 10  # bytes sealed before they are hashed and written: they are then still in the processor's cache


class BlobType(IntEnum):
    """What a blob holds; data and trees never share a pack that we write."""

    DATA = 0
    TREE = 1


class Blob(NamedTuple):
    """A blob's place in its pack, in bytes.

    `length` is as stored, with the 32 bytes of sealing; `uncompressed` is 0 where it is stored bare.
    """

    id: bytes
    type: BlobType
    offset: int
    length: int
    uncompressed: int


def plaintext_length(blob: Blob) -> int:
    """The size of a blob's content in bytes."""
    return blob.uncompressed or blob.length - OVERHEAD


def pack_size(blobs: list[Blob]) -> int:
    """The size in bytes of a pack that holds exactly these blobs."""
    header = sum(ENTRY_COMPRESSED.size if blob.uncompressed else ENTRY_PLAIN.size for blob in blobs)
    return sum(blob.length for blob in blobs) + header + OVERHEAD + LENGTH_FIELD.size


def to_records(blobs: Iterable[Blob]) -> bytes:
    """Blobs of one type in 44 bytes each, for where very many are kept or handed on."""
    return b"".join([_RECORD.pack(blob.id, blob.offset, blob.length, blob.uncompressed) for blob in blobs])


def from_records(blob_type: BlobType, records: Buffer) -> Iterator[Blob]:
    """What `to_records` took."""
    for blob_id, offset, length, uncompressed in _RECORD.iter_unpack(records):
        yield Blob(blob_id, blob_type, offset, length, uncompressed)


def ids_of_records(records: Buffer) -> Iterator[bytes]:
    """The ids alone."""
    return (blob_id for blob_id, _, _, _ in _RECORD.iter_unpack(records))


def content_of_records(records: Buffer) -> int:
    """The bytes of content that the blobs hold together."""
    return sum(uncompressed or length - OVERHEAD for _, _, length, uncompressed in _RECORD.iter_unpack(records))


class PackBuilder:
    """Seals blobs of one type and writes them, one behind the other, until the pack is closed.

    All of it is in memory only where it is less than SCRATCH. `write` takes a buffer that is used again when it
    returns; what it raises goes up, and then the pack is of no use any more. Not thread-safe.
    """

    def __init__(
        self, sealer: Sealer, blob_type: BlobType, write: Callable[[Buffer], object], *, target: int = TARGET_SIZE
    ) -> None:
        self.type = blob_type
        self.target = target
        self.size = 0
        self._records = bytearray()
        self._sealer = sealer
        self._write = write
        self._hash = hashlib.sha256()
        self._scratch = memoryview(bytearray(SCRATCH))
        self._used = 0

    @property
    def full(self) -> bool:
        """Whether it has reached its target size, or its header would outgrow the format's bound."""
        return (
            self.size >= self.target
            or len(self._records) // _RECORD.size * ENTRY_COMPRESSED.size >= HEADER_MAX - OVERHEAD - 64
        )

    @property
    def records(self) -> bytes:
        """The blobs so far, as `to_records` gives them."""
        return bytes(self._records)

    def add(self, blob_id: bytes, stored: Buffer, uncompressed: int) -> None:
        """Seal `stored` (compressed where `uncompressed` > 0, else the content itself) as the next blob."""
        offset = self.size
        self._seal(stored)
        self._records += _RECORD.pack(blob_id, offset, self.size - offset, uncompressed)

    def add_sealed(self, blob_id: bytes, sealed: Buffer, uncompressed: int) -> None:
        """Take the next blob as it is stored elsewhere: what is sealed does not depend on where it lies."""
        length = len(sealed)
        if self._used + length > SCRATCH:
            self._flush()
        if length <= SCRATCH:
            self._scratch[self._used : self._used + length] = sealed
            self._used += length
        else:
            self._send(memoryview(sealed))
        self._records += _RECORD.pack(blob_id, self.size, length, uncompressed)
        self.size += length

    def close(self) -> bytes:
        """Write the header and all that is not written yet; the pack's id. The builder takes no more after that."""
        header = encode_header(from_records(self.type, self._records))
        self._seal(header)
        self._flush()
        self._send(LENGTH_FIELD.pack(len(header) + OVERHEAD))
        self.size += LENGTH_FIELD.size
        return self._hash.digest()

    def _seal(self, plain: Buffer) -> None:
        length = len(plain) + OVERHEAD
        if self._used + length > SCRATCH:
            self._flush()
        if length <= SCRATCH:
            self._used = self._sealer.seal_into(plain, self._scratch, self._used)
        else:
            for piece in self._sealer.seal_in_pieces(plain, self._scratch):
                self._send(piece)
        self.size += length

    def _flush(self) -> None:
        if self._used:
            self._send(self._scratch[: self._used])
            self._used = 0

    def _send(self, piece: Buffer) -> None:
        self._hash.update(piece)
        self._write(piece)


def encode_header(blobs: Iterable[Blob]) -> bytes:
    """A pack's header before sealing."""
    parts = []
    for blob in blobs:
        if blob.uncompressed:
            parts.append(ENTRY_COMPRESSED.pack(blob.type | COMPRESSED_FLAG, blob.length, blob.uncompressed, blob.id))
        else:
            parts.append(ENTRY_PLAIN.pack(blob.type, blob.length, blob.id))
    return b"".join(parts)


def header_length(tail: Buffer, total: int) -> int:
    """The sealed header's length in bytes, from a pack's last bytes (at least 4) and whole size. Raises Damaged."""
    if len(tail) < LENGTH_FIELD.size:
        raise Damaged(f"pack of {total} bytes: too short for a header")
    (length,) = LENGTH_FIELD.unpack(memoryview(tail)[-LENGTH_FIELD.size :])
    if not OVERHEAD + ENTRY_PLAIN.size <= length <= min(HEADER_MAX, total - LENGTH_FIELD.size):
        raise Damaged(f"pack of {total} bytes: its header length says {length}")
    return int(length)


def decode_header(plain: bytes, total: int) -> list[Blob]:
    """The blobs that an unsealed header lists; they must fill the pack of `total` bytes exactly. Raises Damaged."""
    blobs: list[Blob] = []
    at = offset = 0
    while at < len(plain):
        kind = plain[at]
        entry = ENTRY_COMPRESSED if kind & COMPRESSED_FLAG else ENTRY_PLAIN
        if kind > (BlobType.TREE | COMPRESSED_FLAG):
            raise Damaged(f"pack header: unknown blob type {kind} at byte {at}")
        if at + entry.size > len(plain):
            raise Damaged(f"pack header: it is cut at byte {at} of {len(plain)}")
        fields = entry.unpack_from(plain, at)
        length, blob_id = fields[1], fields[-1]
        uncompressed = fields[2] if kind & COMPRESSED_FLAG else 0
        if length < OVERHEAD or (kind & COMPRESSED_FLAG and not uncompressed):
            raise Damaged(f"pack header: entry at byte {at} says {length} stored, {uncompressed} unpacked bytes")
        blobs.append(Blob(blob_id, BlobType(kind & 1), offset, length, uncompressed))
        offset += length
        at += entry.size
    expected = offset + len(plain) + OVERHEAD + LENGTH_FIELD.size
    if expected != total:
        raise Damaged(f"pack header: its blobs make a pack of {expected} bytes, this one has {total}")
    return blobs
