"""zstd as the format uses it: one frame a blob, and 0x02 before a compressed small file.

Invariant: nothing is unpacked beyond the size that its index entry or a fixed bound allows, so a
blob that unpacks to gigabytes ends in an error and not in a full memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import zstandard

from shared.repository.crypto import Buffer
from shared.repository.errors import Damaged

SMALL_FILE_MARK = 0x02
SMALL_FILE_MAX = 1 << 30  # bytes of plaintext of an index or snapshot file
DATA_BLOB_MAX = 64 << 20  # bytes; restic's chunker ends at 8 MiB, other writers of the format go further
TREE_BLOB_MAX = 1 << 30  # bytes; one directory of some two million entries
DEFAULT_LEVEL = 3


def compressor(level: int = DEFAULT_LEVEL) -> zstandard.ZstdCompressor:
    """A compressor whose frames state their size and carry no checksum (the tag has that part)."""
    return zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)


def decompress(frame: Buffer, expected: int, unzip: zstandard.ZstdDecompressor | None = None) -> bytes:
    """Unpack one frame of exactly `expected` bytes, with `unzip` where there are many to unpack. Raises Damaged."""
    try:
        stated = zstandard.frame_content_size(frame)
        if stated not in (-1, expected):
            raise Damaged(f"compressed data: expected {expected} bytes unpacked, its frame says {stated}")
        unzip = unzip or zstandard.ZstdDecompressor()
        plain = unzip.decompress(frame, max_output_size=expected, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Damaged(f"compressed data: {error}") from error
    if len(plain) != expected:
        raise Damaged(f"compressed data: expected {expected} bytes unpacked, got {len(plain)}")
    return plain


def pack_small(parts: Sequence[bytes], level: int = DEFAULT_LEVEL) -> bytes:
    """The plaintext of an index, snapshot or lock file of a version 2 repository, from its JSON in parts."""
    stream = compressor(level).compressobj(size=sum(len(part) for part in parts))
    out = [bytes((SMALL_FILE_MARK,)), *(stream.compress(part) for part in parts), stream.flush()]
    return b"".join(out)


def unpack_small(plain: bytes, at_most: int | None = None) -> bytes:
    """The JSON in the plaintext of a small file, compressed or bare; of `at_most` bytes (1 GiB). Raises Damaged."""
    at_most = SMALL_FILE_MAX if at_most is None else at_most
    if plain[:1] in (b"{", b"["):
        return plain
    if not plain or plain[0] != SMALL_FILE_MARK:
        raise Damaged(f"small file: expected 0x02, '{{' or '[' first, got {plain[:1].hex() or 'nothing'}")
    try:
        stated = zstandard.frame_content_size(plain[1:])
        if stated > at_most:
            raise Damaged(f"small file: it would unpack to {stated} bytes, at most {at_most} are allowed")
        # The bound is what is allocated where a frame does not state its size: grow it with the input.
        bound = stated if stated >= 0 else min(at_most, 256 * len(plain) + (1 << 20))
        return zstandard.ZstdDecompressor().decompress(plain[1:], max_output_size=max(bound, 1))
    except zstandard.ZstdError as error:
        raise Damaged(f"small file: {error}") from error
