"""Supervising an engine: what it says, how it dies, and whose the lease is. A real ledger, a fake engine, no Celery."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from shared.ledger.ledger import Claim, Ledger
from shared.ledger.model import RunKind, RunRequest, RunState, Word
from tests.support.fleets import SmallFleet, alive
from tests.support.ledgers import a_run, own_ledger, until
from tests.support.tools import ValkeyServer
from workers import specs
from workers.engine_process import EngineProcess
from workers.supervise import Outcome, Supervisor

ENGINE = [sys.executable, "-m", "tests.support.fake_engine"]


@dataclass
class Scene:
    """One run of one source, ready to be worked on."""

    ledger: Ledger
    server: ValkeyServer
    small: SmallFleet
    request: RunRequest

    def supervise(self, stopping: Callable[[], bool] = lambda: False, *, grace: float = 5.0) -> Outcome:
        """Claim the run and supervise one attempt to its end."""
        lease = self.ledger.claim(self.request.id, "me").lease
        assert lease is not None
        journal = self.ledger.journal(self.request.id)
        known = replace(self.request, kind=RunKind.FULL)  # the fake engine takes its orders from what is backed up
        spec = specs.spec_for(self.small.fleet, known, journal=journal)
        engine = EngineProcess(ENGINE, spec)
        outcome = Supervisor(self.ledger, self.request, lease, engine, owner="me", stopping=stopping, grace=grace).run()
        assert not alive(engine.pid)
        return outcome

    def in_background(self, stopping: Callable[[], bool] = lambda: False) -> Callable[[], Outcome]:
        """The same in a thread; the result waits for it."""
        outcomes: list[Outcome] = []
        thread = threading.Thread(target=lambda: outcomes.append(self.supervise(stopping)), daemon=True)
        thread.start()

        def result() -> Outcome:
            thread.join(20)
            assert outcomes, "supervision did not end"
            return outcomes[0]

        return result

    @property
    def state(self) -> RunState:
        """The run's state."""
        run = self.ledger.get(self.request.id)
        assert run is not None
        return run.state


@pytest.fixture
def scene(tmp_path: object) -> Iterator[Scene]:
    """A run that is queued."""
    with own_ledger(os.path.join(str(tmp_path), "valkey"), lease_seconds=1.5) as (ledger, server):
        request = a_run()
        ledger.open(request)
        yield Scene(ledger, server, SmallFleet(str(tmp_path)), request)


def test_an_engine_that_is_done_ends_the_run(scene: Scene) -> None:
    """The result stands in the ledger, the progress was passed on."""
    outcome = scene.supervise()
    assert (outcome.word, outcome.state) == (Word.FINISHED, RunState.SUCCEEDED)
    run = scene.ledger.get(scene.request.id)
    assert run is not None
    assert run.result["snapshot"] == "bb" * 32


def test_an_incomplete_result_is_said_to_be_so(scene: Scene) -> None:
    """Something could not be read: committed, and marked."""
    scene.small.behave("incomplete")
    assert scene.supervise().state is RunState.INCOMPLETE
    assert scene.state is RunState.INCOMPLETE


def test_an_engines_error_is_the_runs(scene: Scene) -> None:
    """Message and exit code reach the ledger."""
    scene.small.behave("error")
    scene.supervise()
    run = scene.ledger.get(scene.request.id)
    assert run is not None
    assert (run.state, run.error, run.exit_code) == (RunState.FAILED, "site a: denied", 32)


def test_garbage_on_its_output_does_not_end_a_run(scene: Scene) -> None:
    """Lines that are no events are counted and dropped, however long."""
    scene.small.behave("garbage")
    assert scene.supervise().state is RunState.SUCCEEDED


def test_an_engine_that_dies_without_a_word_is_tried_again_with_its_journal(scene: Scene) -> None:
    """The run is given back, and the next attempt is told which packs the first had uploaded."""
    scene.small.behave("crash", once=True)
    outcome = scene.supervise()
    assert (outcome.word, scene.state) == (Word.RELEASED, RunState.QUEUED)
    assert outcome.error == "the engine ended without a word (exit code -9)"
    (fence,) = scene.ledger.fenced()  # its lock is to go
    assert (fence.run_id, fence.pid) == (scene.request.id, scene.small.starts[0]["pid"])
    assert scene.supervise().state is RunState.SUCCEEDED
    assert [start["journal"] for start in scene.small.starts] == [[], ["aa" * 32]]


def test_an_engine_that_has_lost_a_helper_is_tried_again(scene: Scene) -> None:
    """A helper that was killed, for want of memory say, is no failure of the run: as where the engine itself was."""
    scene.small.behave("bereft", once=True)
    outcome = scene.supervise()
    assert (outcome.word, outcome.error) == (Word.RELEASED, "helper process 7 ended unexpectedly")
    assert scene.ledger.fenced() == []  # it has given up its lock itself
    assert scene.state is RunState.QUEUED
    assert scene.supervise().state is RunState.SUCCEEDED


def test_an_engine_that_always_dies_fails_the_run(scene: Scene) -> None:
    """It is not tried for ever."""
    scene.small.behave("crash")
    words = [scene.supervise().word for _ in range(5)]
    assert words == [Word.RELEASED] * 4 + [Word.FINISHED]
    assert scene.state is RunState.FAILED


def test_a_policy_says_how_often_an_engine_may_die(scene: Scene) -> None:
    """The number came with the run: the supervisor asks no configuration."""
    scene.request = replace(a_run(), attempts=2)
    scene.ledger.open(scene.request)
    scene.small.behave("crash")
    outcomes = [scene.supervise() for _ in range(2)]
    assert [one.word for one in outcomes] == [Word.RELEASED, Word.FINISHED]
    assert outcomes[1].error == "given up after 2 attempts; the last: the engine ended without a word (exit code -9)"


def test_a_worker_that_ends_gives_its_run_back(scene: Scene) -> None:
    """The engine flushes first, and its last packs are in the journal."""
    scene.small.behave("hang")
    outcome = scene.supervise(stopping=lambda: bool(scene.ledger.journal(scene.request.id)))
    assert (outcome.word, outcome.error, scene.state) == (Word.RELEASED, "", RunState.QUEUED)
    assert scene.ledger.journal(scene.request.id) == ["aa" * 32, "cc" * 32]


def test_an_engine_that_does_not_listen_is_killed(scene: Scene) -> None:
    """After its grace the whole group goes; the run is given back all the same."""
    scene.small.behave("deaf")
    outcome = scene.supervise(stopping=lambda: bool(scene.small.starts), grace=0.5)
    assert (outcome.word, scene.state) == (Word.RELEASED, RunState.QUEUED)


def test_the_lease_is_kept_while_the_engine_works(scene: Scene) -> None:
    """Three times the length of a lease pass, and nobody else can claim."""
    scene.small.behave("hang", seconds=4.5)
    result = scene.in_background()
    until(lambda: scene.small.starts)
    taken: list[Claim] = []
    while not taken and scene.state is not RunState.SUCCEEDED:
        taken = [claim for claim in [scene.ledger.claim(scene.request.id, "thief")] if claim.lease]
        scene.ledger.reap()
    assert taken == []
    assert result().state is RunState.SUCCEEDED


def test_whoever_lost_the_lease_to_another_stops(scene: Scene) -> None:
    """The engine is told to stop, nothing is written to the run that is another's now."""
    scene.small.behave("hang")
    result = scene.in_background()
    until(lambda: scene.state is RunState.RUNNING)
    key = scene.ledger.keys.run(scene.request.id)
    scene.ledger.client.hset(key, "lease", "0")
    assert scene.ledger.claim(scene.request.id, "another").lease is not None
    assert result().word is Word.LOST
    run = scene.ledger.get(scene.request.id)
    assert run is not None
    assert (run.owner, run.state.is_final) == ("another", False)


def test_a_run_that_is_cancelled_ends_so_and_keeps_what_was_uploaded(scene: Scene) -> None:
    """The engine flushes under the lease; the run is over, who asked for it is named, and no evidence is noted."""
    scene.small.behave("hang")
    result = scene.in_background()
    until(lambda: scene.state is RunState.RUNNING)
    assert scene.ledger.cancel(scene.request.id, "anna") is Word.ASKED
    outcome = result()
    assert (outcome.word, outcome.state) == (Word.FINISHED, RunState.CANCELLED)
    run = scene.ledger.get(scene.request.id)
    assert run is not None
    assert (run.state, run.error, run.exit_code) == (RunState.CANCELLED, "cancelled by anna", 130)
    assert scene.ledger.evidence("web1", "a") is None


def test_a_cancel_that_was_heard_outlives_a_wipe(scene: Scene) -> None:
    """The engine takes its time to end; meanwhile Redis forgets that somebody asked; the supervisor does not."""
    scene.small.behave("deaf")
    result = scene.in_background()
    until(lambda: scene.state is RunState.RUNNING)
    scene.ledger.cancel(scene.request.id, "anna")
    stopping = until(lambda: scene.ledger.get(scene.request.id))
    until(lambda: (run := scene.ledger.get(stopping.id)) and run.lease_until > stopping.lease_until + 0.6)
    scene.ledger.client.flushall()
    assert (result().state, scene.state) == (RunState.CANCELLED, RunState.CANCELLED)


def test_a_wiped_redis_is_told_of_the_run_again(scene: Scene) -> None:
    """The work goes on, under a new lease; the journal is whole again; the run ends well."""
    scene.small.behave("hang", seconds=3)
    result = scene.in_background()
    until(lambda: scene.ledger.journal(scene.request.id))
    scene.ledger.client.flushall()
    until(lambda: scene.ledger.journal(scene.request.id))
    assert result().state is RunState.SUCCEEDED
    assert scene.state is RunState.SUCCEEDED
    assert len(scene.small.starts) == 1


def test_a_redis_that_is_away_stops_what_deletes(scene: Scene) -> None:
    """Nobody could tell it to stop: its engine ends at once, and the run is given back when Redis is there again."""
    scene.request = a_run(kind=RunKind.FORGET)
    scene.ledger.open(scene.request)
    scene.small.behave("hang", seconds=60)
    result = scene.in_background()
    until(lambda: scene.state is RunState.RUNNING)
    engine = scene.small.starts[0]["pid"]
    scene.server.kill()
    until(lambda: not alive(engine), what="the engine's end")
    scene.server.start()
    outcome = result()
    assert (outcome.word, outcome.error, scene.state) == (Word.RELEASED, "", RunState.QUEUED)


def test_a_forgotten_snapshots_run_is_superseded(scene: Scene) -> None:
    """Its engine found the tombstone: the slot is served, and no snapshot is there."""
    scene.small.behave("superseded")
    assert scene.supervise().state is RunState.SUPERSEDED
    assert scene.state is RunState.SUPERSEDED


def test_a_redis_that_is_away_stops_no_backup(scene: Scene) -> None:
    """Killed under the run and back, empty, after the engine is done: the run is ended in the new ledger."""
    scene.small.behave("hang", seconds=1.5)
    result = scene.in_background()
    until(lambda: scene.state is RunState.RUNNING)
    scene.server.kill()
    engine = until(lambda: scene.small.starts)[0]["pid"]
    until(lambda: not alive(engine), what="the engine's end")
    scene.server.start()
    assert result().word is Word.FINISHED
    assert scene.state is RunState.SUCCEEDED
    assert len(scene.small.starts) == 1
