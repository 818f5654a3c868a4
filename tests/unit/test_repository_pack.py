"""Packs: what the builder makes, and which headers are refused."""

from __future__ import annotations

import hashlib
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.repository.crypto import OVERHEAD, MasterKey, Sealer
from shared.repository.errors import Damaged
from shared.repository.pack import (
    HEADER_MAX,
    SCRATCH,
    Blob,
    BlobType,
    PackBuilder,
    decode_header,
    encode_header,
    from_records,
    header_length,
    pack_size,
    plaintext_length,
)

KEY = MasterKey.from_bytes(bytes(range(1, 65)))
ID = bytes(range(32))


def listed(builder: PackBuilder) -> list[Blob]:
    """What a builder holds, as a header lists it."""
    return list(from_records(builder.type, builder.records))


def built(contents: list[bytes], target: int = 1 << 20) -> tuple[bytes, PackBuilder]:
    """A pack of data blobs, every second one said to be compressed."""
    data = bytearray()
    builder = PackBuilder(Sealer(KEY), BlobType.DATA, data.extend, target=target)
    for number, content in enumerate(contents):
        builder.add(hashlib.sha256(content).digest(), content, 2 * len(content) if number % 2 else 0)
    pack_id = builder.close()
    assert (pack_id, builder.size) == (hashlib.sha256(data).digest(), len(data))
    return bytes(data), builder


def test_the_header_has_these_bytes() -> None:
    """Type, u32le stored length, u32le plaintext length where compressed, id: 37 or 41 bytes an entry."""
    blobs = [Blob(ID, BlobType.DATA, 0, 0x0102, 0), Blob(ID, BlobType.TREE, 0x0102, 0x30, 0x04030201)]
    assert encode_header(blobs).hex() == f"0002010000{ID.hex()}033000000001020304{ID.hex()}"
    assert [len(encode_header([blob])) for blob in blobs] == [37, 41]


def test_sealed_blobs_are_taken_as_they_are() -> None:
    """Large and small ones, behind one that is sealed here: the pack's bytes are theirs, one after the other."""
    old, from_ = built([b"small", b"x" * (SCRATCH + 1), b"third", b"y" * (SCRATCH - 100)])
    data = bytearray()
    builder = PackBuilder(Sealer(KEY), BlobType.DATA, data.extend)
    builder.add(ID, b"sealed here", 0)
    for blob in listed(from_):
        builder.add_sealed(blob.id, memoryview(old)[blob.offset : blob.offset + blob.length], blob.uncompressed)
    assert (builder.close(), builder.size) == (hashlib.sha256(data).digest(), len(data))
    blobs = listed(builder)
    assert len(data) == pack_size(blobs)
    assert [(one.id, one.length, one.uncompressed) for one in blobs[1:]] == [
        (one.id, one.length, one.uncompressed) for one in listed(from_)
    ]
    for one, other in zip(blobs[1:], listed(from_), strict=True):
        assert data[one.offset :][: one.length] == old[other.offset :][: other.length]


def test_a_pack_reads_back() -> None:
    """Blobs one behind the other without gaps, the sealed header, its length in the last four bytes."""
    contents = [b"one", b"two" * 1000, b"three"]
    pack, builder = built(contents)
    length = header_length(pack[-4:], len(pack))
    blobs = decode_header(Sealer(KEY).unseal(pack[-length - 4 : -4]), len(pack))
    assert blobs == listed(builder)
    assert [blob.offset for blob in blobs] == [0, 35, 35 + 3032]
    assert [Sealer(KEY).unseal(pack[b.offset : b.offset + b.length]) for b in blobs] == contents
    assert (pack_size(blobs), [plaintext_length(blob) for blob in blobs]) == (len(pack), [3, 6000, 5])


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=8), st.sampled_from([1, 100, 1 << 20]))
def test_any_blobs_make_a_pack(contents: list[bytes], target: int) -> None:
    """Whatever the sizes."""
    pack, builder = built([b"x" + content for content in contents], target)
    length = header_length(pack[-4:], len(pack))
    assert decode_header(Sealer(KEY).unseal(pack[-length - 4 : -4]), len(pack)) == listed(builder)


@pytest.mark.parametrize("size", [-OVERHEAD - 1, -OVERHEAD, -OVERHEAD + 1, -16, -15, 0, 2 * SCRATCH, 11 * SCRATCH + 7])
def test_a_blob_beyond_the_scratch_memory_is_sealed_in_pieces(size: int) -> None:
    """At each edge of it: what comes out unseals to the content, between others, in writes of at most SCRATCH bytes."""
    big = os.urandom(SCRATCH + size)
    pack, builder = built([b"first", big, b"last"], 100)
    assert builder.full
    blobs = listed(builder)
    assert [Sealer(KEY).unseal(pack[b.offset : b.offset + b.length]) for b in blobs] == [b"first", big, b"last"]
    writes: list[int] = []
    again = PackBuilder(Sealer(KEY), BlobType.DATA, lambda piece: writes.append(len(piece)))
    again.add(ID, b"first", 0)
    again.add(ID, big, 0)
    again.close()
    assert sum(writes) == again.size
    assert max(writes) <= SCRATCH


def test_a_pack_is_full_before_its_header_outgrows_the_format() -> None:
    """The header's 16 MiB bound tiny blobs, whatever the target size says."""
    builder = PackBuilder(Sealer(KEY), BlobType.DATA, lambda _: None, target=128 << 20)
    most = (HEADER_MAX - OVERHEAD) // 41
    builder._records = bytearray(44 * (most - 1))
    assert not builder.full
    builder._records = bytearray(44 * most)
    assert builder.full


@pytest.mark.parametrize(
    ("tail", "total", "message"),
    [
        (b"abc", 3, "too short for a header"),
        (struct.pack("<I", 0), 1000, "header length says 0"),
        (struct.pack("<I", OVERHEAD + 36), 1000, "header length says 68"),
        (struct.pack("<I", 997), 1000, "header length says 997"),
        (struct.pack("<I", HEADER_MAX + 1), 1 << 30, "header length says 16777217"),
        (b"\xff\xff\xff\xff", 1 << 30, "header length says 4294967295"),
    ],
)
def test_an_impossible_header_length_is_refused(tail: bytes, total: int, message: str) -> None:
    """Before anything is read by it; the message has the number that was found."""
    with pytest.raises(Damaged, match=message):
        header_length(tail, total)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"\x04" + struct.pack("<I", 40) + ID, "unknown blob type 4 at byte 0"),
        (b"\x00" + struct.pack("<I", 40) + ID + b"\x00", "cut at byte 37 of 38"),
        (b"\x02" + struct.pack("<I", 40) + ID, "cut at byte 0 of 37"),
        (b"\x00" + struct.pack("<I", 31) + ID, "31 stored"),
        (b"\x02" + struct.pack("<II", 40, 0) + ID, "0 unpacked"),
        (b"\x00" + struct.pack("<I", 40) + ID, "its blobs make a pack of 113 bytes, this one has 114"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(header: bytes, message: str) -> None:
    """Types, sizes, the sum: each with what was expected and found."""
    with pytest.raises(Damaged, match=message):
        decode_header(header, 114)


@settings(max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_no_header_crashes_the_parser(header: bytes, total: int) -> None:
    """Any bytes are a list of blobs that fill the pack, or Damaged."""
    try:
        blobs = decode_header(header, total)
    except Damaged:
        return
    assert pack_size(blobs) == total
