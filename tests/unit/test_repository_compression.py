"""Compressed blobs and small files; and those that would unpack to gigabytes."""

from __future__ import annotations

import pytest
import zstandard

from shared.repository import compression
from shared.repository.compression import SMALL_FILE_MAX, compressor, decompress, pack_small, unpack_small
from shared.repository.crypto import MasterKey, Sealer
from shared.repository.errors import Damaged
from shared.repository.pack import Blob, BlobType
from shared.repository.repository import open_blob
from tests.support.processes import in_processes

SEALER = Sealer(MasterKey.from_bytes(bytes(range(1, 65))))


def bomb(size: int, *, stated: bool) -> bytes:
    """Zeros, packed to next to nothing, never as a whole in memory."""
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=stated)
    worker = compressor.compressobj(size=size) if stated else compressor.compressobj()
    return b"".join([*(worker.compress(bytes(1 << 20)) for _ in range(size >> 20)), worker.flush()])


def refused(frame: bytes) -> int:
    """The bytes of memory that refusing a bomb took, in a process of its own."""

    def work(_: int) -> int:
        before = _peak()
        with pytest.raises(Damaged, match="compressed data: "):
            decompress(frame, 1000)
        return _peak() - before

    return in_processes(1, work)[0]


def _peak() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))


@pytest.mark.parametrize("content", [b"x", b"x" * 100_000, bytes(range(256)) * 50])
def test_what_is_compressed_is_unpacked(content: bytes) -> None:
    """A frame states its size and has no checksum, as the tag has that part."""
    frame = compressor().compress(content)
    assert decompress(frame, len(content)) == content
    assert zstandard.frame_content_size(frame) == len(content)
    assert not zstandard.get_frame_parameters(frame).has_checksum


@pytest.mark.parametrize("stated", [True, False])
def test_a_blob_never_unpacks_beyond_its_index_entry(stated: bool) -> None:
    """256 MiB in a few KiB, for a blob that is said to have 1,000 bytes: an error, and no memory."""
    assert refused(bomb(256 << 20, stated=stated)) < 32 << 20


@pytest.mark.parametrize("blob_type", [BlobType.DATA, BlobType.TREE])
def test_a_blob_that_is_said_to_be_huge_is_not_opened(blob_type: BlobType) -> None:
    """Whatever is stored: the bound is on what an index says, before anything is read."""
    blob = Blob(b"\x01" * 32, blob_type, 0, 100, (1 << 32) - 1)
    with pytest.raises(Damaged, match="would unpack to 4294967295 bytes, at most"):
        open_blob(SEALER, blob, b"")


@pytest.mark.parametrize("how", ["cut", "followed", "empty", "zeros", "torn"])
def test_a_torn_frame_is_damaged(how: str) -> None:
    """Cut, followed by something, none at all: never other bytes than those that were packed."""
    frame = compressor().compress(b"some content " * 50)
    torn = {"cut": frame[:-1], "followed": frame + b"x", "empty": b"", "zeros": bytes(20)}
    torn["torn"] = frame[:6] + b"\xff\xff" + frame[8:]
    with pytest.raises(Damaged, match="compressed data: "):
        decompress(torn[how], 650)


@pytest.mark.parametrize("expected", [0, 649, 651])
def test_a_frame_of_another_size_is_damaged(expected: int) -> None:
    """The message has both numbers."""
    with pytest.raises(Damaged, match=f"expected {expected} bytes unpacked, its frame says 650"):
        decompress(compressor().compress(b"some content " * 50), expected)


def test_a_blob_of_other_content_is_damaged() -> None:
    """Its hash is compared, whatever its tag says."""
    sealed = SEALER.seal(b"content")
    with pytest.raises(Damaged, match="blob 0101010101010101: its content hashes to ed7002b439e9ac84"):
        open_blob(SEALER, Blob(b"\x01" * 32, BlobType.DATA, 0, len(sealed), 0), sealed)


@pytest.mark.parametrize("json", [b"{}", b"[]", b'{"a":1}' * 1000])
def test_small_files_are_packed_and_unpacked(json: bytes) -> None:
    """0x02 and a frame; bare JSON, as version 1 has it, is read as it is."""
    packed = pack_small([json[:1], json[1:]])
    assert (packed[0], unpack_small(packed), unpack_small(json)) == (2, json, json)


def test_a_small_file_whose_frame_states_no_size_is_read() -> None:
    """As a streaming writer leaves it."""
    worker = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    assert unpack_small(b"\x02" + worker.compress(b"{}" * 5000) + worker.flush()) == b"{}" * 5000


@pytest.mark.parametrize("plain", [b"", b"\x01{}", b"\x02", b"\x02{}", b"x", b"\x03\x28\xb5\x2f\xfd"])
def test_what_is_no_small_file_is_damaged(plain: bytes) -> None:
    """The message says what was expected first."""
    with pytest.raises(Damaged, match="small file: "):
        unpack_small(plain)


def test_a_small_file_that_is_a_bomb_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its size stated beyond the bound, and without."""
    header = zstandard.ZstdCompressor().compress(b"")
    assert unpack_small(b"\x02" + header) == b""
    monkeypatch.setattr(compression, "SMALL_FILE_MAX", 1 << 20)
    for stated in (True, False):
        with pytest.raises(Damaged, match="small file: "):
            unpack_small(b"\x02" + bomb(64 << 20, stated=stated))
    assert SMALL_FILE_MAX == 1 << 30
