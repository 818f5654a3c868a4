"""What every group of supervised processes has in common: the signals that end it, and what it tells a person."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from workers.children import Children

if TYPE_CHECKING:
    from types import FrameType

_LOOK = 0.25  # seconds between looks while somebody is down; one that dies is seen at once
_PACE = 1.0  # seconds between what else is to be done
_ASK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Asked:
    """Whether a signal has asked the group to stop; `wait` sleeps until one comes, or a child has ended."""

    def __init__(self, wakes: socket.socket) -> None:
        self.stop = False
        self._wakes = wakes

    def wait(self, seconds: float) -> None:
        """Sleep, but not through a signal."""
        select.select([self._wakes], [], [], max(0.0, seconds))
        with suppress(BlockingIOError):
            while self._wakes.recv(4096):
                pass


@contextmanager
def signals() -> Iterator[Asked]:
    """Listen to the signals that end a group, and to its children's ends. For the main thread."""
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        asked = Asked(reader)

        def note(number: int, _frame: FrameType | None) -> None:
            asked.stop = asked.stop or number in _ASK

        wanted = [number for number in _ASK if signal.getsignal(number) is not signal.SIG_IGN]  # as under nohup
        before = {number: signal.signal(number, note) for number in (*wanted, signal.SIGCHLD)}
        woken = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield asked
        finally:
            signal.set_wakeup_fd(woken)
            for number, handler in before.items():
                signal.signal(number, handler)


def watch(children: Children, asked: Asked, also: Callable[[], None] = lambda: None) -> None:
    """Look after the children, and do `also` each second, until asked to stop or until all have been drained."""
    next_pace = time.monotonic()
    while not asked.stop and not children.are_drained:
        children.look()
        if time.monotonic() >= next_pace:
            also()
            next_pace = time.monotonic() + _PACE
        soon = _PACE if children.are_settled else _LOOK
        asked.wait(min(soon, next_pace - time.monotonic()))


def tell(line: str) -> None:
    """A line for a person, with the local time."""
    # Past Python's buffers, which would keep what a full disk refused. The terminal may have gone away, too.
    with suppress(OSError):
        os.write(1, f"{time.strftime('%H:%M:%S')}  {line}\n".encode(errors="backslashreplace"))
