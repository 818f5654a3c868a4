"""Helper processes of an engine: one per core, forked before any thread or connection exists.

Framing on a socket pair: u32le length | marshal of one object (bytes, str, int, tuples, lists, dicts
of those). Both ends are the same program after a fork, so marshal is safe and is the fastest there is.

Invariants: the coordinator never blocks in a send (what does not fit waits in its own buffer), so two
full sockets can't wait for each other; a helper ends when its socket closes, however the coordinator died.
"""

from __future__ import annotations

import ctypes
import gc
import marshal
import os
import select
import selectors
import signal
import socket
import struct
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from shared.errors import HoldfastError

_LENGTH = struct.Struct("<I")
_READ_SIZE = 1 << 18  # bytes asked for at once
_PATIENCE, _LAST_PATIENCE = 10.0, 2.0  # seconds for a helper to end by itself, and once it is killed
_SOCKET_BUFFER = 1 << 20  # bytes


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h


def give_memory_back() -> None:
    """Make malloc return what is freed: a fleet's servers have other work for it than an engine's leftovers.

    glibc by default raises its thresholds to the largest file read so far and gives each thread an arena. Fixed
    ones take a sixth off a backup of 64,000 files; lower still, they cost page faults. Does nothing with
    another C library.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 512 << 10)
    mallopt(_M_TRIM_THRESHOLD, 2 << 20)
    mallopt(_M_ARENA_MAX, 1)


class HelperDied(HoldfastError):
    """A helper process ended before it was told to; the run can be tried again."""

    exit_code = 42


class CoordinatorGone(Exception):
    """Raised in a helper whose coordinator has ended: nothing is left to do for it."""


class Channel:
    """A helper's end: blocking, for one thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def send(self, message: Any) -> None:
        """Send one message. Raises CoordinatorGone."""
        raw = marshal.dumps(message)
        try:
            self._sock.sendall(_LENGTH.pack(len(raw)) + raw)
        except OSError as error:
            raise CoordinatorGone from error

    def waiting(self) -> bool:
        """Whether something has come that `receive` would not have to wait for."""
        return bool(self._buffer) or bool(self._poll.poll(0))

    def look(self) -> bool:
        """For what waits long, in any thread: raises CoordinatorGone once the other end is closed; else False."""
        poll = select.poll()  # one of its own: a poll object is for one thread
        poll.register(self._sock, select.POLLRDHUP)
        if poll.poll(0):
            raise CoordinatorGone
        return False

    def receive(self) -> Any:
        """The next message; waits for it. Raises CoordinatorGone."""
        while True:
            message = _take(self._buffer)
            if message is not None:
                return message
            try:
                data = self._sock.recv(_READ_SIZE)
            except OSError as error:
                raise CoordinatorGone from error
            if not data:
                raise CoordinatorGone
            self._buffer += data


def _take(buffer: bytearray) -> Any:
    if len(buffer) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(buffer)
    end = _LENGTH.size + length
    if len(buffer) < end:
        return None
    message = marshal.loads(bytes(memoryview(buffer)[_LENGTH.size : end]))  # noqa: S302 -- our own fork's bytes
    del buffer[:end]
    return message


class HelperPool:
    """The coordinator's side: forks `count` helpers that each run `main(channel)`."""

    def __init__(self, count: int, main: Callable[[Channel], None]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        give_memory_back()
        gc.collect()
        gc.freeze()  # what is shared stays shared: the collector would touch, and so copy, every page
        gc.set_threshold(50_000, 20, 100)  # messages are many small tuples and no cycles
        self.pids: list[int] = []
        self._socks: list[socket.socket] = []
        self._inbox: list[bytearray] = [bytearray() for _ in range(count)]
        self._outbox: list[deque[memoryview]] = [deque() for _ in range(count)]
        self._selector = selectors.DefaultSelector()
        for _ in range(count):
            self._fork(main)
        for number, sock in enumerate(self._socks):
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ, number)

    def __len__(self) -> int:
        """How many helpers there are."""
        return len(self.pids)

    def _fork(self, main: Callable[[Channel], None]) -> None:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        pid = os.fork()
        if pid:
            theirs.close()
            self._socks.append(ours)
            self.pids.append(pid)
            return
        code = 1
        try:
            for sock in (*self._socks, ours):
                sock.close()
            self._selector.close()
            # A terminal's Ctrl-C reaches the whole group: only the coordinator acts on it.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            main(Channel(theirs))
            code = 0
        except CoordinatorGone:
            code = 0
        except BaseException:  # noqa: BLE001 -- the last line of a process: nothing may pass into the parent's frames
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def send(self, number: int, message: Any) -> None:
        """Queue a message for a helper; never blocks."""
        raw = marshal.dumps(message)
        outbox = self._outbox[number]
        outbox.append(memoryview(_LENGTH.pack(len(raw)) + raw))
        if len(outbox) == 1:
            self._write(number)

    def broadcast(self, message: Any) -> None:
        """Queue a message for every helper."""
        for number in range(len(self.pids)):
            self.send(number, message)

    def poll(self, timeout: float | None) -> Iterator[tuple[int, Any]]:
        """Messages that have come, as (helper number, message); waits up to `timeout` seconds for the first.

        Raises HelperDied.
        """
        for key, events in self._selector.select(timeout):
            number: int = key.data
            if events & selectors.EVENT_WRITE:
                self._write(number)
            if not events & selectors.EVENT_READ:
                continue
            try:
                data = self._socks[number].recv(_READ_SIZE)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                raise HelperDied(
                    f"helper process {self.pids[number]} ended unexpectedly",
                    hint="It may have been killed for want of memory; what was uploaded is kept, so run it again",
                )
            inbox = self._inbox[number]
            inbox += data
            while (message := _take(inbox)) is not None:
                yield number, message

    def _write(self, number: int) -> None:
        outbox = self._outbox[number]
        try:
            while outbox:
                sent = self._socks[number].send(outbox[0])
                if sent == len(outbox[0]):
                    outbox.popleft()
                else:
                    outbox[0] = outbox[0][sent:]
        except BlockingIOError:
            pass
        except OSError:
            outbox.clear()  # its death is reported by the read side
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if outbox else 0)
        self._selector.modify(self._socks[number], events, number)

    def close(self) -> None:
        """End the helpers by closing their sockets, and wait for them; one that does not end in time is killed.

        One that hangs in the kernel (a dead network mount) can't even be killed: it is left to init. May be called
        twice.
        """
        for sock in self._socks:
            self._selector.unregister(sock)
            sock.close()
        self._socks.clear()
        self._selector.close()
        pids, self.pids = self.pids, []
        left = _reap(pids, _PATIENCE)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        _reap(left, _LAST_PATIENCE)
        gc.unfreeze()


def _reap(pids: list[int], patience: float) -> list[int]:
    """Wait up to `patience` seconds for these children; those that have not ended."""
    end = time.monotonic() + patience
    left = list(pids)
    while True:
        left = [pid for pid in left if os.waitpid(pid, os.WNOHANG) == (0, 0)]
        if not left or time.monotonic() >= end:
            return left
        time.sleep(0.002)
