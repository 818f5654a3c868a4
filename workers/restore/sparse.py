"""Holes: where a file's content is zeros for a whole block, nothing is written.

That is right only in a file that is new: what is not written there reads as zeros.
"""

from __future__ import annotations

import os

from shared.repository.crypto import Buffer

BLOCK = 4096  # bytes; the block size of nearly every file system
_ZEROS = bytes(BLOCK)


def segments(content: Buffer, offset: int) -> list[tuple[int, int]] | None:
    """The parts (start, stop) of `content` to be written when it belongs at `offset` of a file; None for all of it.

    Blocks are those of the file. What is left of a block at either end counts as one of its own: what
    the neighbouring blob has of that block it writes itself.
    """
    first = -offset % BLOCK
    size = len(content)
    # The first byte of each block decides nearly always, and this looks at no more. Views compare slowly:
    # hence bytes.
    if 0 not in bytes(content[first::BLOCK]) and (not first or content[0]):
        return None
    parts: list[tuple[int, int]] = []
    start = at = 0
    end = min(first, size) or min(BLOCK, size)
    while at < size:
        if not content[at] and bytes(content[at:end]) == _ZEROS[: end - at]:
            if start < at:
                parts.append((start, at))
            start = end
        at, end = end, min(end + BLOCK, size)
    if start == 0:
        return None
    if start < size:
        parts.append((start, size))
    return parts


def write_at(fd: int, content: Buffer, offset: int) -> bool:
    """Write `content` at `offset`, leaving holes; True where some of it was left out. Raises OSError."""
    parts = segments(content, offset) if offset or len(content) >= BLOCK else None
    if parts is None:
        _write(fd, content, offset)
        return False
    view = memoryview(content)
    for start, stop in parts:
        _write(fd, view[start:stop], offset + start)
    return True


def _write(fd: int, data: Buffer, offset: int) -> None:
    done = os.pwrite(fd, data, offset)
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:], offset + done)
