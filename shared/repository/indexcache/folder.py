"""The directory of one cache: names of segments, its lock, and what a crash left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from shared.storage.durable import DurableFile, make_directories, remove_abandoned

SUFFIX = ".segment"
LOCK = "lock"


class Folder:
    """One cache's directory. It, and anything in it, may be deleted by anybody at any time."""

    def __init__(self, path: str) -> None:
        self.path = path

    def segments(self) -> list[str]:
        """The names of the segments; none where the directory is not there or can't be read."""
        try:
            return sorted(name for name in os.listdir(self.path) if name.endswith(SUFFIX))
        except OSError:
            return []

    def open(self, name: str) -> int:
        """A descriptor to read a segment. Raises OSError."""
        # Not blocking: a fifo of that name must not hold us up.
        return os.open(os.path.join(self.path, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)

    def create(self) -> tuple[str, DurableFile]:
        """A name and an unfinished file for a new segment. Raises OSError."""
        make_directories(self.path, mode=0o700, sync=False)
        name = os.urandom(12).hex() + SUFFIX
        file = DurableFile(os.path.join(self.path, name), mode=0o600, sync=False)
        file.hold()
        return name, file

    def remove(self, name: str) -> None:
        """Delete a segment; it may be gone already."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.path, name))

    def sweep(self, keep: AbstractSet[str]) -> None:
        """Delete segments that nobody needs any more, and what killed writers left. Only under the lock."""
        for name in set(self.segments()) - keep:
            self.remove(name)
        remove_abandoned(self.path)

    @contextlib.contextmanager
    def lock(self) -> Iterator[Lock]:
        """The writers' lock, not yet taken. It saves double work and guards no data."""
        fd = -1
        with contextlib.suppress(OSError):
            make_directories(self.path, mode=0o700, sync=False)
            fd = os.open(os.path.join(self.path, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            yield Lock(fd)
        finally:
            if fd >= 0:
                os.close(fd)


class Lock:
    """The lock file, open; its lock goes with it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.usable = fd >= 0  # whether waiting for it makes sense

    def take(self) -> bool:
        """Take it if nobody has it."""
        if not self.usable:
            return False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            self.usable = False
            return False
        return True
