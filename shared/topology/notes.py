"""What the failover's machine keeps in the register, site by site: where it stands, and what people have told it. Pure.

Whoever goes on with it, in whatever region, goes on from here. What this release can't read counts as not noted: then
the machine looks anew, and the register's epochs see to it that nothing is done twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.topology.state import State

ALL = "*"  # under this name stands what is about every site


class Phase(StrEnum):
    """Where a site stands. `suspect` is each failover worker's own view, and never noted."""

    HEALTHY = "healthy"
    SUSPECT = "suspect"  # it does not work, and not for long enough
    BLOCKED = "blocked"  # it is down, and something forbids to act: the note says what
    PROPOSED = "proposed"  # it is down, all is prepared, and a person is to say yes
    PROMOTING = "promoting"  # another site is about to take its place
    FAILED_OVER = "failed over"  # another has
    CATCHING_UP = "catching up"  # it works again, and one of the two lacks something
    READY = "ready"  # to go back: neither lacks anything
    SWITCHING_BACK = "switching back"


@dataclass(frozen=True, slots=True)
class Note:
    """A site's. Times in POSIX seconds by the clock of who wrote it.

    `to`: who is to take, or has taken, its place; `by`: the failover worker that wrote it; `why`: for people;
    `accepted`: a person has said yes to what was proposed or blocked; `maintenance_until`: nothing is to be done about
    it before; `turn`: one more with each note, so that no note is taken for another.
    """

    phase: Phase = Phase.HEALTHY
    to: str = ""
    by: str = ""
    since: float = 0.0
    why: str = ""
    accepted: bool = False
    maintenance_until: float = 0.0
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Orders:
    """What people have said about all of it. `paused_by`: nobody acts.

    `acknowledged`: the epoch up to which a person has seen what was done, so that no cool-down is needed.
    """

    paused_by: str = ""
    acknowledged: int = 0
    turn: int = 0


_TYPES: dict[type, list[tuple[str, type]]] = {
    kind: [(one.name, type(one.default)) for one in fields(kind)] for kind in (Note, Orders)
}


def note_of(state: State, site: str) -> Note:
    """What is noted of a site."""
    said = state.notes.get(site)
    if not said:
        return Note()
    try:
        return Note(**{**_known(said, Note), "phase": Phase(said.get("phase", Phase.HEALTHY))})
    except (TypeError, ValueError):
        return Note()


def orders_of(state: State) -> Orders:
    """What people have said."""
    said = state.notes.get(ALL)
    try:
        return Orders(**_known(said, Orders)) if said else Orders()
    except TypeError:
        return Orders()


def with_note(state: State, site: str, before: Note, after: Note) -> State:
    """The state with another note, where the one that was gone by still stands; else as it is."""
    if note_of(state, site) != before:
        return state
    return state.note(site, asdict(after))


def with_orders(state: State, orders: Orders) -> State:
    """The state with other orders."""
    return state.note(ALL, asdict(orders))


def _known(said: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """The fields that this release knows, each of its own type. Raises TypeError."""
    found = {}
    for name, wanted in _TYPES[kind]:
        if name not in said:
            continue
        value = said[name]
        if wanted is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, str if issubclass(wanted, str) else wanted):
            raise TypeError(name)
        found[name] = value
    return found
