"""One schedule: a world is made by a seed, faults come and go, then they stop, and all must come to rest."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from shared.topology.ballot import decode
from shared.topology.memory import Memory
from shared.topology.notes import Phase, note_of, orders_of, with_note, with_orders
from shared.topology.register import Register
from tests.support.simulation.checks import Checks, Wrong
from tests.support.simulation.crew import RULES, Movers, Worker, people, register_at
from tests.support.simulation.world import World, make_world

if TYPE_CHECKING:
    from shared.topology.state import State

TICKS = 45  # with faults
REST = 75  # at most, until all is at rest
_AT_LEAST = 12  # of these

_cached_decode = lru_cache(maxsize=1 << 12)(decode)  # votes are read over and over


@dataclass
class Played:
    """What happened, for a report."""

    seed: int
    moves: int
    lives: int
    wrong: str = ""


def play(seed: int) -> Played:
    """Play one schedule; `wrong` says what must not be, and was."""
    sys.modules[Register.__module__].decode = _cached_decode  # type: ignore[attr-defined]
    draw = random.Random(seed)
    world = make_world(draw)
    checks = Checks(world)
    rules = replace(RULES, automatic=draw.random() < 0.85)
    crew = [Worker(world, place, rules) for place in world.places]
    movers = Movers(world, world.places[-1])
    try:
        _found(world)
        for _ in range(TICKS):
            _faults(world, crew)
            _tick(world, crew, movers, checks, by_hand=0.02)
        _heal(world, crew)
        _rest(world, crew, movers, checks)
    except Wrong as error:
        return Played(seed, len(world.states), sum(one.lives for one in crew), f"tick {world.tick}: {error}")
    return Played(seed, len(world.states), sum(one.lives for one in crew))


def _found(world: World) -> None:
    register = register_at(world, world.places[0], Memory())
    world.newest = register.settle()
    world.states[world.newest.epoch] = world.newest


def _tick(world: World, crew: list[Worker], movers: Movers, checks: Checks, *, by_hand: float) -> None:
    world.tick += 1
    world.silent = {place: until for place, until in world.silent.items() if until > world.tick}
    world.remember()
    world.draw.shuffle(crew)
    for worker in crew:
        if worker.is_alive:
            worker.look(crew)
    for worker in crew:
        worker.fly(checks)
        checks.after()
    movers.work(checks)
    if by_hand and world.draw.random() < by_hand:
        people(world, world.draw.choice(world.places), Memory())
    checks.after()


def _faults(world: World, crew: list[Worker]) -> None:
    draw = world.draw
    down = [site for site in world.sites.values() if not site.works]
    for site in world.sites.values():
        if site.works and len(down) < 2 and draw.random() < 0.03:
            site.works = False
            down.append(site)
        elif not site.works and draw.random() < draw.choice([0.02, 0.3]):
            site.works = True
    for place in world.places:
        for name in world.sites:
            if draw.random() < (0.02 if (place, name) not in world.cut else 0.15):
                world.cut ^= {(place, name)}
        fate = draw.random()
        if fate < 0.01:  # its own network
            world.cut |= {(place, name) for name in world.sites}
        elif fate < 0.02:
            world.silent[place] = world.tick + draw.randint(2, 15)
        elif fate < 0.03:
            world.skew[place] = 0.0 if world.skew.get(place) else draw.choice([3600.0, -3600.0, 90.0])
    worker = draw.choice(crew)
    if draw.random() < 0.04:
        worker.die(draw.randint(1, 10))
    elif draw.random() < 0.03:
        worker.frozen_until = world.tick + draw.randint(2, 14)
    if draw.random() < 0.01:
        worker.looking.memory = Memory()
    if draw.random() < 0.01 and not world.forgot:  # more than one takes a person
        world.forgot = True
        draw.choice(list(world.sites.values())).store.forget(draw)


def _heal(world: World, crew: list[Worker]) -> None:
    """All faults end, but that one site may stay dead; people take back what they have ordered."""
    world.cut.clear()
    world.silent.clear()
    world.skew.clear()
    for site in world.sites.values():
        site.works = True
    for place in world.places:
        register = register_at(world, place, next(one.looking.memory for one in crew if one.place == place))
        register.settle()
    register = register_at(world, world.places[0], Memory())
    world.newest = register.change(_as_it_was)
    if world.draw.random() < 0.5:
        primary = world.newest.primary("a")
        world.sites[primary].works, world.sites[primary].dead = False, True


def _as_it_was(state: State) -> State:
    orders = orders_of(state)
    state = with_orders(state, replace(orders, paused_by="", acknowledged=state.epoch.number, turn=orders.turn + 1))
    for site in state.members:
        note = note_of(state, site)
        state = with_note(state, site, note, replace(note, maintenance_until=0.0, accepted=True, turn=note.turn + 1))
    return state


def _accepted(state: State) -> State:
    for site in state.members:
        note = note_of(state, site)
        if note.phase is Phase.PROPOSED:
            state = with_note(state, site, note, replace(note, accepted=True, turn=note.turn + 1))
    return state


def _rest(world: World, crew: list[Worker], movers: Movers, checks: Checks) -> None:
    why = "nothing"
    for _ in range(REST):
        _tick(world, crew, movers, checks, by_hand=0.0)
        if not crew[0].rules.automatic:
            register_at(world, world.places[0], Memory()).change(_accepted)
        if world.tick > TICKS + _AT_LEAST:
            try:
                checks.at_rest()
            except Wrong as error:
                why = str(error)
            else:
                return
    raise Wrong(f"no rest: {why}")
