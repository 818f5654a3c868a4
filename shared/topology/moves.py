"""What changes the topology, by hand or by the failover worker: pure steps, and the one way they are made.

A `Move` gives the state after a state, or says by MoveRefused why there is none. It is asked again whenever the
register tries again, with what was decided meanwhile, so what it refuses is refused by the newest state; and it knows
its own claim in the history, so that asked twice it is made once.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from shared.errors import ConfigError
from shared.topology.errors import MoveRefused, StaleEpoch
from shared.topology.state import Change, Epoch, State

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.topology.register import Register

_LISTED = 20  # sources that the history names


class What(StrEnum):
    """The changes that there are."""

    FAILOVER = "failover"  # the site is gone: another takes its place, with what it has
    SWITCHOVER = "switchover"  # the same, planned: the other has all that the site has
    FAILBACK = "failback"  # the site takes its own place again
    ADD = "add"
    REMOVE = "remove"
    REMOVE_LOST = "remove lost"  # it is gone for good


def new_claim(by: str) -> str:
    """A claimant that nobody else has: who, and a word of its own."""
    return f"{by}/{secrets.token_hex(4)}"


@dataclass(frozen=True, slots=True)
class Move:
    """One change. `site`: whose place is taken or given back, who joins or leaves; `to`: who takes its place.

    `primaries`: the sites that the configuration names. `agreed`: it holds only for this very epoch.
    `behind`: what is thought lost, for the history.
    """

    what: What
    site: str
    to: str = ""
    by: str = ""
    why: str = ""
    behind: str = ""
    witness: bool = False
    primaries: frozenset[str] = frozenset()
    agreed: Epoch | None = None
    at: float = field(default_factory=time.time)  # POSIX seconds
    claim: str = field(default_factory=lambda: new_claim("move"))

    def __call__(self, state: State) -> State:
        """The state after it. Raises MoveRefused; StaleEpoch where all agreed on another one."""
        if self.claim in {one.epoch.claimant for one in state.history}:
            return state
        if self.agreed is not None and state.epoch != self.agreed:
            raise StaleEpoch(
                f"nothing was changed: the epoch was {self.agreed.number}, and is {state.epoch.number} now",
                hint="Start again",
            )
        made = Change(Epoch(state.epoch.number + 1, self.claim), self.at, self._said, self.why, self.by, self.behind)
        return _STEPS[self.what](self, state, made)

    @property
    def _said(self) -> str:
        return f"{self.what.value} {self.site}{f' to {self.to}' if self.to else ''}"


def carry_out(register: Register, move: Move, *, least: int = 0) -> State:
    """Make it so: the state that was decided. `least`: so many members are enough, as a person has said.

    Raises MoveRefused, StaleEpoch, NoMajority.
    """
    return register.change(move, least=least)


def primaries_of(fleet: Fleet) -> dict[str, str]:
    """The site that the configuration names for each source; without those for which it names none."""
    found = {}
    for source in fleet.sources:
        try:
            found[source] = fleet.configured_primary(source)
        except ConfigError:
            continue
    return found


def at_site(state: State, primaries: Mapping[str, str], site: str) -> list[str]:
    """The sources that are backed up to a site as the topology stands."""
    return [source for source, configured in primaries.items() if state.primary(configured) == site]


def returning(state: State, primaries: Mapping[str, str], site: str) -> list[str]:
    """The sources that go back to a site when it is given its place back."""
    given = replace(state, stand_ins={name: to for name, to in state.stand_ins.items() if name != site})
    here = set(at_site(state, primaries, site))
    return [source for source in at_site(given, primaries, site) if source not in here]


def enough(fleet: Fleet, state: State) -> int:
    """How many members may decide: 1 of two without a witness, where the configuration says so; 0: a majority."""
    two = len(state.members) == 2 and not state.witnesses
    return 1 if two and fleet.promote_without_majority else 0


def failed_site(state: State, primaries: Iterable[str], to: str) -> str:
    """The one primary that `to` can take the place of. Raises MoveRefused where there is not exactly one."""
    found = sorted({state.primary(one) for one in primaries} - {to})
    if len(found) == 1:
        return found[0]
    if not found:
        raise MoveRefused(f"site {to} is the primary of every source already")
    raise MoveRefused(f"several sites are primary: {', '.join(found)}", hint="Say which one with --site")


def first_of(lines: list[str]) -> str:
    """Some of these, and how many more there are: for the history."""
    more = f"; and {len(lines) - _LISTED:,} more" if len(lines) > _LISTED else ""
    return "; ".join(lines[:_LISTED]) + more


# -- the steps --------------------------------------------------------------------------------------


def _take_place(move: Move, state: State, made: Change) -> State:
    site, to = move.site, move.to
    _require_keeper(state, to)
    if site == to:
        raise MoveRefused(f"site {site} can't stand in for itself")
    now = state.primary(site)
    if now == to:
        raise MoveRefused(f"site {to} stands in for {site} already")
    if now != site:
        raise MoveRefused(f"site {now} stands in for {site} already", hint=f"To move from there: --site {now}")
    if site not in {state.primary(one) for one in move.primaries}:
        raise MoveRefused(f"site {site} is the primary of no source, so there is no place to take")
    if state.primary(to) not in {to, site}:
        raise MoveRefused(
            f"site {to} has a stand-in itself, {state.primary(to)}",
            hint=f"Give it back first (holdfast failback {to}), or name another site",
        )
    return state.promote(site, to, made)


def _give_back(move: Move, state: State, made: Change) -> State:
    _require_keeper(state, move.site)
    if move.site not in state.stand_ins:
        raise MoveRefused(f"no site stands in for {move.site}: there is nothing to give back")
    return state.give_back(move.site, made)


def _admit(move: Move, state: State, made: Change) -> State:
    if move.site in state.members:
        raise MoveRefused(f"site {move.site} is a member already")
    return state.admit(move.site, made, witness=move.witness)


def _dismiss(move: Move, state: State, made: Change) -> State:
    site = move.site
    if site not in state.members:
        raise MoveRefused(f"site {site} is no member: there are {', '.join(state.members)}")
    if state.keepers == (site,):
        raise MoveRefused(f"site {site} is the last one that keeps copies")
    if site in {state.primary(one) for one in (*move.primaries, *state.stand_ins)}:
        lost = move.what is What.REMOVE_LOST
        raise MoveRefused(
            f"site {site} is the primary of sources",
            hint=f"Move them first: holdfast {'failover' if lost else 'switchover'} --site {site} --to SITE",
        )
    return state.dismiss(site, made)


def _require_keeper(state: State, site: str) -> None:
    if site in state.witnesses:
        raise MoveRefused(f"site {site} is a witness: it keeps no copies")
    if site not in state.members:
        raise MoveRefused(
            f"site {site} is no member: there are {', '.join(state.members)}",
            hint=f"Let it vote first: holdfast sites add {site}",
        )


_STEPS: dict[What, Callable[[Move, State, Change], State]] = {
    What.FAILOVER: _take_place,
    What.SWITCHOVER: _take_place,
    What.FAILBACK: _give_back,
    What.ADD: _admit,
    What.REMOVE: _dismiss,
    What.REMOVE_LOST: _dismiss,
}
