"""Events that are believed: sealed with a key that derives from the fleet's secret, which no agent has.

    {"v": 1, "event", "by", "n", "at", "said": {...}, "mac": hex HMAC-SHA256 of all the rest as canonical JSON}

`by` is who says it, `at` when (POSIX seconds, by his clock), `n` a number that rises with each of his events, across
restarts too: it begins with the time. Whoever hears one believes nothing that is forged, altered, too large, too old,
from the future, or heard before; he counts it, and goes on. So what is repeated or held back does no harm: within the
age that is believed its number tells, and beyond that its time does.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

VERSION = 1
SIZE_AT_MOST = 4096  # bytes of one event
_SPEAKERS = 10_000  # whose numbers are remembered
_NAME_AT_MOST = 200

MALFORMED, FORGED, LARGE = "malformed", "forged", "large"
OLD, EARLY, REPEATED = "old", "early", "repeated"
REASONS = (MALFORMED, FORGED, LARGE, OLD, EARLY, REPEATED)

Clock = Callable[[], float]


class NotBelieved(Exception):
    """An event that is ignored; its argument is one of `REASONS`."""


@dataclass(frozen=True, slots=True)
class Event:
    """One that is believed."""

    name: str
    by: str
    number: int
    at: float
    said: Mapping[str, Any]


def event_key(fleet_secret: bytes) -> bytes:
    """What a fleet's events are sealed with."""
    return hmac.new(fleet_secret, b"holdfast events 1", hashlib.sha256).digest()


class Sealer:
    """One speaker. For one thread at a time."""

    def __init__(self, key: bytes, by: str, *, clock: Clock = time.time) -> None:
        self.by = by
        self._key = key
        self._clock = clock
        self._number = 0

    def seal(self, name: str, said: Mapping[str, Any]) -> dict[str, Any]:
        """An event, as it is sent. Raises ValueError where it would be too large to be believed."""
        now = self._clock()
        self._number = max(self._number + 1, int(now * 1000))
        event: dict[str, Any] = {
            "v": VERSION,
            "event": name,
            "by": self.by,
            "n": self._number,
            "at": round(now, 3),
            "said": dict(said),
        }
        event["mac"] = _mac(self._key, event)
        size = len(json.dumps(event))
        if size > SIZE_AT_MOST:
            raise ValueError(f"event {name}: expected at most {SIZE_AT_MOST} bytes, found {size}")
        return event


def verify(raw: bytes | str, key: bytes, *, now: float, max_age: float, ahead: float) -> Event:
    """The event that this is. Raises NotBelieved. `max_age` and `ahead` in seconds, by the clock of who hears it."""
    if len(raw) > SIZE_AT_MOST:
        raise NotBelieved(LARGE)
    try:
        found = json.loads(raw)
        mac, event = found.pop("mac"), Event(found["event"], found["by"], found["n"], found["at"], found["said"])
        expected = _mac(key, found)
        shaped = found["v"] == VERSION and isinstance(mac, str) and _is_shaped(event)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise NotBelieved(MALFORMED) from None
    if not shaped:
        raise NotBelieved(MALFORMED)
    if not hmac.compare_digest(mac.encode(errors="replace"), expected.encode()):
        raise NotBelieved(FORGED)
    if event.at > now + ahead:
        raise NotBelieved(EARLY)
    if event.at < now - max_age:
        raise NotBelieved(OLD)
    return event


class Judge:
    """Who hears, and remembers the numbers that he has heard. For one thread at a time; never raises."""

    def __init__(self, key: bytes, *, max_age: float, ahead: float, clock: Clock = time.time) -> None:
        self.ignored: Counter[str] = Counter()  # by reason
        self._key = key
        self._max_age = max_age
        self._ahead = ahead
        self._clock = clock
        self._heard: dict[str, tuple[int, float]] = {}  # by speaker: the last number, and when he said it

    def judge(self, raw: bytes | str) -> Event | None:
        """The event, where it is to be believed; else it is counted."""
        now = self._clock()
        try:
            event = verify(raw, self._key, now=now, max_age=self._max_age, ahead=self._ahead)
            if event.number <= self._heard.get(event.by, (-1, 0.0))[0]:
                raise NotBelieved(REPEATED)
        except NotBelieved as error:
            self.ignored[str(error)] += 1
            return None
        self._heard[event.by] = (event.number, event.at)
        if len(self._heard) > _SPEAKERS:
            # What such a one has said is too old to be believed again; else the one who has been silent longest goes.
            stale = [by for by, (_, at) in self._heard.items() if at < now - self._max_age]
            for by in stale or [min(self._heard, key=lambda one: self._heard[one][1])]:
                del self._heard[by]
        return event

    def ignore(self, reason: str) -> None:
        """Count what was not even that."""
        self.ignored[reason] += 1


def _mac(key: bytes, event: Mapping[str, Any]) -> str:
    text = json.dumps(event, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _is_shaped(event: Event) -> bool:
    named = all(isinstance(one, str) and 0 < len(one) <= _NAME_AT_MOST for one in (event.name, event.by))
    number = isinstance(event.number, int) and not isinstance(event.number, bool) and event.number >= 0
    time_ = isinstance(event.at, int | float) and not isinstance(event.at, bool) and math.isfinite(event.at)
    return named and number and time_ and isinstance(event.said, dict)
