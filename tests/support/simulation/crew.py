"""Who acts in the world: failover workers at each place, the movers of data, and people. All by the shipped code."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from shared.health.observation import Observation, Verdict
from shared.storage.api import ObjectStore
from shared.topology.errors import MoveRefused, NoMajority, NotAllAgree, StaleEpoch
from shared.topology.memory import Memory
from shared.topology.moves import Move, What, carry_out
from shared.topology.notes import Orders, Phase, note_of, orders_of, with_note, with_orders
from shared.topology.register import Register
from shared.topology.state import State
from tests.support.simulation.fast import AtOnce
from tests.support.voting import SECRET, Died
from workers.failover.machine import Make
from workers.failover.pilot import Knowledge, Pilot
from workers.failover.rules import Rules

if TYPE_CHECKING:
    from tests.support.simulation.world import World

RULES = Rules(
    observers=2,
    down_after=5.0,
    down_times=3,
    back_after=6.0,
    old=5.0,
    grace=14.0,
    cool_down=60.0,
    at_most=2,
    takes_over_after=20.0,
    fails_back=True,
)
LOST_AT_MOST = 2  # snapshots that a failover may leave behind without a word
PRIMARY = "a"  # where the configuration has all backups go
_DEAF = 4  # ticks for which who has started hears nothing of others
_REFUSED = (MoveRefused, StaleEpoch, NoMajority, NotAllAgree)


def register_at(world: World, place: str, memory: Memory) -> Register:
    """A register as it is reached from a place."""
    return Register(
        list(world.sites),
        lambda name: cast("ObjectStore", world.store_of(place, name)),
        SECRET,
        memory,
        witnesses=[name for name, site in world.sites.items() if site.witness],
        threads=AtOnce(),
        pause=lambda _: None,
    )


@dataclass
class Worker:
    """A failover worker at a place. It may be frozen, or dead until a tick; its disk outlives it."""

    world: World
    place: str
    rules: Rules
    memory: Memory = field(default_factory=Memory)
    lives: int = 0
    frozen_until: int = -1
    dead_until: int = 0
    pilot: Pilot | None = None
    heard: list[tuple[int, Observation]] = field(default_factory=list)  # when it arrives, and what
    plan: tuple[Any, Any] | None = None  # an act that was decided on before it froze

    @property
    def is_alive(self) -> bool:
        """Whether it looks and acts now."""
        return self.pilot is not None and self.world.tick > self.frozen_until

    def die(self, ticks: int) -> None:
        """SIGKILL."""
        self.pilot, self.plan, self.heard = None, None, []
        self.dead_until = self.world.tick + ticks

    def look(self, others: list[Worker]) -> None:
        """Probe every site, and tell the others."""
        world = self.world
        for site in world.sites:
            verdict = Verdict.UP if world.reaches(self.place, site) else Verdict.DOWN
            seen = Observation(site, f"{self.place}.{self.lives}", self.place, world.wall(self.place), verdict)
            self.heard.append((world.tick, seen))
            for other in others:
                if other is self or other.pilot is None or {self.place, other.place} & world.silent.keys():
                    continue
                if other.dead_until + _DEAF <= world.tick:
                    other.heard.append((world.tick + world.draw.choice([0, 0, 1]), seen))

    def fly(self, checks: Any) -> None:
        """One look and what follows of it; it may die between any two acts, or freeze with one in its hand."""
        world = self.world
        if self.pilot is None:
            if world.tick < self.dead_until:
                return
            self.lives += 1
            now = world.wall(self.place)
            self.pilot = Pilot(f"{self.place}.{self.lives}", self.place, self.rules, clock=world.clock, now=now)
            return
        if world.tick <= self.frozen_until:
            return
        register = register_at(world, self.place, self.memory)
        if self.plan is not None:  # it wakes up, and does what it was about to
            seen, act = self.plan
            self.plan = None
            self._do(register, seen, act, checks)
            return
        arrived = [one for at, one in self.heard if at <= world.tick]
        self.heard = [(at, one) for at, one in self.heard if at > world.tick]
        self.pilot.hear(arrived, world.clock)
        view = register.look()
        if not view.voted:
            return
        with suppress(Died):
            if world.draw.random() < 0.3 and self.pilot.tend(register, view):
                view = register.look()
        if not view.settled:
            return
        seen = self.pilot.see(
            view.state, frozenset([PRIMARY]), self._knowledge(view.state), now=world.wall(self.place), clock=world.clock
        )
        for act in self.pilot.acts(seen):
            if world.draw.random() < 0.04:
                self.plan, self.frozen_until = (seen, act), world.tick + world.draw.randint(1, 14)
                return
            if not self._do(register, seen, act, checks):
                return

    def _do(self, register: Register, seen: Any, act: Any, checks: Any) -> bool:
        world = self.world
        if world.draw.random() < 0.03:
            self.die(world.draw.randint(1, 8))
            return False
        before = world.newest
        try:
            done = self.pilot is not None and self.pilot.carry_out(register, seen, act, clock=lambda: world.clock)
        except Died:
            self.die(world.draw.randint(1, 8))
            done = False
        observe(world, register)
        if isinstance(act, Make) and done and world.newest.epoch != before.epoch:
            checks.moved(act, before, self.rules)
        return done

    def _knowledge(self, state: State) -> Knowledge:
        """By the sites that can be reached, and what a ledger knows of one that can't."""
        world, primary = self.world, state.primary(PRIMARY)
        behind: dict[tuple[str, str], tuple[str, ...]] = {}
        for to in world.keepers:
            if to != primary and world.reaches(self.place, to):
                lost = world.sites[primary].snapshots - world.sites[to].snapshots - world.deleted
                behind[primary, to] = ("too much",) if len(lost) > LOST_AT_MOST else ()
        alike: Mapping[str, bool] = {
            site: world.sites[site].snapshots - world.deleted == world.sites[to].snapshots - world.deleted
            for site, to in state.stand_ins.items()
            if world.reaches(self.place, site) and world.reaches(self.place, to)
        }
        return Knowledge(behind, alike, back_at=self.rules.fails_back)


def observe(world: World, register: Register) -> None:
    """What was decided, for the checks: what the register of who has just acted remembers as decided."""
    state = register._memory.state
    if state is not None:
        world.states.setdefault(state.epoch, state)
        if state.epoch > world.newest.epoch or (
            state.epoch == world.newest.epoch and dict(state.notes) != dict(world.newest.notes)
        ):
            world.newest = state


@dataclass
class Movers:
    """The scheduler, replications and a forget: what works with data, by what one machine knows of the topology."""

    world: World
    place: str
    memory: Memory = field(default_factory=Memory)
    number: int = 0
    forgetting: tuple[Any, str, int] | None = None  # under which epoch, where, until when it sleeps

    def work(self, checks: Any) -> None:
        """A backup, a replication, or a step of a forget."""
        world = self.world
        register = register_at(world, self.place, self.memory)
        if world.draw.random() < 0.5:
            register.look()
        state = self.memory.state
        primary = state.primary(PRIMARY) if state else PRIMARY
        if world.draw.random() < 0.6 and world.reaches(self.place, primary):
            self.number += 1
            world.sites[primary].snapshots.add(self.number)
            world.committed[self.number] = primary
        if world.draw.random() < 0.6:
            self._replicate(primary)
        if world.draw.random() < 0.15:
            self._forget(register, primary, checks)

    def _replicate(self, primary: str) -> None:
        sites = self.world.sites
        for other in self.world.keepers:
            if other != primary and self.world.reaches(self.place, other) and self.world.reaches(self.place, primary):
                both = (sites[other].snapshots | sites[primary].snapshots) - self.world.deleted
                sites[other].snapshots |= both
                sites[primary].snapshots |= both

    def _forget(self, register: Register, primary: str, checks: Any) -> None:
        """Every member must agree, at the beginning and again before anything is deleted."""
        world = self.world
        if self.forgetting is None:
            with suppress(*_REFUSED):
                self.forgetting = register.every().epoch, primary, world.tick + world.draw.randint(0, 6)
            return
        epoch, site, until = self.forgetting
        if world.tick < until:
            return
        self.forgetting = None
        try:
            if register.every().epoch != epoch:
                return
        except NotAllAgree:
            return
        oldest = min(world.sites[site].snapshots, default=None)
        if oldest is not None and world.reaches(self.place, site):
            checks.deleted(epoch)
            world.deleted.add(oldest)
            world.sites[site].snapshots.discard(oldest)


DEEDS = ("switchover", "failover", "failback", "pause", "resume", "maintenance", "ack", "accept")


def people(world: World, place: str, memory: Memory, favourite: str) -> None:
    """Somebody does something by hand, as the commands do it."""
    draw = world.draw
    register = register_at(world, place, memory)
    view = register.look()
    if not view.voted:
        return
    site, to = draw.choice(world.keepers), draw.choice(world.keepers)
    primaries = frozenset([PRIMARY])
    deed = favourite if draw.random() < 0.6 else draw.choice(DEEDS)
    with suppress(*_REFUSED, Died):
        if deed in {"switchover", "failover", "failback"}:
            what = What(deed)
            move = Move(
                what, site, "" if what is What.FAILBACK else to, by="person", primaries=primaries, at=world.wall(place)
            )
            if what is not What.SWITCHOVER or world.reaches(place, to):
                carry_out(register, move)
        elif deed == "maintenance":
            until = world.wall(place) + draw.choice([0.0, 30.0, 90.0])

            def tend(state: State) -> State:
                note = note_of(state, site)
                return with_note(state, site, note, replace(note, maintenance_until=until, turn=note.turn + 1))

            register.change(tend)
        elif deed == "accept":

            def accept(state: State) -> State:
                for name in state.members:
                    note = note_of(state, name)
                    if note.phase in {Phase.BLOCKED, Phase.PROPOSED}:
                        state = with_note(state, name, note, replace(note, accepted=True, turn=note.turn + 1))
                return state

            register.change(accept)
        else:
            register.change(lambda state: with_orders(state, _ordered(state, deed)))
    observe(world, register)


def _ordered(state: State, deed: str) -> Orders:
    orders = orders_of(state)
    if deed == "ack":
        return replace(orders, acknowledged=state.epoch.number, turn=orders.turn + 1)
    return replace(orders, paused_by="person" if deed == "pause" else "", turn=orders.turn + 1)
