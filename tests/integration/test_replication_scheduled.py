"""Replications that the tick opens: once for what a copy is behind by, again after a failure, so many at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from scheduler.__main__ import Ticker
from scheduler.replication import AT_ONCE
from scheduler.tick import tick
from shared import topology
from shared.config.watch import FleetWatch
from shared.errors import ConfigError
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, Run, RunKind, RunRequest, RunState, Word
from shared.messaging.app import make_app
from shared.messaging.bell import ring
from shared.messaging.events import REPLICATION as EVENTS
from shared.messaging.events import SNAPSHOT_COMMITTED, publish
from shared.messaging.names import REPLICATION
from shared.messaging.signed import Sealer
from tests.integration.test_exporter import Scraper
from tests.support.fleets import SmallFleet
from tests.support.ledgers import claimed, own_ledger, until
from workers import tasks, upkeep_specs
from workers.supervise import Outcome
from workers.telling import tell_of_run

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
OLD, NEW = "2026-03-04T00:00:00Z", "2026-03-04T11:00:00Z"


class Scene:
    """A fleet of a source of a pool and one of a host, with copies at a second site, and its ledger."""

    def __init__(self, base: Path, ledger: Ledger, broker: str) -> None:
        self.small = SmallFleet(
            str(base), broker=broker, policy='full: "0 0 1 1 *", rpo: 1h, primary: a, copies: {number: 1}'
        )
        self.small.add_source("far", host="web9")
        self.small.change("sites: {a: {url: site}}", "sites: {a: {url: site}, b: {url: second}}")
        self.fleet = self.small.fleet
        self.ledger = ledger
        for source, host in (("web1", ""), ("far", "web9")):
            ledger.realm(host).note_evidence(source, "a", Evidence(OLD, OLD))

    def tick(self) -> list[RunRequest]:
        """The replications that one tick opens and rings for."""
        rung: list[tuple[str, str]] = []
        opened = tick(self.fleet, self.ledger, rung.extend, lambda *_: Evidence(OLD, OLD), NOW).opened
        assert [(request.id, request.queue) for request in opened] == rung
        return [request for request in opened if request.kind is RunKind.REPLICATE]

    def finish(self, request: RunRequest, state: RunState = RunState.SUCCEEDED, **result: Any) -> None:
        """A worker does it."""
        run = self.ledger.get(request.id)
        assert run is not None
        lease = claimed(self.ledger, request.id)
        result = {"site": "b", "origin": "a", **result}
        if state is not RunState.FAILED:
            tasks._note(self.ledger, run, result)
        self.ledger.finish(lease, state, result=result)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """See `Scene`."""
    with own_ledger(os.path.join(str(tmp_path), "valkey")) as (ledger, server):
        yield Scene(tmp_path, ledger, server.url)


def test_a_copy_that_is_behind_is_replicated_once(scene: Scene) -> None:
    """Also of a host's source, by the pools; done, nothing is due until the primary has more."""
    opened = scene.tick()
    assert sorted((one.source, one.queue, one.slot) for one in opened) == [
        ("far", REPLICATION, OLD),
        ("web1", REPLICATION, OLD),
    ]
    assert [one.options for one in opened] == [{"site": "b"}] * 2
    assert scene.tick() == []
    for one in opened:
        scene.finish(one, last=OLD, last_full=OLD)
    assert scene.ledger.evidence("far", "b") == Evidence(OLD, OLD)
    assert scene.tick() == []
    scene.ledger.realm("web9").note_evidence("far", "a", Evidence(NEW, OLD))
    (later,) = scene.tick()
    assert (later.source, later.slot) == ("far", NEW)


def test_one_that_failed_is_opened_again_after_its_pause(scene: Scene) -> None:
    """The ledger's own, which grows."""
    one = next(request for request in scene.tick() if request.source == "web1")
    scene.finish(one, RunState.FAILED)
    assert scene.tick() == []
    scene.ledger.client.hset(scene.ledger.keys.run(one.id), "retry", 0)
    assert [request.id for request in scene.tick()] == [one.id]


def test_only_so_many_wait_at_a_time(scene: Scene) -> None:
    """No worker does any: they do not pile up."""
    ring(scene.ledger.client, [("ab" * 16, REPLICATION)] * AT_ONCE)
    assert scene.tick() == []
    scene.ledger.client.delete(REPLICATION)
    assert len(scene.tick()) == 2


def tell_committed(scene: Scene, source: str, key: bytes = b"") -> None:
    """As a worker does once the run has ended."""
    app = make_app(scene.fleet.broker_url() or "")
    message = Sealer(key or scene.fleet.event_key, "runs@here").seal(SNAPSHOT_COMMITTED, {"source": source})
    publish(app.producer_pool, message)
    app.close()


def test_what_is_committed_is_replicated_without_a_tick(scene: Scene) -> None:
    """Heard, its copies are opened at once, and no other's; what was forged, or says nothing due, opens nothing."""
    rung: list[tuple[str, str]] = []
    ticker = Ticker(FleetWatch(scene.small.path), rung.extend)
    tell_committed(scene, "far", key=b"x" * 32)
    tell_committed(scene, "no such source")
    ticker.hear()
    assert rung == []
    for _ in range(2):
        tell_committed(scene, "far")
        ticker.hear()
        (opened,) = {run.request.source for run in scene.ledger.open_runs()}
        assert (opened, len(rung)) == ("far", 1)
    assert scene.ledger.client.llen(EVENTS.name) == 0
    assert [one.source for one in scene.tick()] == ["web1"]  # an event of which was lost


def test_a_scheduler_without_ticks_opens_what_is_committed(scene: Scene) -> None:
    """The very process: the worker that tells of a commit rings for it, and nobody sends it any tick."""
    log = os.path.join(scene.small.directory, "scheduler.log")
    command = [sys.executable, "-m", "scheduler", "worker", "--config", scene.small.path, "--log-file", log]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    app = make_app(scene.fleet.broker_url() or "")
    try:
        run = Run(RunRequest("ab" * 16, RunKind.FULL, "web1"), RunState.SUCCEEDED)
        outcome = Outcome(Word.FINISHED, RunState.SUCCEEDED, {"site": "a"})
        tell_of_run(app, scene.fleet, run, outcome, "a", committed=True)
        until(lambda: scene.ledger.client.llen(REPLICATION), what="the ring")
        (opened,) = scene.ledger.open_runs()
        assert (opened.request.kind, opened.request.source, opened.request.slot) == (RunKind.REPLICATE, "web1", OLD)
    finally:
        app.close()
        process.terminate()
        process.wait(30)


def test_the_exporter_tells_what_the_second_site_has(scene: Scene) -> None:
    """When the newest complete snapshot there was begun, by what the replication found; a host's too."""
    watching = Scraper(scene.small.path)
    watching.scrape()
    for one in scene.tick():
        scene.finish(one, last=OLD, last_full=OLD, good="ab" * 32, good_began=1_772_582_400.0)
    name = "holdfast_last_good_snapshot_start_timestamp_seconds"
    for exporter in (watching, Scraper(scene.small.path)):
        found = exporter.scrape()
        assert {place: start for place, start in found[name].items() if place[1] == "b"} == {
            ("web1", "b"): 1_772_582_400.0,
            ("far", "b"): 1_772_582_400.0,
        }
        assert found["holdfast_upkeep_good_timestamp_seconds"]["web1", "b", "replicate"] > 0
        assert found["holdfast_upkeep_interval_seconds"]["all", "replicate"] == 86400


def test_the_lock_of_a_dead_one_is_looked_for_at_both_sites(scene: Scene) -> None:
    """It had one at each."""
    request = scene.tick()[0]
    assert topology.sites_of(scene.fleet, request) == ["b", "a"]


def test_what_the_engine_is_told(scene: Scene) -> None:
    """Both sites, the rules of the one where snapshots are to arrive; never from a site to itself."""
    scene.small.change("copies:", "retention: {keep_daily: 9, sites: {b: {keep_last: 2}}}, copies:")
    fleet = scene.small.fleet
    spec = upkeep_specs.replicate_spec(fleet, "web1", {"site": "b"}, run="ab" * 16)
    assert (spec.site.id, spec.origin.id, spec.rules and spec.rules.last) == ("b", "a", 2)
    back = upkeep_specs.replicate_spec(fleet, "web1", {"site": "a", "origin": "b"}, run="ab" * 16)
    assert (back.site.id, back.origin.id, back.rules and back.rules.daily) == ("a", "b", 9)
    for options, reason in (
        ({"site": "a"}, "from site a to a"),
        ({}, "from site a to no site"),
        ({"site": "c"}, 'no site "c"'),
        ({"site": "b", "rules": None}, "has no option 'rules'"),
    ):
        with pytest.raises(ConfigError, match=reason):
            upkeep_specs.replicate_spec(fleet, "web1", options, run="ab" * 16)
