"""How fast bytes may pass, by the hour of the day, and when the next ones are due. Pure: each time is an argument.

A line is described by one number: the time until which it is taken (`free`). Whoever wants to pass bytes takes the
next stretch of it, and may pass them once that stretch is over. So n bytes take n / rate seconds, however many share
the line, and those who wait are served in the order in which they came.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

UNLIMITED = 0
STRETCH = 0.05  # seconds of the line that are given at once: the most that one who waits holds up another
CREDIT = 0.5  # seconds of an idle line that may be made up for: what passes in t seconds is rate * (t + CREDIT) at most


@dataclass(frozen=True)
class Rates:
    """Bytes per second: `base`, but for `windows` of the day; UNLIMITED is no limit."""

    base: int = UNLIMITED
    windows: tuple[tuple[int, int, int], ...] = ()  # from, to (minutes of the day; to may lie before from), rate
    timezone: str = ""  # of the windows, an IANA name; empty: that of the machine

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Rates:
        """Read what `to_json` gave."""
        return cls(data["base"], tuple((start, end, rate) for start, end, rate in data["windows"]), data["timezone"])

    def to_json(self) -> dict[str, Any]:
        """Plain data for a pipe."""
        return {"base": self.base, "windows": [list(window) for window in self.windows], "timezone": self.timezone}

    def at(self, when: float) -> int:
        """The rate at a time (POSIX seconds), by the clock on the wall: an hour that it skips has no window."""
        if not self.windows:
            return self.base
        local = datetime.fromtimestamp(when, self._zone)
        minute = local.hour * 60 + local.minute
        for start, end, rate in self.windows:
            if start <= minute < end if start < end else minute >= start or minute < end:
                return rate
        return self.base

    @cached_property
    def _zone(self) -> ZoneInfo | None:
        if not self.timezone:
            return None
        from zoneinfo import ZoneInfo

        return ZoneInfo(self.timezone)


class Grant(NamedTuple):
    """`size` bytes may pass at `due`; the line is taken until `free`. Times in seconds, by the asker's clock."""

    size: int
    due: float
    free: float


def grant(rates: Rates, free: float, want: int, *, now: float, wall: float) -> Grant:
    """Give up to `want` bytes of a line that is taken until `free`; `wall` is `now` in POSIX seconds.

    A stretch goes at the rate of the moment at which it begins, so a change of rate is late by a stretch at most.
    """
    begin = max(free, now - CREDIT)
    rate = rates.at(wall + begin - now)
    if rate == UNLIMITED:
        return Grant(want, begin, begin)
    count = min(want, max(1, int(rate * STRETCH)))
    due = begin + count / rate
    return Grant(count, due, due)
