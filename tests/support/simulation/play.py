"""One schedule: a world is made by a seed, faults come and go, then they stop, and all must come to rest."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shared.topology.memory import Memory
from shared.topology.notes import Phase, note_of, orders_of, with_note, with_orders
from tests.support.simulation.checks import Checks, Wrong
from tests.support.simulation.crew import DEEDS, RULES, Movers, Worker, people, register_at
from tests.support.simulation.fast import hurried
from tests.support.simulation.world import World, make_world

if TYPE_CHECKING:
    from shared.topology.state import State

TICKS = 60  # with faults
REST = 75  # at most, until all is at rest
READ_AFTER = 25  # of these a person says yes to what waits for that


@dataclass(frozen=True)
class Weather:
    """How often each kind of fault comes, as a multiple of the usual: a schedule has much of one, none of another."""

    sites: float
    cuts: float
    silence: float
    clocks: float
    kills: float
    hands: float
    deed: str  # what people do mostly


def weather(draw: random.Random) -> Weather:
    """Some."""
    return Weather(draw.choice([0.5, 1, 3]), *(draw.choice([0, 1, 4]) for _ in range(5)), draw.choice(DEEDS))


@dataclass
class Played:
    """What happened, for a report."""

    seed: int
    moves: int
    lives: int
    wrong: str = ""


def play(seed: int, often: Weather | None = None) -> Played:
    """Play one schedule, in some weather or in a given one; `wrong` says what must not be, and was."""
    with hurried():
        return _play(seed, often)


def _play(seed: int, often: Weather | None) -> Played:
    draw = random.Random(seed)
    world = make_world(draw)
    checks = Checks(world)
    often = often or weather(draw)
    rules = replace(RULES, automatic=draw.random() < 0.85)
    crew = [Worker(world, place, rules) for place in world.places]
    movers = Movers(world, world.places[-1])
    try:
        _found(world)
        for _ in range(TICKS):
            _faults(world, crew, often)
            _tick(world, crew, movers, checks, by_hand=0.02 * often.hands, deed=often.deed)
        _heal(world, crew)
        _rest(world, crew, movers, checks)
    except Wrong as error:
        return Played(seed, len(world.states), sum(one.lives for one in crew), f"tick {world.tick}: {error}")
    return Played(seed, len(world.states), sum(one.lives for one in crew))


def _found(world: World) -> None:
    register = register_at(world, world.places[0], Memory())
    world.newest = register.settle()
    world.states[world.newest.epoch] = world.newest


def _tick(world: World, crew: list[Worker], movers: Movers, checks: Checks, *, by_hand: float, deed: str = "") -> None:
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
        people(world, world.draw.choice(world.places), Memory(), deed)
    checks.after()


def _faults(world: World, crew: list[Worker], often: Weather) -> None:
    draw = world.draw
    down = [site for site in world.sites.values() if not site.works]
    for site in world.sites.values():
        if site.works and len(down) < 2 and draw.random() < 0.02 * often.sites:
            site.works = False
            down.append(site)
        elif not site.works and draw.random() < draw.choice([0.03, 0.4]):
            site.works = True
    for place in world.places:
        for name in world.sites:
            if draw.random() < (0.02 * often.cuts if (place, name) not in world.cut else 0.15):
                world.cut ^= {(place, name)}
        if draw.random() < 0.01 * often.cuts:  # its own network
            world.cut |= {(place, name) for name in world.sites}
        if draw.random() < 0.01 * often.silence:
            world.silent[place] = world.tick + draw.randint(2, 15)
        if draw.random() < 0.01 * often.clocks:
            world.skew[place] = 0.0 if world.skew.get(place) else draw.choice([3600.0, -3600.0, 90.0, 20.0])
    worker = draw.choice(crew)
    if draw.random() < 0.04 * often.kills:
        worker.die(draw.randint(1, 10))
    elif draw.random() < 0.03 * often.kills:
        worker.frozen_until = world.tick + draw.randint(2, 14)
    if draw.random() < 0.01:
        worker.memory = Memory()
    if draw.random() < 0.01 and not world.forgot:  # more than one takes a person
        world.forgot = True
        draw.choice(list(world.sites.values())).store.forget(draw)


def _heal(world: World, crew: list[Worker]) -> None:
    """Faults end, but that one site may stay dead, one place cut off; people take back what they have ordered."""
    world.cut.clear()
    world.silent.clear()
    world.skew.clear()
    for site in world.sites.values():
        site.works = True
    for place in world.places:
        register = register_at(world, place, next(one.memory for one in crew if one.place == place))
        register.settle()
    register = register_at(world, world.places[0], Memory())
    world.newest = register.change(_as_it_was)
    if world.draw.random() < 0.5:
        primary = world.newest.primary("a")
        world.sites[primary].works, world.sites[primary].dead = False, True
        if len(world.places) == 2 and world.draw.random() < 0.5:  # a place that is heard of, and sees everything down
            world.cut |= {(world.places[0], name) for name in world.sites}


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
        if note.phase in {Phase.BLOCKED, Phase.PROPOSED} and not note.accepted:
            state = with_note(state, site, note, replace(note, accepted=True, turn=note.turn + 1))
    return state


def _rest(world: World, crew: list[Worker], movers: Movers, checks: Checks) -> None:
    """Somebody reads what is blocked or proposed, now and then, and says yes; from then on it takes bounded time."""
    why, began = "", world.tick
    while world.tick < began + REST:
        _tick(world, crew, movers, checks, by_hand=0.0)
        if world.tick >= began + READ_AFTER and world.tick % 4 == 0:
            world.newest = register_at(world, world.places[-1], Memory()).change(_accepted)
        if world.tick > began + READ_AFTER and not (why := checks.unrest()):
            return
    raise Wrong(f"no rest: {why}")
