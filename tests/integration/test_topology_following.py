"""Scheduler and workers keep up with the register, and no site that hangs holds them up."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.__main__ import Ticker
from shared import topology
from shared.config.fleet import Fleet
from shared.config.watch import FleetWatch
from shared.errors import StorageError
from shared.ledger.model import RunKind, RunRequest, RunState, Word, new_run_id
from shared.topology.following import Follower
from shared.topology.moves import Move, What, carry_out
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger, until
from workers import specs
from workers.context import WorkerContext
from workers.tasks import execute


@pytest.fixture
def small(tmp_path: Path) -> SmallFleet:
    """Two sites and a witness."""
    return with_three(SmallFleet(str(tmp_path)))


def with_three(small: SmallFleet) -> SmallFleet:
    """The same fleet with site b, and w as witness."""
    small.change("sites: {a: {url: site}}", "sites: {a: {url: site}, b: {url: b}, w: {url: w, witness: true}}")
    small.change("all: {full", "all: {primary: a, full")
    for name in ("b", "w"):
        os.makedirs(os.path.join(small.directory, name))
    return small


def fail_over(small: SmallFleet) -> None:
    """As another machine does it: what it remembers is its own."""
    fleet = small.fleet
    elsewhere = os.path.join(small.directory, "elsewhere.yaml")
    with open(small.path) as file, open(elsewhere, "w") as other:
        other.write(file.read().replace("state_dir: state", "state_dir: elsewhere"))
    assert fleet.state_dir != Fleet.load(elsewhere).state_dir
    with closing(topology.register(Fleet.load(elsewhere))) as register:
        carry_out(register, Move(What.FAILOVER, "a", "b", by="me", primaries=frozenset({"a"})))


def primary(small: SmallFleet) -> str:
    """As this machine has it."""
    return topology.current(small.fleet).primary("web1")


def test_the_sites_vote_for_the_first_time_as_soon_as_all_answer(small: SmallFleet) -> None:
    """By the one that may find; while one is away nothing is written anywhere."""
    away, witness = os.path.join(small.directory, "w"), os.path.join(small.directory, "w.away")
    os.rename(away, witness)
    follower = Follower(every=0.0, find=True)
    follower.follow(small.fleet, wait=60)
    assert os.listdir(os.path.join(small.directory, "site")) == []
    os.rename(witness, away)
    Follower(every=0.0).follow(small.fleet, wait=60)
    assert topology.memory(small.fleet).state is None
    follower.follow(small.fleet, wait=60)
    state = topology.memory(small.fleet).state
    assert state is not None
    assert (state.members, state.witnesses) == (("a", "b", "w"), ("w",))


def test_a_move_elsewhere_is_known_after_the_next_look(small: SmallFleet) -> None:
    """And not before, as looks have their pause."""
    Follower(find=True).follow(small.fleet, wait=60)
    follower = Follower(every=3600.0)
    follower.follow(small.fleet, wait=60)
    fail_over(small)
    follower.follow(small.fleet, wait=60)
    assert primary(small) == "a"
    Follower().follow(small.fleet, wait=60)
    assert primary(small) == "b"
    assert topology.memory(small.fleet).standing == {"a": "agrees", "b": "agrees", "w": "agrees"}


def test_a_site_that_hangs_holds_nobody_up(small: SmallFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who follows waits for as long as it wants to, and begins no second look beside the first."""
    release, opened = threading.Event(), []

    def hang(_fleet: Fleet, name: str) -> None:
        opened.append(name)
        release.wait(60)
        raise StorageError("it hung")

    follower = Follower(every=0.0)
    monkeypatch.setattr(Fleet, "open_site", hang)
    for _ in range(3):
        follower.follow(small.fleet)
    until(lambda: len(opened) == 3, what="the look")
    follower.follow(small.fleet, wait=0.01)
    assert sorted(opened) == ["a", "b", "w"]
    release.set()
    follower.follow(small.fleet, wait=60)
    assert topology.memory(small.fleet).state is None


def test_a_fleet_of_one_site_has_nothing_to_follow(tmp_path: Path) -> None:
    """No request is made for it."""
    small = SmallFleet(str(tmp_path))
    Follower(every=0.0, find=True).follow(small.fleet, wait=60)
    assert not os.path.exists(os.path.join(small.state_dir, "topology.json"))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[SmallFleet, str]]:
    """Such a fleet with a Redis."""
    with own_ledger(os.path.join(str(tmp_path), "valkey")) as (_, server):
        yield with_three(SmallFleet(str(tmp_path), broker=server.url)), server.url


def test_the_scheduler_has_them_vote_and_follows(served: tuple[SmallFleet, str]) -> None:
    """A tick does not wait for it; one that comes later opens its runs at the new primary."""
    small, _ = served
    ticker = Ticker(FleetWatch(small.path), lambda _: None)
    ticker._topology._every = 0.0
    until(lambda: ticker.tick() or topology.memory(small.fleet).state is not None, what="the first vote")
    fail_over(small)
    until(lambda: ticker.tick() or primary(small) == "b", what="the new primary")


def test_a_worker_looks_before_a_run(served: tuple[SmallFleet, str]) -> None:
    """So a run that is rung for after the move works at the new primary, and takes up nothing of the old one."""
    small, _ = served
    Follower(find=True).follow(small.fleet, wait=60)
    fail_over(small)
    assert primary(small) == "a"
    context = WorkerContext(FleetWatch(small.path))
    ledger = context.ledgers[0]
    request = RunRequest(new_run_id(), RunKind.FULL, "web1", policy="all", queue="backup")
    ledger.open(request)
    ledger.journal_append(request.id, ["ab" * 32])  # of an attempt at a, which b does not have
    execute(None, context, request.id)
    run = ledger.get(request.id)
    assert run is not None
    assert (run.state, run.result.get("site")) == (RunState.SUCCEEDED, "b"), run.error
    assert topology.site_of(small.fleet, request) == "b"


def test_a_backup_to_a_site_that_was_replaced_is_given_back(
    served: tuple[SmallFleet, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not wait until the lost site answers no more: its next attempt goes to the new primary."""
    small, _ = served
    monkeypatch.setitem(specs.ENGINES, RunKind.FULL, "tests.support.fake_engine")
    small.behave("hang", once=True)
    Follower(find=True).follow(small.fleet, wait=60)
    context = WorkerContext(FleetWatch(small.path))
    ledger = context.ledgers[0]
    request = RunRequest(new_run_id(), RunKind.FULL, "web1", policy="all", queue="backup")
    ledger.open(request)
    words: list[object] = []
    working = threading.Thread(target=lambda: words.append(execute(None, context, request.id)))
    working.start()
    until(lambda: small.starts, what="the engine")
    fail_over(small)
    topology.follow(small.fleet)  # as the worker does every ten seconds
    working.join(60)
    run = ledger.get(request.id)
    assert run is not None
    assert (words, run.state, run.error) == ([Word.RELEASED], RunState.QUEUED, "")
    execute(None, context, request.id)
    again = ledger.get(request.id)
    assert again is not None
    assert (again.state, again.result.get("site")) == (RunState.SUCCEEDED, "b"), again.error
