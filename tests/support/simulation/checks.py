"""What must hold after every step, told from what is so in the world, and not by the code that is looked at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.topology.moves import What
from shared.topology.notes import Phase, note_of, orders_of
from tests.support.simulation.crew import LOST_AT_MOST, PRIMARY, RULES
from tests.support.simulation.world import TICK

if TYPE_CHECKING:
    from shared.topology.state import Epoch, State
    from tests.support.simulation.world import World
    from workers.failover.machine import Make
    from workers.failover.rules import Rules


class Wrong(AssertionError):
    """Something that must not be."""


@dataclass
class Checks:
    """`times`: by epoch, the tick at which it was decided; `by_machine`: the ticks of moves that nobody asked for."""

    world: World
    times: dict[Epoch, int] = field(default_factory=dict)
    by_machine: list[int] = field(default_factory=list)
    last: State | None = None

    def after(self) -> None:
        """What must hold after every step."""
        world = self.world
        state = world.newest
        if self.last is not None and state.epoch < self.last.epoch:
            raise Wrong(f"the epoch has fallen from {self.last.epoch} to {state.epoch}")
        for epoch, one in world.states.items():
            if epoch.number == state.epoch.number and epoch != state.epoch:
                raise Wrong(f"two of one number: {epoch} and {state.epoch}")
            if epoch == state.epoch and dict(one.stand_ins) != dict(state.stand_ins):
                raise Wrong(f"two primaries in {epoch}: {one.stand_ins} and {state.stand_ins}")
        if self.last is None or state.epoch != self.last.epoch:
            self.times.setdefault(state.epoch, world.tick)
        self.last = state
        there = set().union(*(site.snapshots for site in world.sites.values()))
        lost = world.committed.keys() - there - world.deleted
        if lost:
            raise Wrong(f"committed, never forgotten, and nowhere: {sorted(lost)}")

    def deleted(self, epoch: Epoch) -> None:
        """A forget is about to delete."""
        if epoch != self.world.newest.epoch:
            raise Wrong(f"a delete under {epoch}, and the epoch is {self.world.newest.epoch}")

    def moved(self, act: Make, before: State, rules: Rules) -> None:
        """The machine has made a move, from the state before."""
        world, note = self.world, note_of(before, act.site)
        if orders_of(before).paused_by:
            raise Wrong(f"{act.what} of {act.site} while it was paused")
        if note.maintenance_until > world.wall("nobody") + 1:
            raise Wrong(f"{act.what} of {act.site} in its maintenance")
        if not rules.automatic and act.what is What.FAILOVER and not note.accepted:
            raise Wrong(f"{act.what} of {act.site}, and nobody has said yes")
        self._not_too_often(act, before, rules)
        if act.what is What.FAILOVER:
            self._not_needless(act, rules)
            self._fit(act, before, accepted=note.accepted)

    def _not_too_often(self, act: Make, before: State, rules: Rules) -> None:
        world, acknowledged = self.world, orders_of(before).acknowledged
        self.by_machine.append(world.tick)
        hour = [tick for tick in self.by_machine if (world.tick - tick) * TICK < 3600]
        if len(hour) > rules.at_most:
            raise Wrong(f"{len(hour)} moves by itself within an hour")
        for change in before.history:
            mine = act.site in change.what.split()[1:] and not change.what.startswith(("add", "remove"))
            age = (world.tick - self.times.get(change.epoch, world.tick)) * TICK
            if mine and change.epoch.number > acknowledged and age < rules.cool_down - TICK:
                raise Wrong(f"{act.what} of {act.site} {age} s after {change.what}")

    def _not_needless(self, act: Make, rules: Rules) -> None:
        """It was down for as long as is wanted, for most of the places that reach anything and hear each other."""
        world = self.world
        ticks = int(rules.down_after / TICK)
        window = world.history[-ticks - 1 :]
        if act.what is What.FAILOVER and all(self._well(pairs, act.site) for pairs in window):
            raise Wrong(f"{act.site} was well all the time, and {act.to} has taken its place")
        lately = [self._well(pairs, act.site) for pairs in world.history[-5:]]
        if world.sites[act.site].works and all(lately[-3:]):  # a word may be a tick old when it comes, and counts two
            raise Wrong(f"{act.site} was back, and {act.to} has taken its place")
        if lately.count(False) < 3:
            raise Wrong(f"{act.site} was down for a moment, and {act.to} has taken its place")

    def _well(self, pairs: frozenset[tuple[str, str]], site: str) -> bool:
        """Whether a site answered most of the places that reach anything at all."""
        places = {place for place, _ in pairs} - self.world.silent.keys()
        return 2 * sum((place, site) in pairs for place in places) > len(places) > 1

    def _fit(self, act: Make, before: State, *, accepted: bool) -> None:
        world, to = self.world, self.world.sites[act.to]
        if to.witness:
            raise Wrong(f"{act.to} keeps no copies, and has taken a place")
        ticks = world.history[-3:]
        if not any(site == act.to for pairs in ticks for _, site in pairs):
            raise Wrong(f"{act.to} was down, and has taken a place")
        if note_of(before, act.to).maintenance_until > world.wall("nobody") + 1:
            raise Wrong(f"{act.to} is in maintenance, and has taken a place")
        lost = world.sites[act.site].snapshots - to.snapshots - world.deleted
        if len(lost) > LOST_AT_MOST + 2 and not accepted:
            raise Wrong(
                f"{act.to} has taken the place of {act.site} without {len(lost)} snapshots, and nobody said yes"
            )

    def unrest(self) -> str:
        """Long after the last fault: why backups have no place to go to, or what is half done; empty: all rests."""
        world, state = self.world, self.world.newest
        primary = state.primary(PRIMARY)
        if not world.sites[primary].works:
            if len(state.history) >= RULES.at_most and note_of(state, primary).phase is Phase.BLOCKED:
                return ""  # so many changes within an hour, by whomever, are to wait for the next one
            return f"{primary} is down for good, and is primary still: {note_of(state, primary)}"
        for site in world.sites:
            phase = note_of(state, site).phase.value
            if phase in {"promoting", "switching back"}:
                return f"{site} is {phase} for ever"
            if world.sites[site].works and phase in {"blocked", "proposed"}:
                return f"{site} works, and is {phase}"
        return ""
