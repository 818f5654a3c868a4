"""What forbids a failover: each guard alone, by name. Pure.

A guard gives the reason for which nothing is done, for people, and nothing where it has none. All of them are asked
before another site takes a place, and again at each step until it has. Those of `OURS` are about this worker alone: it
waits, and another one may act. What those of `ALL` say is noted for people, so it is the same from step to step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.topology.moves import What
from shared.topology.notes import note_of, orders_of
from workers.failover.judge import Judgement, Streak

if TYPE_CHECKING:
    from shared.topology.state import Change, State
    from workers.failover.rules import Rules

_HOUR = 3600.0
_MOVES = (What.FAILOVER.value, What.SWITCHOVER.value, What.FAILBACK.value)


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a step goes by. Times in seconds: `now` by the wall's clock, `clock` by our own, which never jumps.

    `state`: the register's. `primaries`: the sites that the configuration names. `streaks`: of each site. `behind`: by
    site and who might take its place, for each source that would be lost more than its RPO allows, a text. `alike`: of
    a site in whose place another is, whether neither lacks anything. `began`: when we started; `jumped`: when the
    wall's clock was last found to have jumped; `off`: it is not that of the others; `confirmed`: another
    says the same. `met`: by epoch, when we saw it decided; by site, when its note came. `back_at`: whether a switch
    back by itself is allowed now.
    """

    state: State
    now: float
    clock: float
    primaries: frozenset[str]
    streaks: Mapping[str, Streak]
    behind: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    alike: Mapping[str, bool] = field(default_factory=dict)
    began: float = float("-inf")
    jumped: float = float("-inf")
    off: bool = False
    confirmed: bool = True
    met: Mapping[object, float] = field(default_factory=dict)
    back_at: bool = False

    def streak(self, site: str) -> Streak:
        """What is found of it, and for how long."""
        return self.streaks.get(site, Streak())

    def lasted(self, change: Change) -> float:
        """For how long a change has stood. By our own clock where we saw it made: whose clock made it, nobody knows.

        Where we did not, and no other clock confirms ours, it counts from our start: ours may be an hour ahead.
        """
        if (met := self.met.get(change.epoch)) is not None:
            return self.clock - met
        told = max(0.0, self.now - change.at)
        return told if self.confirmed else min(told, self.clock - self.began)


def not_long_enough(site: str, seen: Seen, rules: Rules) -> str:
    """Once, or for a moment, any site fails to answer."""
    streak = seen.streak(site)
    if streak.judgement is not Judgement.DOWN:
        return f"site {site} is not known to be down"
    if streak.times < rules.down_times or seen.clock - streak.since < rules.down_after:
        return f"site {site} is down, and not for long enough"
    return ""


def just_started(site: str, seen: Seen, rules: Rules) -> str:
    """What was found in the first moments may be our own coming up."""
    return f"started too lately to act on site {site}" if seen.clock - seen.began < rules.grace else ""


def clock_jumped(site: str, seen: Seen, rules: Rules) -> str:
    """After a sleep, or another's hand on the clock, what is fresh is not known."""
    return f"the clock jumped too lately to act on site {site}" if seen.clock - seen.jumped < rules.grace else ""


def clock_off(site: str, seen: Seen, _rules: Rules) -> str:
    """By a clock that is wrong, what others say is old, and one would decide alone."""
    return f"the clock here is not that of others: no word on site {site}" if seen.off else ""


def paused(_site: str, seen: Seen, _rules: Rules) -> str:
    """A person wants no automatic failover at all."""
    by = orders_of(seen.state).paused_by
    return f"failover was paused by {by}" if by else ""


def in_maintenance(site: str, seen: Seen, _rules: Rules) -> str:
    """Its being down is planned."""
    return f"site {site} is in maintenance" if note_of(seen.state, site).maintenance_until > seen.now else ""


def cooling_down(site: str, seen: Seen, rules: Rules) -> str:
    """Soon after a site has taken a place or lost it, another change is rather part of the trouble than its end."""
    orders = orders_of(seen.state)
    for change in seen.state.history:
        concerned = change.what.startswith(_MOVES) and site in change.what.split()[1:]
        if concerned and change.epoch.number > orders.acknowledged and seen.lasted(change) < rules.cool_down:
            return f"there was a {change.what} (epoch {change.epoch.number}) lately: wait, or acknowledge it"
    return ""


def too_many_moves(_site: str, seen: Seen, rules: Rules) -> str:
    """So many in an hour are no recovery."""
    moves = [one for one in seen.state.history if one.what.startswith(_MOVES) and seen.lasted(one) < _HOUR]
    return f"there were {len(moves)} changes of primary within an hour" if len(moves) >= rules.at_most else ""


Guard = Callable[[str, Seen, "Rules"], str]
OURS: tuple[Guard, ...] = (just_started, clock_jumped, clock_off, not_long_enough)
ALL: tuple[Guard, ...] = (paused, in_maintenance, cooling_down, too_many_moves)


# -- who may take the place -----------------------------------------------------------------------


def unfit(site: str, to: str, seen: Seen, _rules: Rules) -> str:
    """A place is taken by who keeps copies, works, and is not about to be worked on."""
    if to == site or to not in seen.state.keepers:
        return f"site {to} keeps no copies"
    if seen.state.primary(to) not in {to, site}:
        return f"site {to} has a stand-in itself"
    if seen.streak(to).judgement is not Judgement.WORKS:
        return f"site {to} is not known to work"
    if note_of(seen.state, to).maintenance_until > seen.now:
        return f"site {to} is in maintenance"
    return ""


def too_far_behind(site: str, to: str, seen: Seen, _rules: Rules) -> str:
    """More would be lost than was agreed on: that takes a person's word."""
    lost = seen.behind.get((site, to))
    if lost is None:
        return f"how far site {to} is behind is not known"
    return f"site {to} is too far behind: {'; '.join(lost)}" if lost else ""
