"""Real Celery workers and a real Valkey: rings that come twice, workers that are killed or asked to leave."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Self

import pytest
from celery import Celery

from scheduler.tick import tick
from shared.ledger.errors import AmbiguousRun, RunNotOver, UnknownRun, UnknownWorker
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, RunKind, RunRequest, RunState, Word, run_id_for_slot
from shared.messaging import client
from shared.messaging.app import make_app
from shared.messaging.bell import ring
from shared.messaging.client import follow, open_and_ring
from shared.messaging.events import REPLICATION
from shared.messaging.names import BACKUP, TASK_RUN
from tests.support import forked
from tests.support.fleets import SmallFleet, alive
from tests.support.ledgers import own_ledger, until
from workers.children import DRAINED

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


class Worker:
    """A worker process in a group of its own."""

    def __init__(self, small: SmallFleet) -> None:
        self.log = os.path.join(small.directory, "worker.log")
        command = [sys.executable, "-m", "tests.support.fake_worker", "--config", small.path]
        with open(self.log, "ab") as log:
            self.process = forked.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def said(self) -> str:
        """What it has logged."""
        with open(self.log) as file:
            return file.read()

    def kill(self) -> None:
        """SIGKILL to the parent and its pool, as when a machine dies."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Scene:
    """A fleet, its ledger, and a scheduler that ticks when it is told to."""

    def __init__(self, small: SmallFleet, ledger: Ledger) -> None:
        self.small = small
        self.fleet = small.fleet
        self.ledger = ledger
        self.app: Celery = make_app(self.fleet.broker_url() or "")

    def tick(self, evidence: Evidence | None = None) -> list[str]:
        """One tick at noon; the ids that were rung."""
        rung: list[tuple[str, str]] = []

        def bell(rings: Sequence[tuple[str, str]]) -> None:
            rung.extend(rings)
            ring(self.ledger.client, rings)

        tick(self.fleet, self.ledger, bell, lambda *_: evidence, NOON)
        return [run_id for run_id, _ in rung]

    def state(self, run_id: str) -> RunState | None:
        """Where a run stands."""
        run = self.ledger.get(run_id)
        return run.state if run else None


@pytest.fixture
def scene(tmp_path: object) -> Iterator[Scene]:
    """A fleet whose source wants a full backup."""
    with own_ledger(os.path.join(str(tmp_path), "valkey")) as (ledger, server):
        scene = Scene(SmallFleet(str(tmp_path), broker=server.url), ledger)
        yield scene
        scene.app.close()


def test_a_run_takes_its_policys_attempts_with_it(tmp_path: os.PathLike[str]) -> None:
    """Opened by the tick or by a person: whoever reaps it later knows how often it may die."""
    with own_ledger(os.path.join(tmp_path, "valkey")) as (ledger, server):
        scene = Scene(SmallFleet(str(tmp_path), broker=server.url, policy="full: 1d, attempts: 7"), ledger)
        ids = [*scene.tick(), open_and_ring(scene.fleet, RunKind.VERIFY, "web1")]
        scene.app.close()
        assert [run.request.attempts for run_id in ids if (run := ledger.get(run_id))] == [7, 7]


def contents(ledger: Ledger, key: str) -> object:
    """What a key of any type holds."""
    redis = ledger.client
    read: dict[str, Callable[[str], object]] = {
        "string": redis.get,
        "hash": redis.hgetall,
        "set": redis.smembers,
        "list": lambda name: redis.lrange(name, 0, -1),
        "zset": lambda name: redis.zrange(name, 0, -1),
    }
    return read[str(redis.type(key))](key)


def test_a_due_slot_is_backed_up_once_however_often_it_is_rung(scene: Scene) -> None:
    """Tick, ring, claim, engine, end: rung four times and worked on by two workers, it is done once."""
    with Worker(scene.small), Worker(scene.small):
        (run_id,) = scene.tick()
        assert run_id == run_id_for_slot("web1", "all", RunKind.FULL, "2026-03-04T00:00:00Z")
        for _ in range(3):
            ring(scene.ledger.client, [(run_id, BACKUP)])
        until(lambda: scene.state(run_id) is RunState.SUCCEEDED)
        assert scene.tick() == []
        run = scene.ledger.get(run_id)
        assert run is not None
        assert run.attempt == 1
        until(lambda: scene.ledger.client.llen(BACKUP) == 0)
        until(lambda: scene.ledger.client.llen(REPLICATION.name) == 1)  # told after the run has ended
    assert [start["slot"] for start in scene.small.starts] == ["2026-03-04T00:00:00Z"]
    assert scene.ledger.evidence("web1", "a") == Evidence("2026-03-04T00:00:00Z", "2026-03-04T00:00:00Z")


def test_a_run_by_hand_can_be_followed_to_its_end(scene: Scene) -> None:
    """The command's side: open and ring, then views until the last one, which is final."""
    with Worker(scene.small):
        run_id = open_and_ring(scene.fleet, RunKind.INCREMENTAL, "web1")
        views = list(follow(scene.fleet, run_id))
    assert views[-1].state is RunState.SUCCEEDED
    assert views[-1].result["snapshot"] == "bb" * 32


def test_a_killed_workers_run_is_rung_again_and_done_by_another(scene: Scene) -> None:
    """SIGKILL takes the whole worker; its engine ends with it; the reaper rings; the next one has the journal."""
    scene.small.behave("hang", once=True)
    with Worker(scene.small) as first:
        (run_id,) = scene.tick()
        until(lambda: scene.ledger.journal(run_id))
        first.kill()
    engine = scene.small.starts[0]["pid"]
    until(lambda: not alive(engine), what="the end of the orphaned engine")
    with Worker(scene.small):
        until(lambda: scene.tick() == [run_id])
        until(lambda: scene.state(run_id) is RunState.SUCCEEDED)
    assert [start["journal"] for start in scene.small.starts] == [[], ["aa" * 32]]


def test_a_worker_that_is_asked_to_leave_gives_its_run_back(scene: Scene) -> None:
    """SIGTERM: the engine flushes, the lease is given up, the bell is rung, and the worker is gone within seconds."""
    scene.small.behave("hang", once=True)
    with Worker(scene.small) as first:
        (run_id,) = scene.tick()
        until(lambda: scene.ledger.journal(run_id))
        first.process.terminate()
        assert first.process.wait(30) == 0
    assert not alive(scene.small.starts[0]["pid"])
    assert scene.state(run_id) is RunState.QUEUED
    assert scene.ledger.client.llen(BACKUP) == 1
    with Worker(scene.small):
        until(lambda: scene.state(run_id) is RunState.SUCCEEDED)
    assert scene.small.starts[1]["journal"] == ["aa" * 32, "cc" * 32]


def test_a_worker_that_is_drained_gives_its_run_back_and_leaves(scene: Scene) -> None:
    """It stands on the roll with the run that it works on; asked to leave it exits, and the run goes on elsewhere."""
    scene.small.behave("hang", once=True)
    with Worker(scene.small) as first:
        (run_id,) = scene.tick()
        until(lambda: scene.ledger.journal(run_id))
        name = f"worker-{first.process.pid}@{socket.gethostname()}"
        (info,) = until(lambda: client.workers(scene.fleet))
        assert (info.name, info.pid, info.runs) == (name, first.process.pid, (run_id,))
        assert info.queues == ("backup", "maintenance", "replication", "restore")
        client.drain(scene.fleet, name, "anna")
        assert first.process.wait(30) == DRAINED
    assert not alive(scene.small.starts[0]["pid"])
    assert client.workers(scene.fleet) == []
    assert scene.state(run_id) is RunState.QUEUED
    with pytest.raises(UnknownWorker, match=name):
        client.drain(scene.fleet, name)
    with Worker(scene.small):
        until(lambda: scene.state(run_id) is RunState.SUCCEEDED)
    run = scene.ledger.get(run_id)
    assert run is not None
    assert [attempt.error for attempt in run.attempts] == ["", ""]
    assert scene.small.starts[1]["journal"] == ["aa" * 32, "cc" * 32]


def test_a_run_is_done_by_the_file_as_it_is_when_it_starts(scene: Scene) -> None:
    """A source that came a moment ago is no unknown one, and a file that is wrong by then leaves the last good one."""
    with Worker(scene.small) as worker:
        until(lambda: client.workers(scene.fleet), what="the worker")
        scene.small.change("sources: {", f"sources: {{web2: {{paths: [{scene.small.source_dir}]}}, ")
        fleet = scene.small.fleet
        new = open_and_ring(fleet, RunKind.FULL, "web2")
        until(lambda: scene.state(new) is RunState.SUCCEEDED)
        # The worker and each of its two children take it, whoever of them has had a run.
        until(lambda: worker.said().count("the changed configuration is in force") == 3, what="that all know of it")
        scene.small.change("sources: {", "sources: 7 #")
        again = open_and_ring(fleet, RunKind.FULL, "web2")
        until(lambda: scene.state(again) is RunState.SUCCEEDED)
        until(lambda: "the old one stays" in worker.said(), what="the error in its log")


def test_a_run_is_found_cancelled_and_retried_by_its_first_digits(scene: Scene) -> None:
    """The command's side: the worker's engine ends, the run is over, the same is asked for anew under another id."""
    scene.small.behave("hang", once=True)
    with Worker(scene.small):
        run_id = open_and_ring(scene.fleet, RunKind.FULL, "web1")
        assert open_and_ring(scene.fleet, RunKind.INCREMENTAL, "web1") == run_id  # it joins what is under way
        until(lambda: scene.ledger.journal(run_id))
        with pytest.raises(RunNotOver, match="is running"):
            client.retry(scene.fleet, run_id[:8])
        assert client.cancel(scene.fleet, run_id[:8], "anna") is Word.ASKED
        last = list(follow(scene.fleet, run_id[:8]))[-1]
        assert (last.state, last.error) == (RunState.CANCELLED, "cancelled by anna")
        again = client.retry(scene.fleet, run_id[:8])
        until(lambda: scene.state(again) is RunState.SUCCEEDED)
    assert [run.id for run in client.all_runs(scene.fleet)] == [again, run_id]
    assert [run.id for run in client.all_runs(scene.fleet, source="web1", count=1)] == [again]
    assert client.all_runs(scene.fleet, open_only=True) == []


def test_digits_that_fit_several_runs_or_none_are_told_apart(scene: Scene) -> None:
    """Some of the ids are named; what is no id at all is said to be none."""
    ids = ["0a" + "a" * 30, "0b" + "a" * 30]
    for run_id in ids:
        scene.ledger.open(RunRequest(run_id, RunKind.FULL, "web1"))
    assert client.find(scene.fleet, "0b")[1].id == ids[1]
    with pytest.raises(AmbiguousRun, match=ids[0]):
        client.find(scene.fleet, "0")
    for wrong, reason in (("ff", "there is no run ff"), ("f" * 32, "there is no run"), ("*", "no run's id")):
        with pytest.raises(UnknownRun, match=reason):
            client.find(scene.fleet, wrong)


def test_a_pool_child_that_is_killed_leaves_no_engine(scene: Scene) -> None:
    """The worker's parent starts another child; the run comes back by the reaper."""
    scene.small.behave("hang", once=True)
    with Worker(scene.small):
        (run_id,) = scene.tick()
        until(lambda: scene.ledger.journal(run_id))
        run = scene.ledger.get(run_id)
        assert run is not None
        os.kill(int(run.owner.rpartition(":")[2]), signal.SIGKILL)
        until(lambda: not alive(scene.small.starts[0]["pid"]), what="the end of the orphaned engine")
        until(lambda: scene.tick() == [run_id])
        until(lambda: scene.state(run_id) is RunState.SUCCEEDED)


def test_a_wipe_of_redis_in_mid_run_leaves_one_run(scene: Scene) -> None:
    """The holder tells the new ledger; a tick in between opens the same id, since the slot is the same."""
    scene.small.behave("hang", seconds=4)
    with Worker(scene.small):
        (run_id,) = scene.tick()
        until(lambda: scene.ledger.journal(run_id))
        scene.ledger.client.flushall()
        assert scene.tick() in ([run_id], [])
        until(lambda: scene.state(run_id) is RunState.SUCCEEDED)
    assert {start["run"] for start in scene.small.starts} == {run_id}


def test_rings_for_nothing_do_no_harm(scene: Scene) -> None:
    """Unknown ids, no id, a number, far too much: the worker goes on to the next ring."""
    with Worker(scene.small):
        for arguments in (["ab" * 16], [], [7], ["../../etc"], [{"run": "x"}], ["a", "b", "c"]):
            scene.app.send_task(TASK_RUN, args=arguments, queue=BACKUP)
        (run_id,) = scene.tick()
        until(lambda: scene.state(run_id) is RunState.SUCCEEDED)
    assert len(scene.small.starts) == 1


def test_a_lost_ledger_never_means_never_backed_up(scene: Scene) -> None:
    """Where the ledger knows nothing the site is asked, and what it says is noted."""
    known = Evidence("2026-03-04T00:00:00Z", "2026-03-04T00:00:00Z")
    assert scene.tick(known) == []
    assert scene.ledger.evidence("web1", "a") == known
    assert scene.tick(None) == []


def test_secrets_pass_over_the_pipe_alone(scene: Scene) -> None:
    """Neither Redis, nor a log, nor an engine's arguments or environment hold a password or the fleet's secret."""
    fleet = scene.fleet
    secrets = [fleet.secret.read(), fleet.recovery_password.read(), fleet.machine_password("web1").encode()]
    secrets.append(secrets[0].hex().encode())
    scene.small.behave("hang")
    places: dict[str, bytes] = {}
    with Worker(scene.small) as worker:
        (run_id,) = scene.tick()
        until(lambda: scene.ledger.journal(run_id))
        for part in ("cmdline", "environ"):
            with open(f"/proc/{scene.small.starts[0]['pid']}/{part}", "rb") as file:
                places[part] = file.read()
        for key in scene.ledger.client.scan_iter():
            places[key] = repr(contents(scene.ledger, key)).encode()
        worker.process.terminate()
        worker.process.wait(30)
    with open(worker.log, "rb") as file:
        places["log"] = file.read()
    assert [(place, secret) for place, said in places.items() for secret in secrets if secret in said] == []
    assert len(places) > 5
