"""Messages that nobody of ours sent: unknown, forged, for another, from a newer release. A worker outlives them all."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from shared.config.watch import FleetWatch
from shared.ledger.errors import LedgerAway
from shared.ledger.ledger import Ledger
from shared.ledger.model import Run, RunKind, RunRequest, RunState, Word, new_run_id
from shared.messaging.app import make_app
from shared.messaging.bell import ring, rung
from shared.messaging.client import open_and_ring
from shared.messaging.gate import cleaned
from shared.messaging.names import BACKUP, TASK_RUN, redis_list
from tests.support import forked
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger, until
from workers.context import WorkerContext
from workers.tasks import execute

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")


@dataclass
class Scene:
    """A worker that serves a fleet whose source db1 is read on a host of that name."""

    small: SmallFleet
    ledger: Ledger
    app: Celery
    process: subprocess.Popen[bytes]
    log: Path

    def is_done(self, run_id: str) -> bool:
        """Whether a run has succeeded."""
        run = self.ledger.get(run_id)
        return run is not None and run.state is RunState.SUCCEEDED

    def said(self, event: str) -> int:
        """How often the log has this line."""
        return self.log.read_text().count(event)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One worker, one slot, for all of these tests: what kills it fails those that follow."""
    base = tmp_path_factory.mktemp("scene")
    with own_ledger(str(base / "valkey")) as (ledger, server):
        small = SmallFleet(str(base), broker=server.url)
        path = Path(small.path)
        path.write_text(
            path.read_text().replace("sources: {", f"sources: {{db1: {{host: db1, paths: [{small.source_dir}]}}, ")
        )
        command = [sys.executable, "-m", "tests.support.fake_worker", "--config", small.path, "--concurrency", "1"]
        log = base / "worker.log"
        with log.open("wb") as out:
            process = forked.Popen(command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True)
        app = make_app(server.url)
        try:
            yield Scene(small, ledger, app, process, log)
            assert process.poll() is None
            assert "Traceback" not in log.read_text()
        finally:
            process.terminate()
            process.wait(40)
            app.close()


def body(*arguments: object, embed: object = None) -> str:
    """The body of a message."""
    return base64.b64encode(json.dumps([arguments, {}, embed or {}]).encode()).decode()


def message(**over: Any) -> dict[str, Any]:
    """A ring for a run that there is none of, with some of its parts replaced."""
    return {
        "body": body("ab" * 16),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": TASK_RUN, "id": new_run_id(), "lang": "py"},
        "properties": {
            "delivery_tag": new_run_id(),
            "delivery_info": {"exchange": "", "routing_key": BACKUP},
            "body_encoding": "base64",
        },
        **over,
    }


def headers(**more: object) -> dict[str, object]:
    """Those of a ring, and more."""
    return {"task": TASK_RUN, "id": new_run_id(), "lang": "py", **more}


NO_MESSAGES: dict[str, bytes | str] = {
    "no JSON": "what?",
    "no UTF-8": b"\xff\xfe\x00",
    "a number": "7",
    "a list": "[]",
    "too deep": "[" * 50_000,
    "nothing in it": "{}",
    "no properties": json.dumps({"body": body("ab" * 16)}),
    "a body that is not base64": json.dumps(message(body="***")),
    "a body that is not JSON": json.dumps(message(body=base64.b64encode(b"\xff").decode())),
    "a body that is no list": json.dumps(message(body=base64.b64encode(b'{"a": 1}').decode())),
    "arguments that are none": json.dumps(message(body=base64.b64encode(b'["x"]').decode())),
    "no task": json.dumps(message(headers={})),
    "a task that is a list": json.dumps(message(headers=headers(task=["x"]))),
    "an id that is a mapping": json.dumps(message(headers=headers(id={"x": 1}))),
    "a task that there is none of": json.dumps(message(headers=headers(task="os.system"))),
    "an expiry that is no time": json.dumps(message(headers=headers(expires="never"))),
}
RINGS_FOR_NOTHING = {
    "limits that are none": json.dumps(message(headers=headers(timelimit=["a", "b"]))),
    "a time that is none": json.dumps(message(headers=headers(eta="never", retries="x", group={}))),
    "pickle": json.dumps(message(**{"content-type": "application/x-python-serialize"})),
    "what kombu would turn into an object": json.dumps(message(body=body({"__type__": "uuid", "__value__": 7}))),
    "an id and more": json.dumps(message(body=body("ab" * 16, {"priority": 7}, "and more"))),
}


@pytest.mark.parametrize(
    ("forged", "event"),
    [
        *((one, "a message that is none was dropped") for one in NO_MESSAGES.values()),
        *((one, "a ring ") for one in RINGS_FOR_NOTHING.values()),
    ],
    ids=[*NO_MESSAGES, *RINGS_FOR_NOTHING],
)
def test_a_forged_message_costs_a_line_in_the_log(scene: Scene, forged: bytes | str, event: str) -> None:
    """The next ring is followed by the same worker; nothing is left that would come back to it."""
    before = scene.said(event)
    scene.ledger.client.lpush(BACKUP, forged)
    run_id = open_and_ring(scene.small.fleet, RunKind.INCREMENTAL, "web1")
    until(lambda: scene.is_done(run_id))
    until(lambda: scene.said(event) > before, what=event)
    assert (scene.ledger.client.llen(BACKUP), scene.ledger.client.hlen("unacked")) == (0, 0)


def test_what_a_message_would_have_celery_do_besides_is_left_out() -> None:
    """Tasks to call next, limits, another place to answer to: only task, id, the run's id and an expiry pass."""
    forged = message(
        body=body("ab" * 16, "more", embed={"callbacks": [{"task": "x"}], "chord": {"x": 1}}),
        headers=headers(id="7", timelimit=[0.001, 0.001], expires="2026-03-04T00:00:00Z", shadow="x"),
    )
    forged["properties"] |= {"reply_to": "elsewhere", "delivery_tag": "t"}
    found = cleaned(forged, BACKUP)
    assert json.loads(base64.b64decode(found["body"])) == [["ab" * 16], {}, {}]
    assert found["headers"] == {"task": TASK_RUN, "id": "7", "lang": "py", "expires": "2026-03-04T00:00:00Z"}
    assert found["properties"] == {
        "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": BACKUP},
        "delivery_mode": 2,
        "delivery_tag": "t",
        "priority": 0,
    }


def test_a_ring_for_a_run_that_another_has_or_that_is_over_changes_nothing(scene: Scene) -> None:
    """A valid id, sent by whoever: the ledger decides."""
    over = open_and_ring(scene.small.fleet, RunKind.INCREMENTAL, "web1")
    until(lambda: scene.is_done(over))
    held = RunRequest(new_run_id(), RunKind.FULL, "web1", queue=BACKUP)
    scene.ledger.open(held)
    assert scene.ledger.claim(held.id, "another:1").word is Word.CLAIMED
    before = [scene.ledger.client.hgetall(scene.ledger.keys.run(one)) for one in (over, held.id)]
    ring(scene.ledger.client, [(run_id, BACKUP) for run_id in (over, held.id)])
    again = RunRequest(new_run_id(), RunKind.INCREMENTAL, "web1", queue=BACKUP)
    scene.ledger.open(again)
    ring(scene.ledger.client, [(again.id, BACKUP)])
    until(lambda: scene.is_done(again.id))
    assert [scene.ledger.client.hgetall(scene.ledger.keys.run(one)) for one in (over, held.id)] == before
    scene.ledger.cancel(held.id, "the test")


def failed(scene: Scene, context: WorkerContext, ledger: Ledger, source: str, **more: Any) -> Run:
    """A run that a worker of this context refuses; no engine is started for it."""
    request = RunRequest(new_run_id(), RunKind.FULL, source, queue=BACKUP, **more)
    ledger.open(request)
    starts = len(scene.small.starts)
    assert execute(scene.app, context, request.id) is Word.FINISHED
    assert len(scene.small.starts) == starts
    run = ledger.get(request.id)
    assert run is not None
    assert run.state is RunState.FAILED
    return run


def test_what_an_agent_makes_of_its_queue_keeps_nobody_else_from_hearing(scene: Scene) -> None:
    """Many rings share a script: one of them that falls on no list is lost, and the others are not."""
    client, bent, straight = scene.ledger.client, "host.bent", "host.straight"
    client.set(redis_list(bent), "no list")
    ids = [new_run_id() for _ in range(1234)]
    assert ring(client, [(run_id, queue) for run_id in ids for queue in (bent, straight)]) == 2 * len(ids)
    assert [rung(raw) for raw in reversed(client.lrange(redis_list(straight), 0, -1))] == ids
    assert client.get(redis_list(bent)) == "no list"


def test_a_redis_that_is_full_hears_no_ring(scene: Scene) -> None:
    """It is said to be away: the tick stops there, and the next one does what this one left."""
    scene.ledger.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(LedgerAway):
            ring(scene.ledger.client, [(new_run_id(), BACKUP)])
    finally:
        scene.ledger.client.config_set("maxmemory", 0)


@pytest.mark.parametrize(
    ("realm", "source", "said"),
    [
        ("", "db1", "source db1 is read on host db1, and this run was opened for a pool"),
        ("db1", "web1", "source web1 is read by a pool, and this run was opened for host db1"),
        ("db2", "db1", "source db1 is read on host db1, and this run was opened for host db2"),
    ],
)
def test_a_run_of_another_hosts_source_is_refused(scene: Scene, realm: str, source: str, said: str) -> None:
    """Moved since it was opened, or forged: one machine's files never pass for those of another."""
    ledger = scene.ledger.realm(realm)
    run = failed(scene, WorkerContext(FleetWatch(scene.small.path), ["db1", "db2"]), ledger, source)
    assert (run.error, run.exit_code) == (f"{said}. Was it moved? Ask again: holdfast backup {source}", 10)


def test_a_ring_for_another_hosts_run_is_left_to_that_host(scene: Scene) -> None:
    """Whoever does not serve that host does not even see the run."""
    mine = scene.ledger.realm("db1")
    request = RunRequest(new_run_id(), RunKind.FULL, "db1", queue="host.db1")
    mine.open(request)
    before = mine.client.hgetall(mine.keys.run(request.id))
    for hosts in ([], ["db2"]):
        assert execute(scene.app, WorkerContext(FleetWatch(scene.small.path), hosts), request.id) is None
    assert mine.client.hgetall(mine.keys.run(request.id)) == before
    mine.cancel(request.id, "the test")


def test_what_a_newer_release_asks_for_besides_is_refused_by_its_name(scene: Scene) -> None:
    """Never is something else done than what was asked for."""
    run = failed(
        scene, WorkerContext(FleetWatch(scene.small.path)), scene.ledger, "web1", options={"only_changed": True}
    )
    assert run.error.startswith("a backup has no option 'only_changed'. There are: none. ")
    assert run.exit_code == 10


def test_a_redis_that_goes_between_claim_and_engine_fails_no_run(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is back at once: the run waits to be rung for again, and no death is counted."""

    def reset(*_: object) -> list[str]:
        raise LedgerAway("Redis does not answer: connection reset by peer")

    monkeypatch.setattr(Ledger, "journal", reset)
    request = RunRequest(new_run_id(), RunKind.FULL, "web1", queue=BACKUP)
    scene.ledger.open(request)
    assert execute(scene.app, WorkerContext(FleetWatch(scene.small.path)), request.id) is Word.RELEASED
    run = scene.ledger.get(request.id)
    assert run is not None
    assert (run.state, run.error, run.attempts[-1].error) == (RunState.QUEUED, "", "")
    scene.ledger.cancel(request.id, "the test")
