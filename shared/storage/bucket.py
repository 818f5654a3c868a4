"""One line's state in a file, shared by all processes of a machine: until when the line is taken (see `rates`).

    8 bytes magic | 16 bytes id of this boot | f64le taken until, by CLOCK_BOOTTIME | u32le CRC-32 of all before

Invariants: nobody waits while the file is locked, and a lock goes with its process, so a holder that is killed holds up
no one. The file may be deleted, replaced or filled with anything: what is not whole, not of this boot, or takes the
line for longer than waiting processes can, counts as not there. Where the file can't be used, or is locked by one that
is frozen, each process keeps to the rate by itself meanwhile.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress

from shared.storage.rates import Rates, grant

_RECORD = struct.Struct("<8s16sd")
_CRC = struct.Struct("<I")
_SIZE = _RECORD.size + _CRC.size
_MAGIC = b"hf.rate1"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_AHEAD_AT_MOST = 600.0  # seconds: as many stretches as twelve thousand uploads at once could have taken
_LOCK_PATIENCE = 0.5  # seconds; a lock is held for microseconds
_LEFT_ALONE = 5.0  # seconds for which a file that can't be used is left alone
_AGAIN = 0.001  # seconds between two tries for a lock
_TRIES = 5


def boot_clock() -> float:
    """Seconds since the machine was started: the same for all its processes, and no one sets it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Bucket:
    """The line of one direction: a machine's whole, or to one site. Safe for several threads; made after a fork."""

    def __init__(
        self,
        path: str,
        rates: Rates,
        *,
        clock: Callable[[], float] = boot_clock,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`path`: the file, which is made, with its directory. `clock` must be the same for all who share it."""
        self.rates = rates
        self._path = path
        self._clock = clock
        self._wall = wall
        self._boot = _boot_id()
        self._own = 0.0  # until when the line is taken, as far as this process knows
        self._avoid_until = 0.0
        self._mutex = threading.Lock()

    def rate(self) -> int:
        """Bytes per second now; 0 is no limit."""
        return self.rates.at(self._wall())

    def take(self, want: int) -> tuple[int, float]:
        """Reserve the next bytes: how many of `want`, and when (by `clock`) they may pass."""
        with self._mutex:
            if self._clock() >= self._avoid_until:
                try:
                    return self._shared(want)
                except OSError:
                    self._avoid_until = self._clock() + _LEFT_ALONE
            return self._grant(self._own, want)

    def _grant(self, free: float, want: int) -> tuple[int, float]:
        given = grant(self.rates, free, want, now=self._clock(), wall=self._wall())
        self._own = given.free
        return given.size, given.due

    def _shared(self, want: int) -> tuple[int, float]:
        fd = self._open_locked()
        try:
            known = self._read(fd)
            taken = self._grant(self._own if known is None else known, want)
            if known is None:
                os.ftruncate(fd, 0)
            head = _RECORD.pack(_MAGIC, self._boot, self._own)
            os.pwrite(fd, head + _CRC.pack(zlib.crc32(head)), 0)
        finally:
            os.close(fd)  # and so unlocked
        return taken

    def _open_locked(self) -> int:
        """The file that is at the path now, locked. Opened each time: it may be deleted, and a fork shares a lock."""
        for _ in range(_TRIES):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            try:
                fd = os.open(self._path, flags, 0o600)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
                continue
            try:
                self._lock(fd)
                if os.fstat(fd).st_nlink:
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise FileNotFoundError(self._path)

    def _lock(self, fd: int) -> None:
        end = time.monotonic() + _LOCK_PATIENCE
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() >= end:
                raise TimeoutError(self._path)
            time.sleep(_AGAIN)

    def _read(self, fd: int) -> float | None:
        raw = os.pread(fd, _SIZE + 1, 0)
        if len(raw) != _SIZE or _CRC.unpack_from(raw, _RECORD.size)[0] != zlib.crc32(raw[: _RECORD.size]):
            return None
        magic, boot, free = _RECORD.unpack_from(raw)
        whole = magic == _MAGIC and boot == self._boot and free <= self._clock() + _AHEAD_AT_MOST
        return free if whole else None


def _boot_id() -> bytes:
    try:
        with open(_BOOT_ID) as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)
