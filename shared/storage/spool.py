"""Bytes that wait on this host until they are sent: in a file without a name, so that a kill leaves none.

Where no such file can be written (no directory, no rights, no space) they wait in memory, as they would without a
spool. What waits is sealed already.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from shared.storage.api import Buffer, Permanent
from shared.storage.durable import TEMPORARY_PREFIX

_PIECE = 256 * 1024  # bytes read back at a time


class Spool:
    """An append-only sequence of `size` bytes that can be read from its start again and again."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.size = 0
        self._in_memory = False
        self._fd = -1
        if directory:
            with contextlib.suppress(OSError):
                self._fd = _nameless(directory)
        if self._fd < 0:
            self._fd = self._memory()

    def write(self, data: Buffer) -> None:
        """Append all of `data`. Raises OSError where neither disk nor memory takes it."""
        view = memoryview(data).cast("B")
        while view:
            try:
                count = os.pwrite(self._fd, view, self.size)
            except OSError:
                if self._in_memory:
                    raise
                self._move()
                continue
            self.size += count
            view = view[count:]

    def pieces(self) -> Iterator[memoryview]:
        """All bytes in turn; each piece is good until the next one is asked for. Raises Permanent."""
        room = memoryview(bytearray(min(_PIECE, self.size)))
        at = 0
        while at < self.size:
            try:
                count = os.preadv(self._fd, [room[: self.size - at]], at)
            except OSError as error:
                raise self._unreadable(error.strerror or str(error)) from error
            if not count:
                raise self._unreadable(f"it ends after {at} of {self.size} bytes")
            yield room[:count]
            at += count

    def close(self) -> None:
        """Give it back. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _move(self) -> None:
        """Go on in memory, with what was written so far."""
        memory = self._memory()
        try:
            at = 0
            for piece in self.pieces():
                view = piece
                while view:
                    count = os.pwrite(memory, view, at)
                    at += count
                    view = view[count:]
        except BaseException:
            os.close(memory)
            raise
        os.close(self._fd)
        self._fd = memory

    def _memory(self) -> int:
        self._in_memory = True
        return os.memfd_create("holdfast-spool", os.MFD_CLOEXEC)

    def _unreadable(self, reason: str) -> Permanent:
        return Permanent(
            f"what was to be sent can't be read back from {self._directory or 'memory'} ({reason})",
            hint="Look at that disk (dmesg), or name another cache directory; what was stored is kept",
        )


def _nameless(directory: str) -> int:
    """A new file in `directory` that has no name (any more). Raises OSError."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(directory, flags | os.O_TMPFILE, 0o600)
    except OSError:  # a file system that can't do that: NFS, for one
        path = os.path.join(directory, TEMPORARY_PREFIX + os.urandom(8).hex())
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        os.unlink(path)
        return fd
