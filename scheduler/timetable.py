"""When a policy's schedules want runs, and when these may begin. Pure: the time is an argument.

A slot is a time at which a schedule wants a run: each time of a cron line (in the policy's time zone, right across
daylight saving), or each multiple of an interval since 1970. With `jitter` a source's slots become due later by a share
of it that is a hash of source and policy: always the same, so that a slot keeps its own time, and its run its id. In a
blackout nothing begins; what is due then begins after it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim

from shared.ledger.model import slot_text

if TYPE_CHECKING:
    from shared.config.models import Policy
    from shared.config.scheduling import Blackout

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = 24 * 60  # minutes
_WEEK = 7 * _DAY
_SIX_FIELDS = 6
_MOVED = 120  # minutes by which clocks are put forward at most
_AHEAD = 3600.0  # seconds for which slots are worked out at once


class Schedule(Protocol):
    """A cron line of five or six fields (interval None), or an interval in seconds."""

    @property
    def text(self) -> str:
        """The cron line."""

    @property
    def interval(self) -> float | None:
        """Seconds, or None for a cron line."""


class Slots(NamedTuple):
    """The newest slot that has passed of each schedule of a policy, as `slot_text`; empty where there is none."""

    full: str
    incremental: str


def slots_since(schedule: Schedule, since: datetime, until: datetime, timezone: str = "UTC") -> list[datetime]:
    """The newest slot that is not after `since`, if there is any, and all from then to `until`, in UTC, in order.

    Both times have a zone.
    """
    if schedule.interval is not None:
        count = (since - _EPOCH).total_seconds() // schedule.interval
        last = (until - _EPOCH).total_seconds() // schedule.interval
        return [_EPOCH + timedelta(seconds=n * schedule.interval) for n in range(int(count), int(last) + 1)]
    # CronSim gives what lies strictly before its start, to the second or minute: start just after.
    start = until.astimezone(ZoneInfo(timezone)).replace(microsecond=0) + timedelta(seconds=1)
    found: list[datetime] = []
    for one in CronSim(schedule.text, start, reverse=True):
        slot: datetime = one.astimezone(UTC)
        if slot <= until:
            found.append(slot)
        if slot <= since:
            break
    return found[::-1]


def newest_slot(schedule: Schedule, now: datetime, timezone: str = "UTC") -> datetime | None:
    """The newest slot that is not after `now`, in UTC; None for a line that never came true."""
    found = slots_since(schedule, now, now, timezone)
    return found[-1] if found else None


def jitter_of(source: str, policy: str, window: float) -> float:
    """Seconds by which a source's slots become due later: whole ones, less than `window`."""
    digest = hashlib.sha256(f"holdfast jitter 1\0{source}\0{policy}".encode()).digest()
    return float(int.from_bytes(digest[:8]) % max(1, int(window)))


def blackout_end(blackouts: Sequence[Blackout], now: datetime, timezone: str = "UTC") -> datetime | None:
    """When the blackout ends in which `now` lies, in UTC; None where it lies in none.

    It goes by the clock on the wall: an hour that this skips in spring is skipped, one that it has twice counts twice.
    """
    if not blackouts:
        return None
    closed, zone = _closed(tuple(blackouts)), ZoneInfo(timezone)
    moment = now
    while (minute := _minute(moment.astimezone(zone))) in closed:
        ahead = next(more for more in range(1, _WEEK) if (minute + more) % _WEEK not in closed)
        # From afar in one step; near the end by minutes, for the wall may be moved in between.
        moment = moment.astimezone(UTC).replace(second=0, microsecond=0) + timedelta(minutes=max(1, ahead - _MOVED))
    return moment if moment > now else None


def _minute(wall: datetime) -> int:
    """The minute of the week, from Monday 00:00."""
    return wall.weekday() * _DAY + wall.hour * 60 + wall.minute


@lru_cache(maxsize=1024)
def _closed(blackouts: tuple[Blackout, ...]) -> frozenset[int]:
    return frozenset[int]().union(*(one.minutes() for one in blackouts))


class Timetable:
    """The slots of one policy around a moment. What was worked out is kept for as long as it holds."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._lines = [_Line(one, policy) if one else None for one in (policy.full, policy.incremental)]

    def slots(self, now: float) -> Slots:
        """What has passed at `now` (seconds since 1970; a source's jitter is taken off it)."""
        full, incremental = (line.newest(now) if line else "" for line in self._lines)
        return Slots(full, incremental)

    def closed_until(self, now: datetime) -> datetime | None:
        """The end of the blackout in which `now` lies, if any."""
        return blackout_end(self.policy.blackout, now, self.policy.timezone)


class _Line:
    """The slots of one schedule from `begin` to `end`, and the one that was the newest at `begin`."""

    def __init__(self, schedule: Schedule, policy: Policy) -> None:
        self._schedule, self._timezone, self._window = schedule, policy.timezone, policy.jitter or 0.0
        to_the_second = schedule.interval is None and len(schedule.text.split()) == _SIX_FIELDS
        self._ahead = _AHEAD / 60 if to_the_second else _AHEAD
        self._begin = self._end = 0.0
        self._times: list[float] = []
        self._texts: list[str] = []

    def newest(self, now: float) -> str:
        if not self._begin <= now < self._end:
            self._begin, self._end = now - self._window, now + self._window + self._ahead
            begin, end = (datetime.fromtimestamp(at, UTC) for at in (self._begin, self._end))
            found = slots_since(self._schedule, begin, end, self._timezone)
            self._times = [slot.timestamp() for slot in found]
            self._texts = [slot_text(slot) for slot in found]
        at = bisect_right(self._times, now)
        return self._texts[at - 1] if at else ""
