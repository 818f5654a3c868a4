"""What `holdfast status` says of the sites. Pure.

From what this machine remembers of its last look at the register, of its notes too, and from what was seen of them
lately. A person's order is said until it is taken back; where a site stands, only as long as the look is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from cli import format as show
from cli.sites.orders import describe
from cli.status.judge import Level, Problem
from shared.health.observation import Verdict
from shared.topology.notes import Phase, note_of, orders_of
from shared.topology.register import Standing

if TYPE_CHECKING:
    from shared.health.observation import Observation
    from shared.topology.state import State

_OLD = 300.0  # seconds after which a look says nothing any more about who answers

# What the failover's machine stands at, and for how bad that is. Where a stand-in is named already, no more is said.
_PHASES = {
    Phase.BLOCKED: (Level.BAD, "holdfast sites"),
    Phase.PROPOSED: (Level.BAD, "holdfast sites accept {site}"),
    Phase.PROMOTING: (Level.WARNING, "holdfast sites"),
}

_SAID = {
    Standing.SILENT: ("does not answer: nothing is forgotten or pruned until it does", "holdfast sites"),
    Standing.BEHIND: ("missed what the sites decided: nothing is forgotten or pruned", "holdfast sites settle"),
    Standing.BLANK: ("missed what the sites decided: nothing is forgotten or pruned", "holdfast sites settle"),
    Standing.ABSENT: ("has lost what the sites decided, and does not vote", "holdfast sites settle"),
    Standing.FORGOT: ("has lost what the sites decided, and does not vote", "holdfast sites settle"),
}


def problems(
    state: State | None, standing: Mapping[str, str], looked: float, configured: Mapping[str, object], now: float
) -> Iterator[Problem]:
    """What needs a look. `state`: None before the first vote; `looked`: when the members were asked last, 0 never."""
    if state is None:
        if looked and len(configured) > 1:
            text = "the sites have never voted: no failover is possible before"
            yield Problem(Level.WARNING, text, "holdfast sites settle")
        return
    for site, to in sorted(state.stand_ins.items()):
        since = next((one.at for one in reversed(state.history) if one.what.endswith(f" {site} to {to}")), 0.0)
        text = f"site {to} stands in for {site}{f' since {show.moment(since)}' if since else ''}"
        yield Problem(Level.WARNING, text, f"holdfast failback {site} --dry-run")
    yield from _ordered(state, now)
    for site in configured:
        if site not in state.members:
            yield Problem(Level.WARNING, f"site {site} is configured and does not vote", f"holdfast sites add {site}")
    if now - looked > _OLD:
        return
    for site, how in standing.items():
        if site in state.members and how in _SAID:
            said, command = _SAID[Standing(how)]
            yield Problem(Level.WARNING, f"site {site} {said}", command)
    for site in state.members:
        phase = note_of(state, site).phase
        if phase in _PHASES and site not in state.stand_ins:
            level, command = _PHASES[phase]
            yield Problem(level, describe(state, site, now), command.format(site=site))


def _ordered(state: State, now: float) -> Iterator[Problem]:
    """What people have told the failover's machine: as long as that stands, nobody takes the place of who dies."""
    if by := orders_of(state).paused_by:
        yield Problem(Level.WARNING, f"failover by itself is paused by {show.plain(by)}", "holdfast sites resume")
    for site in state.members:
        if (until := note_of(state, site).maintenance_until) > now:
            text = f"site {site} is in maintenance until {show.moment(until)}: it is not failed over by itself"
            yield Problem(Level.WARNING, text, f"holdfast sites maintenance {site} --end")


def seen_failing(seen: Iterable[Observation]) -> Iterator[Problem]:
    """Sites that somebody sees fail now; from several places it is the site, and not the network of one of them."""
    failing: dict[str, dict[str, Observation]] = {}
    for one in sorted(seen, key=lambda one: (one.site, one.at)):
        if not one.verdict.works:
            failing.setdefault(one.site, {})[one.place] = one
    for site, places in failing.items():
        last = list(places.values())[-1]
        verb = "refuses" if last.verdict is Verdict.REFUSED else "is down"
        text = f"site {site} {verb}, seen from {' '.join(sorted(places))}: {show.plain(last.why)}"
        yield Problem(Level.BAD if len(places) > 1 else Level.WARNING, text, "holdfast sites")
