"""When to try again: exponential backoff with full jitter, until a deadline.

Only `Transient` is tried again. Full jitter (a wait drawn evenly from zero to the bound) keeps a
thousand agents from coming back in step when a site returns.

Retries are counted over a process and all that it forks later, in a page that they share: `retries`.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from shared.storage.api import Transient

T = TypeVar("T")

_COUNT = struct.Struct("=Q")
_counts = mmap.mmap(-1, mmap.PAGESIZE)  # a slot for each process, so that none waits for another

DEFAULT_DEADLINE = 60.0  # seconds; outlasts the restart of a MinIO


_DRAW = random.Random()  # noqa: S311 - of its own: who seeds the shared one must find it undisturbed


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long (seconds from the first failure), and how often (0: any number), an operation is tried."""

    deadline: float = DEFAULT_DEADLINE
    tries: int = 0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long and how often to try again. All times in seconds, on the monotonic clock.

    The deadline counts from the first failure, not from the start: a pack that takes minutes over
    a slow line still gets its second try. `sleep`, `clock` and `draw` (0.0 to 1.0) are for tests.
    """

    deadline: float = DEFAULT_DEADLINE
    first: float = 0.1  # bound of the first wait; doubled each time
    longest: float = 5.0  # bound of every wait
    tries: int = 0  # after which it is given up; 0: none
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    draw: Callable[[], float] = field(default=_DRAW.random, repr=False)

    def run(self, attempt: Callable[[], T]) -> T:
        """The result of `attempt`, called again after each Transient; the last Transient when time is up."""
        tries = 0
        end = None
        while True:
            try:
                return attempt()
            except Transient as error:
                tries += 1
                now = self.clock()
                if end is None:
                    end = now + self.deadline
                wait = self.draw() * min(self.longest, self.first * 2.0 ** min(tries - 1, 32))
                if now + wait > end or tries == self.tries:
                    if tries == 1:
                        raise
                    spent = now - end + self.deadline
                    message = f"{error.args[0]}, given up after {tries} tries in {spent:.1f} s"
                    last = Transient(message, hint=error.hint)
                    last.site = error.site
                    raise last from error
                _count()
                self.sleep(wait)


def retries() -> int:
    """How often this process and its helpers have tried again so far."""
    return sum(count for (count,) in _COUNT.iter_unpack(_counts[:]))


def _count() -> None:
    slot = os.getpid() * _COUNT.size % mmap.PAGESIZE
    _COUNT.pack_into(_counts, slot, _COUNT.unpack_from(_counts, slot)[0] + 1)
