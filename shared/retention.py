"""Which snapshots of a source are kept, and why: a pure function of the snapshots, the rules, the holds and the time.

For complete snapshots it is what stock `restic forget --keep-*` does: of each period the newest, of so many periods
that have one, counted from the newest; where fewer are found, the oldest snapshot too; `within` counts from the newest
snapshot, and not from now, so that a source that is no longer backed up loses nothing by that.

An incomplete snapshot pushes no complete one out. Each rule is applied to the complete ones alone, as if there were no
others; then to all, where an incomplete one counts for nothing in a period that has a complete one. What either keeps
is kept. Beyond the rules these are kept: the last complete one, the newest one (what is due follows from it), and
whatever is under a hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

LAST_GOOD = "last good snapshot"
NEWEST = "newest snapshot"
_HOLD = "hold: "
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST, _LATEST = -62_000_000_000, 253_000_000_000  # seconds: within what a datetime of any zone can say
_STEPS = ((604800, "w"), (86400, "d"), (3600, "h"), (60, "m"))

_Label = Callable[[datetime], str]
_PERIODS: tuple[tuple[str, _Label], ...] = (
    ("hourly", lambda at: f"{at:%Y-%m-%d %H}h"),
    ("daily", lambda at: f"{at:%Y-%m-%d}"),
    ("weekly", lambda at: "{}-W{:02d}".format(*at.isocalendar())),
    ("monthly", lambda at: f"{at:%Y-%m}"),
    ("yearly", lambda at: f"{at:%Y}"),
)


@dataclass(frozen=True, slots=True)
class Rules:
    """How many are kept of each kind of period; 0 for none. `within` is in seconds."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: float = 0.0

    @property
    def keeps_nothing(self) -> bool:
        """Whether no rule keeps a snapshot."""
        return self == Rules()


@dataclass(frozen=True, slots=True)
class Point:
    """A snapshot as far as retention looks at it. `time`: nanoseconds since 1970."""

    id: str
    time: int
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a snapshot: kept for all of these reasons, or forgotten where there is none."""

    id: str
    reasons: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether it stays."""
        return bool(self.reasons)


def decide(
    points: Iterable[Point], rules: Rules | None, holds: Mapping[str, str], now: float, zone: tzinfo
) -> list[Verdict]:
    """The verdict on each snapshot of ONE source at one site, newest last. Without rules all are kept.

    `holds`: the reasons of those that count now, by snapshot. `now`: seconds since 1970. `zone`: whose days count.
    """
    newest_first = sorted(points, key=lambda point: (point.time, point.id), reverse=True)
    reasons: dict[str, list[str]] = {point.id: [] for point in newest_first}
    if rules is None:
        _add(reasons, dict.fromkeys(reasons, "no rules"))
    else:
        for name, label in _PERIODS:
            _add(reasons, _by_period(newest_first, name, getattr(rules, name), label, zone))
        _add(reasons, _newest(newest_first, rules.last))
        _add(reasons, _within(newest_first, rules.within, now))
    _add(reasons, protected(newest_first))
    _add(reasons, {name: f"{_HOLD}{holds[name]}" for name in reasons if name in holds})
    return [Verdict(point.id, tuple(reasons[point.id])) for point in reversed(newest_first)]


def protected(points: Iterable[Point]) -> dict[str, str]:
    """The snapshots of one source that no rule may have forgotten, with the reason; the last good one nobody may."""
    newest_first = sorted(points, key=lambda point: (point.time, point.id), reverse=True)
    found = {newest_first[0].id: NEWEST} if newest_first else {}
    good = next((point.id for point in newest_first if point.complete), None)
    return {**found, good: LAST_GOOD} if good else found


def _add(reasons: Mapping[str, list[str]], found: Mapping[str, str]) -> None:
    for name, why in found.items():
        reasons[name].append(why)


def _by_period(points: Sequence[Point], name: str, count: int, label: _Label, zone: tzinfo) -> dict[str, str]:
    labels = {point.id: label(_moment(point, zone)) for point in points} if count else {}
    if not labels:
        return {}
    complete = [point for point in points if point.complete]
    whole = {labels[point.id] for point in complete}
    counting = [point for point in points if point.complete or labels[point.id] not in whole]
    return {**_pick(counting, name, count, labels), **_pick(complete, name, count, labels)}


def _pick(points: Sequence[Point], name: str, count: int, labels: Mapping[str, str]) -> dict[str, str]:
    picked: dict[str, str] = {}
    before = ""
    for point in points:
        if len(picked) == count:
            break
        period = labels[point.id]
        if period != before:
            picked[point.id] = f"{name} {period}"
        elif point is points[-1]:
            picked[point.id] = f"oldest, {name} {period}"  # there are fewer periods than are to be kept
        before = period
    return picked


def _newest(points: Sequence[Point], count: int) -> dict[str, str]:
    complete = [point for point in points if point.complete]
    return {point.id: f"last {count}" for point in (*points[:count], *complete[:count])}


def _within(points: Sequence[Point], seconds: float, now: float) -> dict[str, str]:
    if not seconds:
        return {}
    complete = [point for point in points if point.complete]
    kept = [point for point in complete if point.time > _from(complete, seconds, now)]
    kept += [point for point in points if not point.complete and point.time > _from(points, seconds, now)]
    return {point.id: f"within {span(seconds)}" for point in kept}


def _from(points: Sequence[Point], seconds: float, now: float) -> int:
    """Where `within` begins: so long before the newest that is not of the future."""
    limit = int(now * 1e9)
    return next((point.time for point in points if point.time < limit), limit) - int(seconds * 1e9)


def _moment(point: Point, zone: tzinfo) -> datetime:
    seconds = min(max(point.time // 1_000_000_000, _EARLIEST), _LATEST)
    return (_EPOCH + timedelta(seconds=seconds)).astimezone(zone)


def span(seconds: float) -> str:
    """Seconds as a configuration says them: `1h30m`, `30d`, `2w`."""
    for length, unit in _STEPS[:2]:
        if seconds and seconds % length == 0:
            return f"{seconds / length:.0f}{unit}"  # 30d, and not 4w2d
    left, text = seconds, ""
    for length, unit in _STEPS:
        count, left = divmod(left, length)
        if count:
            text += f"{count:.0f}{unit}"
    return text + (f"{left:g}s" if left or not text else "")
