"""Runs that a newer release wrote into the ledger: shown as they are, and left alone by everything of this one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from cli.main import main
from scheduler.exporter import FleetCollector
from scheduler.tick import tick
from shared.config.watch import FleetWatch
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, RunKind, RunState, Word
from shared.messaging.app import make_app
from shared.observability import metrics
from tests.support.fleets import SmallFleet
from tests.support.ledgers import a_run, own_ledger
from workers.context import WorkerContext
from workers.tasks import execute

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
KNOWN = Evidence("2026-03-04T00:00:00Z", "2026-03-04T00:00:00Z")


@pytest.fixture(scope="module")
def shared_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One for all tests of this module."""
    with own_ledger(str(tmp_path_factory.mktemp("valkey"))) as (ledger, _):
        yield ledger


@pytest.fixture
def ledger(shared_ledger: Ledger) -> Ledger:
    """An empty ledger."""
    shared_ledger.client.flushall()
    return shared_ledger.realm("")


@pytest.fixture
def small(ledger: Ledger, tmp_path: Path) -> SmallFleet:
    """A fleet on that ledger."""
    port = ledger.client.connection_pool.connection_kwargs["port"]
    return SmallFleet(str(tmp_path), broker=f"redis://127.0.0.1:{port}/0")


def newer(ledger: Ledger, source: str = "web1", *, over: bool = False, **fields: str) -> str:
    """The id of a run with these fields, and with some that nobody here knows; it is due to be looked after."""
    request = a_run(source)
    ledger.open(request)
    attempts = json.dumps([[1, "new@host:1", 1_000, 2_000, "denied", {"node": "n7"}]])
    ledger.client.hset(ledger.keys.run(request.id), mapping={"priority": "7", "attempts": attempts, **fields})
    if over:
        ledger.client.hset(ledger.keys.run(request.id), "state", "queued")
        lease = ledger.claim(request.id, "new@host:1").lease
        assert lease is not None
        ledger.finish(lease, RunState(fields.get("state", "succeeded")))
    else:
        ledger.client.zadd(ledger.keys.open, {request.id: 0})
    return request.id


def command(capsys: pytest.CaptureFixture[str], small: SmallFleet, *arguments: str, code: int = 0) -> Any:
    """What a command says with --json; no trace is shown, and no bug reported."""
    got = main([*arguments, "--json", "--config", small.path])
    said = capsys.readouterr()
    assert got == code, said.out + said.err
    assert "Traceback" not in said.out + said.err
    return json.loads(said.out or said.err)


NEWER = [{"kind": "teleport"}, {"kind": "backup-synthetic"}, {"state": "paused"}]


@pytest.mark.parametrize("fields", NEWER, ids=lambda fields: next(iter(fields.values())))
def test_commands_show_it_as_it_is(
    ledger: Ledger, small: SmallFleet, capsys: pytest.CaptureFixture[str], fields: dict[str, str]
) -> None:
    """Lists, details and the fleet's status; what they say of other runs is not disturbed."""
    run_id = newer(ledger, **fields)
    other = a_run("db1")
    ledger.open(other)
    runs = {run["id"]: run for run in command(capsys, small, "runs")["runs"]}
    assert runs.keys() == {run_id, other.id}
    shown = command(capsys, small, "runs", "show", run_id)
    for one in (runs[run_id], shown):
        assert {name: one[name] for name in fields} == fields
    assert shown["attempts"][0]["error"] == "denied"
    assert main(["runs", "show", run_id, "--config", small.path]) == 0
    assert next(iter(fields.values())) in capsys.readouterr().out
    status = command(capsys, small, "status", code=2)
    assert [(one["queue"], one["runs"]) for one in status["queues"]] == [("backup", 1 + ("kind" in fields))]


def test_a_run_that_ended_in_an_unknown_state_is_followed_to_its_end(
    ledger: Ledger, small: SmallFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    """And is neither taken for good nor waited for without end."""
    run_id = newer(ledger, over=True, state="expired")
    error = command(capsys, small, "runs", "follow", run_id, code=1)["error"]
    assert error["message"] == f"run {run_id} ended as expired, which this release does not know"
    assert "newer" in error["hint"]


def test_an_unknown_state_is_not_cancelled(
    ledger: Ledger, small: SmallFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said who can, and nothing is changed."""
    run_id = newer(ledger, state="paused")
    before = ledger.client.hgetall(ledger.keys.run(run_id))
    error = command(capsys, small, "runs", "cancel", run_id, code=60)["error"]
    assert "is paused, which this release does not know" in error["message"]
    error = command(capsys, small, "runs", "retry", run_id, code=64)["error"]
    assert "is paused, so it can't be retried yet" in error["message"]
    assert ledger.client.hgetall(ledger.keys.run(run_id)) == before


def test_a_worker_that_is_rung_for_a_newer_run_leaves_it_to_others(ledger: Ledger, small: SmallFleet) -> None:
    """No attempt is counted and nothing is written; it says so in its log."""
    kind, state = newer(ledger, kind="teleport"), newer(ledger, state="paused")
    before = [ledger.client.hgetall(ledger.keys.run(run_id)) for run_id in (kind, state)]
    app = make_app(small.fleet.broker_url() or "")
    with capture_logs() as logs:
        assert [execute(app, WorkerContext(FleetWatch(small.path)), run_id) for run_id in (kind, state)] == [None, None]
    app.close()
    assert [ledger.client.hgetall(ledger.keys.run(run_id)) for run_id in (kind, state)] == before
    assert [(one["run"], one["event"]) for one in logs] == [(kind, "a run of a kind that this release does not know")]
    assert small.starts == []


def test_a_tick_rings_for_a_newer_kind_and_lets_a_newer_state_be(ledger: Ledger, small: SmallFleet) -> None:
    """Whoever knows it takes it; it is never dropped; and what is due besides is opened as ever."""
    kind, state = newer(ledger, "another", kind="teleport"), newer(ledger, "another", state="paused")
    rung: list[tuple[str, str]] = []
    ticked = tick(small.fleet, ledger, rung.extend, lambda *_: None, NOON)
    assert (ticked.rung_again, [one.source for one in ticked.opened]) == ([kind], ["web1"])
    assert [run_id for run_id, _ in rung] == [kind, ticked.opened[0].id]
    assert {run.id for run in ledger.open_runs()} == {kind, state, ticked.opened[0].id}
    assert ledger.open(ticked.opened[0]).value == "joined"


def test_a_newer_kind_of_backup_keeps_its_source_busy(ledger: Ledger, small: SmallFleet) -> None:
    """Else an older scheduler would start a second one beside it."""
    newer(ledger, kind="backup-synthetic")
    ticked = tick(small.fleet, ledger, lambda *_: None, lambda *_: None, NOON)
    assert ticked.opened == []


def test_a_dead_worker_of_a_newer_release_is_fenced_by_an_older_scheduler(ledger: Ledger, small: SmallFleet) -> None:
    """Its lease is like any other."""
    run_id = newer(ledger, kind="teleport")
    assert ledger.claim(run_id, "new@host:1").word is Word.CLAIMED
    ledger.client.hset(ledger.keys.run(run_id), "lease", 0)
    ledger.client.zadd(ledger.keys.open, {run_id: 0})
    ticked = tick(small.fleet, ledger, lambda *_: None, lambda *_: KNOWN, NOON)
    assert ticked.rung_again == [run_id]


def test_the_exporter_counts_it_under_its_own_name(ledger: Ledger, small: SmallFleet) -> None:
    """Open runs and ended ones."""
    collector = FleetCollector(FleetWatch(small.path))
    list(collector.collect())
    newer(ledger, kind="teleport")
    newer(ledger, over=True, state="expired")
    newer(ledger, over=True, kind="backup-synthetic")
    counted = {
        (sample.name, *sample.labels.values()): sample.value
        for family in collector.collect()
        for sample in family.samples
        if sample.value and sample.name in {metrics.OPEN_RUNS.name, metrics.RUNS.name}
    }
    assert counted == {
        (metrics.OPEN_RUNS.name, "teleport", "queued"): 1,
        (metrics.RUNS.name, "backup-synthetic", "succeeded"): 1,
        (metrics.RUNS.name, "backup-full", "expired"): 1,
    }


def test_a_word_of_a_newer_release_is_equal_to_itself_alone() -> None:
    """Also where it has the name of one of ours."""
    for word in (RunKind("FULL"), RunKind("teleport"), RunState("paused")):
        assert (word.is_known, word == type(word)(word.value), str(word)) == (False, True, word.value)
        assert {word: 1}[type(word)(word.value)] == 1
    assert [kind for kind in RunKind if RunKind("FULL") == kind or not kind.is_known] == []
    assert (RunState("paused").is_final, RunKind("backup-x").is_backup) == (False, True)
