"""The whole ledger at a glance, from a real Valkey: shared.ledger.overview."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redbeat.schedulers import RedBeatConfig

from shared.ledger.keys import BEAT_LOCK
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, RunState
from shared.ledger.overview import SourceView, overview
from shared.ledger.roll import Roll
from shared.messaging.app import make_app
from tests.support.ledgers import a_run, own_ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger."""
    with own_ledger(str(tmp_path / "valkey")) as (ledger, _):
        yield ledger


def ended(ledger: Ledger, source: str, state: RunState, error: str = "") -> str:
    """A backup of a source that has ended so; its id."""
    request = a_run(source)
    ledger.open(request)
    lease = ledger.claim(request.id, "worker:1").lease
    assert lease is not None
    ledger.finish(lease, state, error=error)
    return request.id


def test_an_empty_ledger_knows_nothing(ledger: Ledger) -> None:
    """Of a source as of everything else."""
    seen = overview(ledger, ["", "web1"], [("", "a", "fra"), ("web1", "b", "fra")], ticks="scheduler")
    assert (seen.leading, seen.ticks, seen.runs, seen.workers) == (False, 0, (), ())
    assert seen.sources == (SourceView(), SourceView())
    assert seen.now > 1_700_000_000


def test_realms_and_sources_are_seen_in_one_go(ledger: Ledger) -> None:
    """More of them than one script takes, each with what is its own."""
    hosts = ["", *(f"h{number}" for number in range(700))]
    for host in ("", "h3", "h699"):
        realm = ledger.realm(host)
        realm.note_evidence("data", "fra", Evidence("2026-03-04T02:00:00Z", ""))
        ended(realm, "data", RunState.SUCCEEDED)
        failed = ended(realm, "data", RunState.FAILED, f"no login at {host}")
        realm.open(a_run("data"))
        Roll(realm).beat(f"worker@{host}", host, 7, [f"host.{host}" if host else "backup"])
        assert realm.get(failed) is not None
    Roll(ledger).drain("worker@", "me")
    ledger.client.set(BEAT_LOCK, "x")
    ledger.client.lpush("scheduler", "tick")

    seen = overview(ledger, hosts, [(host, "data", "fra") for host in hosts], ticks="scheduler")
    assert (seen.leading, seen.ticks, len(seen.sources)) == (True, 1, 701)
    assert [(run.source, run.state, run.slot) for run in seen.runs] == [
        ("data", RunState.QUEUED, "2026-03-04T02:00:00Z")
    ] * 3
    assert [(one.name, one.queues, one.drained) for one in seen.workers] == [
        ("worker@", ("backup",), True),
        ("worker@h3", ("host.h3",), False),
        ("worker@h699", ("host.h699",), False),
    ]
    told = {host: view for host, view in zip(hosts, seen.sources, strict=True) if view != SourceView()}
    assert sorted(told) == ["", "h3", "h699"]
    assert all(view.evidence == Evidence("2026-03-04T02:00:00Z") and view.good > 0 for view in told.values())
    newest = told["h699"].newest
    assert newest is not None
    assert (newest.state, newest.error) == (RunState.FAILED, "no login at h699")


def test_the_lock_of_a_leading_scheduler_is_redbeats() -> None:
    """By the name that RedBeat gives it under our settings."""
    app = make_app("redis://127.0.0.1:1/0")
    assert RedBeatConfig(app).lock_key == BEAT_LOCK
    app.close()
