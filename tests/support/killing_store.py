"""A store that kills the process group that uses it, at one chosen operation: before, half-way or after.

Or it pauses there, so that a test can do something in the middle of a run.

Operations are counted across a forked process tree, reads and writes apart: each appends a line of fixed
length to a file of its own under an flock, so that the file's length is the count, and the file is the
record of what happened, also for the processes that did not live to tell.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shared.storage.api import Buffer, Capabilities, ObjectInfo, ObjectStore, Staged
from shared.storage.directory import DirectoryStore, _StagedFile
from shared.storage.durable import DurableFile, make_directories

_LINE = 128  # bytes
READS, WRITES = "reads", "writes"


@dataclass(frozen=True)
class Trap:
    """Where to kill: at operation `at` (from 1; 0 is never) among `kind`, "before", "half" or "after" its effect.

    With `when` = "pause" it waits there, before the effect, until `go_on` is called by another process.
    Only operations that begin with `prefix` ("put index/") count for `at`. Each put takes `delay` seconds longer,
    as on a disk that is waited for. `record` is a directory for the counts; a fresh one counts from zero.
    """

    record: str
    at: int = 0
    kind: str = WRITES
    when: str = "before"
    prefix: str = ""
    delay: float = 0.0

    def count(self, kind: str, operation: str, key: str) -> bool:
        """Note an operation; True if it is the one to die at."""
        line = f"{operation} {key}"
        fd = os.open(os.path.join(self.record, kind), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.write(fd, line.encode()[: _LINE - 1].ljust(_LINE - 1) + b"\n")
            if kind != self.kind or not line.startswith(self.prefix):
                return False
            noted = os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)
        return self.at == sum(noted[at:].startswith(self.prefix.encode()) for at in range(0, len(noted), _LINE))

    def pause(self) -> None:
        """Wait, in the process that came by, until told to go on."""
        _touch(os.path.join(self.record, "paused"))
        while not os.path.exists(os.path.join(self.record, "go")):
            time.sleep(0.005)

    @property
    def paused(self) -> bool:
        """Whether a process waits, or has waited."""
        return os.path.exists(os.path.join(self.record, "paused"))

    def go_on(self) -> None:
        """Let it go on."""
        _touch(os.path.join(self.record, "go"))


def operations(record: str, kind: str) -> list[str]:
    """The operations of that kind so far, as "put data/3f/3f9a..."."""
    try:
        with open(os.path.join(record, kind)) as file:
            return [line.rstrip() for line in file]
    except FileNotFoundError:
        return []


def _touch(path: str) -> None:
    with open(path, "w"):
        pass


def die() -> None:
    """SIGKILL the whole process group, as a power cut would; never returns."""
    os.killpg(0, signal.SIGKILL)
    time.sleep(60)  # the signal may reach another thread of this process first


class KillingStore:
    """An `ObjectStore` around a real one; see the module."""

    def __init__(self, inner: ObjectStore, trap: Trap) -> None:
        self._inner = inner
        self._trap = trap

    @property
    def url(self) -> str:
        """The inner one's."""
        return self._inner.url

    @property
    def connections(self) -> int:
        """The inner one's."""
        return self._inner.connections

    def _reached(self, kind: str, operation: str, key: str, data: Buffer | None = None) -> bool:
        """Count; die here if that is asked for. True: die after the effect."""
        if not self._trap.count(kind, operation, key):
            return False
        if self._trap.when == "pause":
            self._trap.pause()
            return False
        if self._trap.when == "half" and data is not None:
            self._write_half(key, data)
            die()
        if self._trap.when == "before":
            die()
        return True

    def _write_half(self, key: str, data: Buffer) -> None:
        """What a put that is cut off leaves: a temporary file with half of the bytes."""
        assert isinstance(self._inner, DirectoryStore)
        path = os.path.join(self._inner._base, key)
        make_directories(os.path.dirname(path))
        DurableFile(path).write(memoryview(data)[: len(data) // 2])

    def put(self, key: str, data: Buffer, *, sha256: str | None = None) -> None:
        """See `ObjectStore`."""
        dying = self._reached(WRITES, "put", key, data)
        time.sleep(self._trap.delay)
        self._inner.put(key, data, sha256=sha256)
        if dying:
            die()

    def stage(self, prefix: str, *, spool: str = "") -> Staged:
        """See `ObjectStore`. Staging, each write and publishing, which counts as a put, are operations."""
        dying = self._reached(WRITES, "stage", prefix)
        staged = self._inner.stage(prefix, spool=spool)
        if dying:
            die()
        return KillingStaged(staged, self._trap, prefix)

    def put_if_absent(self, key: str, data: Buffer) -> bool:
        """See `ObjectStore`."""
        dying = self._reached(WRITES, "put_if_absent", key, data)
        done = self._inner.put_if_absent(key, data)
        if dying:
            die()
        return done

    def compare_and_swap(self, key: str, data: Buffer, *, version: str) -> bool:
        """See `ObjectStore`."""
        dying = self._reached(WRITES, "compare_and_swap", key, data)
        done = self._inner.compare_and_swap(key, data, version=version)
        if dying:
            die()
        return done

    def delete(self, key: str) -> None:
        """See `ObjectStore`."""
        dying = self._reached(WRITES, "delete", key)
        self._inner.delete(key)
        if dying:
            die()

    def purge(self, key: str) -> None:
        """See `ObjectStore`; counted as the delete that it is."""
        dying = self._reached(WRITES, "delete", key)
        self._inner.purge(key)
        if dying:
            die()

    def get(self, key: str) -> bytes:
        """See `ObjectStore`."""
        self._read("get", key)
        return self._inner.get(key)

    def get_versioned(self, key: str) -> tuple[bytes, str]:
        """See `ObjectStore`."""
        self._read("get_versioned", key)
        return self._inner.get_versioned(key)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """See `ObjectStore`."""
        self._read("get_range", key)
        return self._inner.get_range(key, offset, length)

    def stat(self, key: str) -> ObjectInfo:
        """See `ObjectStore`."""
        self._read("stat", key)
        return self._inner.stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore`."""
        self._read("list", prefix)
        return self._inner.list(prefix)

    def clock(self) -> float:
        """See `ObjectStore`."""
        self._read("clock", "")
        return self._inner.clock()

    def _read(self, operation: str, key: str) -> None:
        if self._reached(READS, operation, key):
            die()  # a read has no effect: before and after are the same

    def probe(self) -> Capabilities:
        """See `ObjectStore`; not counted."""
        return self._inner.probe()

    def below(self, prefix: str) -> KillingStore:
        """See `ObjectStore`."""
        return KillingStore(self._inner.below(prefix), self._trap)

    def close(self) -> None:
        """See `ObjectStore`."""
        self._inner.close()


class KillingStaged:
    """What a `KillingStore` stages."""

    def __init__(self, inner: Staged, trap: Trap, prefix: str) -> None:
        assert isinstance(inner, _StagedFile)
        self._inner = inner
        self._trap = trap
        self._prefix = prefix

    def write(self, data: Buffer) -> None:
        """See `Staged`."""
        if self._reached("write", self._prefix, lambda: self._inner.write(memoryview(data)[: len(data) // 2])):
            self._inner.write(data)
            die()
        self._inner.write(data)

    def publish(self, key: str, *, sha256: str) -> None:
        """See `Staged`. Half-way it is durable and has no name yet."""
        dying = self._reached("put", key, self._inner._file._finish)
        time.sleep(self._trap.delay)
        self._inner.publish(key, sha256=sha256)
        if dying:
            die()

    def discard(self) -> None:
        """See `Staged`; not counted."""
        self._inner.discard()

    def _reached(self, operation: str, key: str, half: Callable[[], object]) -> bool:
        """As `KillingStore._reached`, with what to do half-way."""
        if not self._trap.count(WRITES, operation, key):
            return False
        if self._trap.when == "pause":
            self._trap.pause()
            return False
        if self._trap.when == "after":
            return True
        if self._trap.when == "half":
            half()
        die()
        return True
