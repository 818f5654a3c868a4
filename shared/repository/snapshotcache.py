"""The cache of a repository's snapshots at a site: their stored bytes, sealed as the site has them.

    offset  size     what
    0       8        magic "HFSNAPS1"
    8       ...      records, in no set order

    record: id (32) | length (4, little-endian) | the stored bytes, `length` of them

Invariant: what it gives hashes to the id that was asked for, so no byte of the file is trusted. It is derived data:
deleting it, cutting it, changing any of its bytes at any time costs the time to fetch snapshots again, and never gives
a wrong answer or an error. It is replaced whole, by rename; of two that do so at once the later one stays.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterator, MutableMapping
from hashlib import sha256
from typing import BinaryIO

from shared.storage.durable import DurableFile, make_directories, remove_abandoned

MAGIC = b"HFSNAPS1"
RECORD = struct.Struct("<32sI")
LARGEST = 1 << 20  # bytes; a larger snapshot file is not kept. Usual are 500 to 1,000
_READ_AHEAD = 256 << 10  # bytes
_COPIED = 1 << 20  # bytes copied at a time


class SnapshotCache:
    """One look at a cache: `take` what it has, `add` what it had not, then `settle`. For one thread.

    Nothing raises for what is wrong with the file, its directory or the disk: then less is kept.
    """

    def __init__(self, directory: str, site: str, restic_id: str) -> None:
        """`directory` is for the snapshots of all repositories; it is made when there is something to keep."""
        name = sha256(b"\0".join((b"holdfast snapshots 1", site.encode(), restic_id.encode()))).hexdigest()[:32]
        self._directory = directory
        self.path = os.path.join(directory, name)
        self._old: BinaryIO | None = None
        self._good: list[tuple[int, int]] = []  # what `take` gave: from where, to where
        self._new: DurableFile | None = None
        self._differs = False  # whether the file holds what is not wanted
        self._taken = self._failed = False

    def take(self, wanted: MutableMapping[str, int]) -> Iterator[tuple[str, bytes]]:
        """Id (hex) and stored bytes of those of `wanted` (id to size) that are here; they are removed from it."""
        try:
            self._old = _open(self.path)
            if self._old is not None:
                self._differs = self._old.read(len(MAGIC)) != MAGIC
                if not self._differs:
                    yield from self._records(self._old, wanted)
        except OSError:
            self._differs = True
        self._taken = True

    def _records(self, file: BinaryIO, wanted: MutableMapping[str, int]) -> Iterator[tuple[str, bytes]]:
        at = len(MAGIC)
        while head := file.read(RECORD.size):
            if len(head) < RECORD.size:
                self._differs = True
                return
            digest, length = RECORD.unpack(head)
            if length > LARGEST:
                self._differs = True
                return
            stored = file.read(length)
            end = at + RECORD.size + length
            name = digest.hex()
            # A size that the site's listing does not have: it is damaged there, which is to be seen.
            if wanted.get(name) == length and sha256(stored).digest() == digest:
                del wanted[name]
                start = self._good.pop()[0] if self._good and self._good[-1][1] == at else at
                self._good.append((start, end))
                yield name, stored
            else:
                self._differs = True
            at = end

    def add(self, name: str, stored: bytes) -> None:
        """Keep what `take` did not have."""
        if len(stored) > LARGEST or sha256(stored).hexdigest() != name:
            return
        file = self._writing()
        if file is not None:
            with self._giving_up():
                file.write(RECORD.pack(bytes.fromhex(name), len(stored)) + stored)

    def settle(self) -> None:
        """Publish what was taken and added, without what is no longer wanted; nothing where that changes nothing."""
        file = self._writing() if self._differs or self._new is not None else None
        if file is not None:
            with self._giving_up():
                file.publish()
            file.close()
        if self._old is not None:
            self._old.close()

    def _writing(self) -> DurableFile | None:
        """The new file, begun with what was taken; nothing before all is taken, or where it can't be written."""
        if self._new is None and self._taken and not self._failed:
            with self._giving_up():
                make_directories(self._directory, mode=0o700, sync=False)
                remove_abandoned(self._directory)
                self._new = DurableFile(self.path, mode=0o600, sync=False)
                self._new.hold()
                self._new.write(MAGIC)
                self._copy(self._new)
        return None if self._failed else self._new

    def _copy(self, file: DurableFile) -> None:
        if self._old is None:
            return
        for start, end in self._good:
            at = start
            while at < end:
                data = os.pread(self._old.fileno(), min(_COPIED, end - at), at)
                if not data:
                    raise OSError(f"{self.path} was cut short")
                file.write(data)
                at += len(data)

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._failed = True
            if self._new is not None:
                self._new.close()


def _open(path: str) -> BinaryIO | None:
    """The file to read; None where there is none. Raises OSError."""
    try:
        # Not blocking: a fifo of that name must not hold us up.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} is no file")
    return open(fd, "rb", buffering=_READ_AHEAD)
