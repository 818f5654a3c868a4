"""What many observations say of a site together. Pure.

Invariants: one place is one vote, whoever looks from there and however many do; what is old, of the future, or of
somebody who sees everything down counts nothing; a site is down, or works, where most of the places that count say so
and there are enough of them. Else nobody knows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shared.health.observation import Observation
    from workers.failover.rules import Rules

_AHEAD = 5.0  # seconds by which a clock may be ahead of ours


class Judgement(StrEnum):
    """Of a site, by all who look."""

    WORKS = "works"
    DOWN = "down"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Streak:
    """For how long the same was found of a site, by our own monotonic clock, and in how many looks in a row."""

    judgement: Judgement = Judgement.UNCLEAR
    since: float = 0.0
    times: int = 0

    def after(self, judgement: Judgement, at: float) -> Streak:
        """The streak with one more look."""
        if judgement is self.judgement:
            return replace(self, times=self.times + 1)
        return Streak(judgement, at, 1)


@dataclass(frozen=True, slots=True)
class Heard:
    """An observation, and when it came, by our own monotonic clock."""

    what: Observation
    at: float


def is_fresh(one: Heard, clock: float, old: float) -> bool:
    """Whether it came a moment ago."""
    return clock - one.at <= old


def tells_our_time(one: Heard, now: float, old: float) -> bool:
    """Whether it was made a moment ago by its observer's clock too: neither long ago, nor in what is to come."""
    return now - old <= one.what.at <= now + _AHEAD


def clock_is_off(heard: Iterable[Heard], place: str, rules: Rules, now: float, clock: float) -> bool:
    """Whether it is our clock that is wrong: of the other places that are heard now, most are of another time."""
    told: dict[str, bool] = {}
    for one in heard:
        if one.what.place != place and is_fresh(one, clock, rules.old):
            told[one.what.place] = told.get(one.what.place, False) or tells_our_time(one, now, rules.old)
    return 2 * sum(told.values()) < len(told)


def has_lost_its_network(verdicts: Collection[bool]) -> bool:
    """Whether who sees this is cut off himself, rather than that all is down: of several sites, none works."""
    return len(verdicts) > 1 and not any(verdicts)


def enough_agree(votes: int, counted: int, places: int, rules: Rules) -> bool:
    """Whether so many of the places that count say so that it can be gone by: most of them, no fewer than wanted.

    `places`: those that are heard of at all, and have not lost their network; one whose clock is wrong is one, though
    its word is none. A place that is not heard of has died, or is cut off: it takes no part. Where only one is left
    that one decides; the register still wants a majority of its members.
    """
    return votes >= min(rules.observers, max(1, places)) and 2 * votes > counted


def judge(
    heard: Iterable[Heard], sites: Collection[str], rules: Rules, now: float, clock: float
) -> Mapping[str, Judgement]:
    """What is known of each site. `now` in POSIX seconds, `clock` by our own."""
    newest: dict[tuple[str, str], Observation] = {}  # by place and site
    places = set()
    for told in heard:
        one = told.what
        if one.site not in sites or not is_fresh(told, clock, rules.old):
            continue
        places.add(one.place)
        if not tells_our_time(told, now, rules.old):
            continue
        before = newest.get((one.place, one.site))
        if before is None or one.at > before.at:
            newest[one.place, one.site] = one
    seen: defaultdict[str, dict[str, bool]] = defaultdict(dict)
    for (place, site), one in newest.items():
        seen[place][site] = one.verdict.works
    votes: defaultdict[str, list[bool]] = defaultdict(list)
    for place, verdicts in seen.items():
        if has_lost_its_network(verdicts.values()):
            places.discard(place)
            continue
        for site, works in verdicts.items():
            votes[site].append(works)
    return {site: _judged(votes[site], len(places), rules) for site in sites}


def _judged(votes: Collection[bool], places: int, rules: Rules) -> Judgement:
    up = sum(votes)
    if enough_agree(len(votes) - up, len(votes), places, rules):
        return Judgement.DOWN
    if enough_agree(up, len(votes), places, rules):
        return Judgement.WORKS
    return Judgement.UNCLEAR
