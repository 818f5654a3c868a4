"""A policy with retention has each of its sources forgotten once a day: the tick opens it, the pools do it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from scheduler.tick import tick
from scheduler.upkeep import upkeep
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, RunKind, RunRequest, RunState
from shared.ledger.overview import overview
from shared.messaging.bell import ring
from shared.messaging.client import open_and_ring
from shared.messaging.names import MAINTENANCE
from tests.support.fleets import SmallFleet
from tests.support.ledgers import a_run, claimed, own_ledger
from workers import tasks, upkeep_specs

DAY = datetime(2026, 3, 4, tzinfo=UTC)
SERVED = Evidence("2026-03-04T00:00:00Z", "2026-03-04T00:00:00Z")  # no backup is due that year


def its_time(about: str, kind: RunKind = RunKind.FORGET, every: float = 86400) -> datetime:
    """When upkeep of what `about` names is due on that day, or first after it."""
    slot = upkeep(kind, about, every).slot(DAY.timestamp() + every - 3600)
    return datetime.fromtimestamp(slot + 60, UTC)


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
        tasks._note(self.ledger, run, {"site": "a", **result})
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
    spec = upkeep_specs.forget_spec(small.fleet, "web1", {}, run="ab" * 16)
    assert (spec.rules and spec.rules.last, spec.timezone, spec.epoch) == (3, "Europe/Berlin", [0, ""])


UPKEEP_OF_ALL = 'full: "0 0 1 1 *", verify: 1d, verify_data: 30d, restore_test: 7d, retention: {keep_daily: 7}'


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Scene]:
    """With a policy that wants all kinds of upkeep."""
    with own_ledger(os.path.join(str(tmp_path), "valkey")) as (ledger, server):
        yield Scene(tmp_path, ledger, server.url, UPKEEP_OF_ALL)


@pytest.mark.parametrize(
    ("kind", "about", "every"),
    [
        (RunKind.PRUNE, "far\0a", 7 * 86400),
        (RunKind.VERIFY, "far\0a", 86400),
        (RunKind.RESTORE_TEST, "far", 7 * 86400),
    ],
)
def test_upkeep_of_a_hosts_source_is_done_by_the_pools(kept: Scene, kind: RunKind, about: str, every: int) -> None:
    """It needs the site alone. Done, it is due again a period later, though its run is forgotten."""

    def opened(now: datetime) -> list[RunRequest]:
        return [one for one, queue in kept.tick(now) if (one.kind, one.source, queue) == (kind, "far", MAINTENANCE)]

    now = its_time(about, kind, every)
    (request,) = opened(now)
    assert kept.ledger.get(request.id) is not None
    kept.finish(request)
    kept.ledger.client.delete(kept.ledger.keys.run(request.id))
    assert opened(now + timedelta(seconds=10)) == []
    (later,) = opened(now + timedelta(seconds=every))
    assert later.slot > request.slot


def test_a_scheduled_verification_reads_its_share(kept: Scene) -> None:
    """Of thirty, one; and after three days on which nobody worked, four."""
    turns = []
    for day in (0, 4):
        now = its_time("far\0a", RunKind.VERIFY) + timedelta(days=day)
        (request,) = [one for one, _ in kept.tick(now) if (one.kind, one.source) == (RunKind.VERIFY, "far")]
        spec = upkeep_specs.verify_spec(kept.fleet, "far", request.options)
        turns.append((round(100 / spec.share), spec.turns))
        kept.finish(request)
    assert turns == [(30, 1), (30, 4)]


def test_what_a_verification_found_is_kept(kept: Scene) -> None:
    """When it was last done, when all was last well, and what came of it; the restore test's rate, too."""
    ledger = kept.ledger
    ledger.note_upkeep("web1", "a", RunKind.VERIFY, "2026-03-04T00:00:00Z")
    ledger.note_upkeep("web1", "a", RunKind.VERIFY, "2026-03-05T00:00:00Z", code=24)
    ledger.note_upkeep("web1", "a", RunKind.VERIFY, "2026-03-03T00:00:00Z")  # late, of an older slot
    ledger.note_upkeep("web1", "a", RunKind.RESTORE_TEST, "2026-03-04T00:00:00Z", figure=12.3e6)
    (view,) = overview(ledger, [""], [("", "web1", "a")], ticks="scheduler").sources
    assert view.verified is not None
    assert view.tested is not None
    assert (view.verified.code, view.verified.good > 0, view.tested.figure) == (24, True, 12_300_000.0)


def test_where_much_waits_no_more_is_opened(kept: Scene) -> None:
    """No worker does upkeep: it does not pile up."""
    ring(kept.ledger.client, [("ab" * 16, MAINTENANCE)] * 100)
    assert kept.tick(its_time("web1")) == []
