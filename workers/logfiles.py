"""Logs that stay bounded: `NAME.log`, and the last few before it as `NAME.log.1` (the newest) to `.3`.

Invariant: only renames, by the supervisor alone, so no line is lost however many processes write. Copying and
truncating would lose what is written in between; a pipe through the supervisor would stop every backup once it is
stopped itself. Those who write go over to the new file by their next line: Holdfast's processes as they look for the
path's inode (`LogFile`), Valkey as it opens its log for each line. A kill between two renames leaves a gap in the
numbers, which the next rotation closes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress

AT_MOST = 16 << 20  # bytes after which a log is put aside, within seconds
KEPT = 3  # of each log, besides the one that is written


def rotate(path: str, *, at_most: int = AT_MOST, kept: int = KEPT) -> bool:
    """Put a log aside that has grown to `at_most` bytes. Raises nothing: a disk that is full stops no backup."""
    try:
        if os.stat(path).st_size < at_most:
            return False
        for number in range(kept, 0, -1):
            with suppress(FileNotFoundError):
                os.replace(f"{path}.{number - 1}" if number > 1 else path, f"{path}.{number}")
    except OSError:
        return False
    return True


class Rotation:
    """The logs of a group; `own` is that of this process itself, empty where a terminal shows what it says."""

    def __init__(self, own: str = "") -> None:
        self._own = own

    def look(self, paths: Iterable[str]) -> None:
        """Put aside what has grown too large."""
        for path in set(paths) - {"", self._own}:
            rotate(path)
        if self._own and rotate(self._own):
            lead_output_to(self._own)


def open_log(path: str) -> int:
    """A descriptor that appends to a log. Raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def lead_output_to(path: str) -> None:
    """Append this process's standard output and error to a log; both stay as they are where it can't be opened."""
    with suppress(OSError):
        fd = open_log(path)
        for target in (1, 2):
            os.dup2(fd, target)
        os.close(fd)
