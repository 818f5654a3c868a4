"""A policy with retention has each of its sources forgotten once a day: the tick opens it, the pools do it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scheduler.forgets import forget_due
from scheduler.tick import tick
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, RunKind, RunRequest, RunState
from shared.messaging.client import open_and_ring
from shared.messaging.names import MAINTENANCE
from tests.support.fleets import SmallFleet
from tests.support.ledgers import a_run, claimed, own_ledger
from workers import specs, tasks

DAY = datetime(2026, 3, 4, tzinfo=UTC)
SERVED = Evidence("2026-03-04T00:00:00Z", "2026-03-04T00:00:00Z")  # no backup is due that year


def its_time(source: str) -> datetime:
    """When the forget of a source is due first on that day."""
    minutes = (DAY + timedelta(minutes=number) for number in range(1440))
    return next(
        now
        for now in minutes
        if forget_due(source, "", now.timestamp()) and forget_due(source, "", now.timestamp() + 60)
    )


class Scene:
    """A fleet of a source of a pool and one of a host, and its ledger."""

    def __init__(self, base: Path, ledger: Ledger, broker: str, policy: str) -> None:
        self.small = SmallFleet(str(base), broker=broker, policy=policy)
        self.small.add_source("far", host="web9")
        self.fleet = self.small.fleet
        self.ledger = ledger
        for source, host in (("web1", ""), ("far", "web9")):
            ledger.realm(host).note_evidence(source, "a", SERVED)

    def tick(self, now: datetime) -> list[tuple[RunRequest, str]]:
        """What one tick opens, and where it rings."""
        rung: list[tuple[str, str]] = []
        opened = tick(self.fleet, self.ledger, rung.extend, lambda *_: SERVED, now).opened
        assert [request.id for request in opened] == [run_id for run_id, _ in rung]
        return list(zip(opened, [queue for _, queue in rung], strict=True))

    def finish(self, request: RunRequest, **result: object) -> None:
        """A worker does it."""
        run = self.ledger.get(request.id)
        assert run is not None
        lease = claimed(self.ledger, request.id)
        tasks._note(self.fleet, self.ledger, run, {"site": "a", **result})
        self.ledger.finish(lease, RunState.SUCCEEDED)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """With retention."""
    with own_ledger(os.path.join(str(tmp_path), "valkey")) as (ledger, server):
        yield Scene(tmp_path, ledger, server.url, 'full: "0 0 1 1 *", retention: {keep_daily: 7}')


@pytest.mark.parametrize("source", ["web1", "far"])
def test_it_is_opened_once_a_day_for_the_pools_to_do(scene: Scene, source: str) -> None:
    """Also that of a host's source: an agent may not delete. Done, it is due again the next day."""
    now = its_time(source)
    ((request, queue),) = [one for one in scene.tick(now) if one[0].source == source]
    assert (request.kind, queue, request.policy) == (RunKind.FORGET, MAINTENANCE, "all")
    assert scene.ledger.get(request.id) is not None  # in the realm of the pools
    again = now + timedelta(seconds=10)
    assert [one.source for one, _ in scene.tick(again) if one.source == source] == []
    scene.finish(request)
    scene.ledger.client.delete(scene.ledger.keys.run(request.id))  # forgotten, as after a hundred more runs
    assert [one.source for one, _ in scene.tick(again) if one.source == source] == []
    assert source in [one.source for one, _ in scene.tick(now + timedelta(days=1))]


def test_a_backup_under_way_comes_first(scene: Scene) -> None:
    """The forget would find the repository locked: it is opened when the backup is over."""
    now = its_time("web1")
    backup = a_run()
    scene.ledger.open_backup(backup)
    assert [one.source for one, _ in scene.tick(now) if one.source == "web1"] == []
    scene.ledger.finish(claimed(scene.ledger, backup.id), RunState.SUCCEEDED)
    assert [one.kind for one, _ in scene.tick(now) if one.source == "web1"] == [RunKind.FORGET]


def test_one_of_named_snapshots_does_not_serve_the_day(scene: Scene) -> None:
    """The rules were not applied by it."""
    run_id = open_and_ring(scene.fleet, RunKind.FORGET, "web1", {"snapshots": ["ab" * 32]})
    run = scene.ledger.get(run_id)
    assert run is not None
    assert run.request.queue == MAINTENANCE
    scene.finish(run.request)
    assert [one.source for one, _ in scene.tick(its_time("web1")) if one.source == "web1"] == ["web1"]


def test_without_retention_nothing_is_forgotten(tmp_path: Path) -> None:
    """Nor where another site alone has some."""
    for number, policy in enumerate(("full: 1d", "full: 1d, retention: {keep_last: 1, sites: {a: {keep_last: 3}}}")):
        base = tmp_path / str(number)
        base.mkdir()
        with own_ledger(str(base / "valkey")) as (ledger, server):
            scene = Scene(base, ledger, server.url, policy)
            opened = [one.kind for one, _ in scene.tick(its_time("web1")) if one.source == "web1"]
            assert opened == [RunKind.FORGET] * number


def test_the_rules_of_the_site_are_what_the_engine_is_told(tmp_path: Path) -> None:
    """In place of the policy's own; with the policy's zone and the epoch of now."""
    policy = "full: 1d, timezone: Europe/Berlin, retention: {keep_last: 1, sites: {a: {keep_last: 3}}}"
    small = SmallFleet(str(tmp_path), policy=policy)
    spec = specs.forget_spec(small.fleet, "web1", {}, run="ab" * 16)
    assert (spec.rules and spec.rules.last, spec.timezone, spec.epoch) == (3, "Europe/Berlin", [0, ""])
