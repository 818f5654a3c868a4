"""What every group of supervised processes has in common: the signals that end it, and what it tells a person."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from workers.children import Children

if TYPE_CHECKING:
    from types import FrameType

_LOOK = 0.25  # seconds between looks at the children
_PACE = 1.0  # seconds between what else is to be done


@contextmanager
def signals() -> Iterator[list[int]]:
    """A list that holds the signals which asked to stop."""
    asked: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    wanted = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        wanted.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in wanted}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def watch(children: Children, stop_asked: list[int], also: Callable[[], None] = lambda: None) -> None:
    """Look after the children, and do `also` each second, until asked to stop."""
    next_pace = time.monotonic()
    while not stop_asked:
        children.look()
        if time.monotonic() >= next_pace:
            also()
            next_pace = time.monotonic() + _PACE
        time.sleep(_LOOK)


def tell(line: str) -> None:
    """A line for a person, with the local time."""
    with suppress(BrokenPipeError, OSError):  # the terminal may have gone away; the work goes on
        sys.stdout.write(f"{time.strftime('%H:%M:%S')}  {line}\n")
        sys.stdout.flush()
