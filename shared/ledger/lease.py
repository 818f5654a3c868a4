"""A lease as its holder sees it.

Redis counts a lease's time by its own clock, inside the scripts. The holder counts from just before it asked, by
CLOCK_BOOTTIME (which runs on while the machine sleeps), and takes the lease for gone a third early: so whoever
believes to hold it does, however slow the answer was.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

LEASE_SECONDS = 15.0
_TRUSTED = 2 / 3


def boot_clock() -> float:
    """Seconds since the machine was started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on one run. `asked` is `boot_clock()` before the call that got or renewed it."""

    run_id: str
    token: str
    asked: float
    seconds: float = LEASE_SECONDS
    attempt: int = 1
    deaths: int = 0  # attempts before this one that died

    def held(self, now: float | None = None) -> bool:
        """Whether the lease certainly stands at `now` (by `boot_clock`)."""
        return (boot_clock() if now is None else now) < self.asked + self.seconds * _TRUSTED

    def renewed(self, asked: float) -> Lease:
        """The same lease, renewed by a call that was made at `asked`."""
        return replace(self, asked=asked)
