"""What is logged about a run says which run, source, kind, site and attempt: on the real output of worker and tick."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from scheduler.tick import tick
from shared.ledger.ledger import Ledger
from shared.ledger.model import RunKind, RunState
from shared.messaging.app import make_app
from shared.messaging.client import cancel, open_and_ring
from shared.messaging.names import TASK_RUN
from shared.observability.logs import set_up
from tests.support import forked
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger, until
from tests.support.tools import ValkeyServer

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
ABOUT = {"run", "source", "kind", "site", "attempt"}


@contextmanager
def worker(small: SmallFleet) -> Iterator[str]:
    """A worker with fake engines; the path of all that it says."""
    path = os.path.join(small.directory, "worker.log")
    command = [sys.executable, "-m", "tests.support.fake_worker", "--config", small.path]
    with open(path, "wb") as log:
        process = forked.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        yield path
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def lines(path: str) -> list[dict[str, Any]]:
    """Every whole line of a log; each must be JSON."""
    with open(path) as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


@pytest.fixture
def place(tmp_path: object) -> Iterator[tuple[SmallFleet, Ledger, ValkeyServer]]:
    """A fleet of one source, its ledger and the Redis below it."""
    with own_ledger(os.path.join(str(tmp_path), "valkey"), lease_seconds=3.0) as (ledger, server):
        yield SmallFleet(str(tmp_path), broker=server.url), ledger, server


def state(ledger: Ledger, run_id: str) -> RunState | None:
    """Where a run stands."""
    run = ledger.get(run_id)
    return run.state if run else None


def test_a_workers_lines_say_which_run_they_are_about(place: tuple[SmallFleet, Ledger, ValkeyServer]) -> None:
    """Of runs that go well, fail, crash, talk nonsense, are cancelled, lose Redis: each line has all five fields."""
    small, ledger, server = place
    with worker(small) as log:
        for behaviour, end in (
            ("done", RunState.SUCCEEDED),
            ("error", RunState.FAILED),
            ("garbage", RunState.SUCCEEDED),
        ):
            small.behave(behaviour)
            run_id = open_and_ring(small.fleet, RunKind.FULL, "web1")
            until(lambda run_id=run_id, end=end: state(ledger, run_id) is end, what=behaviour)  # type: ignore[misc]
        small.behave("hang")
        cancelled = open_and_ring(small.fleet, RunKind.FULL, "web1")
        until(lambda: ledger.journal(cancelled))
        cancel(small.fleet, cancelled, "anna")
        until(lambda: state(ledger, cancelled) is RunState.CANCELLED)
        small.behave("complain")
        crashed = open_and_ring(small.fleet, RunKind.FULL, "web1")
        until(lambda: [one for one in lines(log) if one["event"] == "run ended" and one["run"] == crashed])
        cancel(small.fleet, crashed, "anna")
        small.behave("hang", seconds=6)
        last = open_and_ring(small.fleet, RunKind.FULL, "web1")
        until(lambda: ledger.journal(last))
        server.kill()
        away = "Redis is away; the work goes on"
        until(lambda: away in {line["event"] for line in lines(log)}, what="the worker sees that Redis is away")
        said = lines(log)
    about = [line for line in said if line["logger"] == "holdfast.worker" and "run" in line]
    assert {line["event"] for line in about} == {
        "run started",
        "run ended",
        "engine said what is no event",
        "to be cancelled",
        "the engine complains",
        "Redis is away; the work goes on",
    }
    assert [line for line in about if not set(line) >= ABOUT] == []
    assert {(line["source"], line["kind"], line["site"], line["attempt"]) for line in about} == {
        ("web1", "backup-full", "a", 1)
    }
    complaint = next(line["text"] for line in about if line["event"] == "the engine complains")
    assert complaint == "Traceback (most recent call last):\nValueError: secret_key=***"
    in_tasks = [line for line in said if line.get("task") == "holdfast.run"]
    assert [line["event"] for line in in_tasks if not set(line) >= ABOUT] == []


def test_a_forged_ring_does_not_choose_what_is_logged(place: tuple[SmallFleet, Ledger, ValkeyServer]) -> None:
    """What stands where a run's id should is shown in part, and never as the run of a line."""
    small, ledger, _ = place
    app = make_app(small.fleet.broker_url() or "")
    with worker(small) as log:
        app.send_task(TASK_RUN, args=["x" * 100_000], queue="backup")
        run_id = open_and_ring(small.fleet, RunKind.FULL, "web1")
        until(lambda: state(ledger, run_id) is RunState.SUCCEEDED)
        (line,) = [one for one in lines(log) if one["event"] == "a ring without a run's id"]
    app.close()
    assert "run" not in line
    assert len(line["given"]) == 100


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What this process logs; afterwards logging is as before."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    out = io.StringIO()
    set_up(stream=out)
    yield out
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_ticks_lines_say_which_run_they_are_about(
    place: tuple[SmallFleet, Ledger, ValkeyServer], stream: io.StringIO
) -> None:
    """Of a slot that is due, one that failed and is due again, and a run whose worker died until it is given up."""
    small, ledger, _ = place

    def once() -> list[str]:
        rung: list[str] = []
        tick(small.fleet, ledger, lambda runs: rung.extend(one for one, _ in runs), lambda *_: None, NOON)
        return rung

    def end_lease(run_id: str) -> None:
        ledger.client.hset(ledger.keys.run(run_id), "lease", 0)
        ledger.client.zadd(ledger.keys.open, {run_id: 0})

    (run_id,) = once()
    lease = ledger.claim(run_id, "me").lease
    assert lease is not None
    ledger.finish(lease, RunState.FAILED, error="no disk", exit_code=1)
    ledger.client.hset(ledger.keys.run(run_id), "retry", 0)
    assert once() == [run_id]
    for _ in range(5):
        assert ledger.claim(run_id, "me").lease is not None
        end_lease(run_id)
        once()
    said = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["attempt"]) for line in said] == [
        ("due", 0),
        ("due", 1),
        *(("rung again", attempt) for attempt in range(2, 6)),
        ("given up", 6),
    ]
    assert {(line["run"], line["source"], line["kind"], line["site"]) for line in said} == {
        (run_id, "web1", "backup-full", "a")
    }
