"""The exporter on a real ledger: what it counts, what it knows of the past, and what it says while Redis is away."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric as KnownFamily
from prometheus_client.parser import text_string_to_metric_families

from scheduler.exporter import FleetCollector, address
from scheduler.exposition import Family, page
from scheduler.tick import tick
from shared.config import asking
from shared.config.watch import FleetWatch
from shared.errors import ConfigError
from shared.ledger.connect import connect
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, RunKind, RunRequest, RunState
from shared.ledger.roll import Roll
from tests.support import forked
from tests.support.fleets import SmallFleet
from tests.support.ledgers import a_run, own_ledger, until
from tests.support.monitoring import ROOT, ExporterServer
from tests.support.scraping import FAMILIES, Scraper
from tests.support.tools import ValkeyServer


class Seen:
    """What a scrape found, for prometheus_client."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[KnownFamily]:
        """All of it."""
        return (family.known() for family in self._families)


@pytest.fixture
def redis(tmp_path: os.PathLike[str]) -> Iterator[tuple[Ledger, ValkeyServer]]:
    """A ledger of its own."""
    with own_ledger(os.path.join(tmp_path, "valkey")) as both:
        yield both


@pytest.fixture
def small(tmp_path: os.PathLike[str], redis: tuple[Ledger, ValkeyServer]) -> SmallFleet:
    """A fleet of one source, web1, at site a, with an RPO of an hour."""
    return SmallFleet(os.path.join(tmp_path, "fleet"), broker=redis[1].url, policy="full: 1d, rpo: 1h")


def ended(
    ledger: Ledger, state: RunState = RunState.SUCCEEDED, *, run: RunRequest | None = None, exit_code: int = 0
) -> RunRequest:
    """A run of web1 that is over; a failed slot is opened again."""
    run = run or a_run()
    ledger.client.hdel(ledger.keys.run(run.id), "retry")
    ledger.open(run)
    lease = ledger.claim(run.id, "worker").lease
    assert lease is not None
    result = {"site": "a", "bytes_read": 7, "bytes_added": 5, "bytes_stored": 3}
    ledger.finish(lease, state, result=result, exit_code=exit_code, error="broken" if exit_code else "")
    return run


def test_how_the_asking_of_the_inventory_goes(small: SmallFleet, tmp_path: Path) -> None:
    """Whether its last answer is in force, from when that is, and how many sources have left it."""
    answer = tmp_path / "answer"
    answer.write_text("sources: {i1: {paths: /srv}, i2: {paths: /srv}}")
    small.change("exporter:", f"inventory: {{command: [cat, {answer}]}}\nexporter:")
    asking.ask(small.path)
    answer.write_text("sources: {i2: {paths: /srv}}")
    asking.ask(small.path)
    before = Scraper(small.path).scrape()
    answer.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        asking.ask(small.path)
    found = Scraper(small.path).scrape()
    names = ("holdfast_inventory_usable", "holdfast_inventory_gone_sources")
    assert [one[name][()] for one in (before, found) for name in names] == [1, 1, 0, 1]
    assert time.time() - 60 < found["holdfast_inventory_answered_timestamp_seconds"][()] <= time.time()


def test_what_is_served_is_what_the_table_says(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """Every metric of the table is there, with its type and its help, and no other."""
    ledger, _ = redis
    ended(ledger)
    ledger.client.hset("hf:beattick", "meta", '{"last_run_at": null}')
    registry = CollectorRegistry()
    registry.register(FleetCollector(FleetWatch(small.path)))
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    got = {(family.name, family.type, family.documentation) for family in families}
    assert got == {(name, str(metric.type), metric.help) for name, metric in FAMILIES.items()}


def test_runs_are_counted_by_the_ledger(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """Those of every realm, whichever exporter is asked; a failed slot that fails again counts again."""
    ledger, _ = redis
    failed = ended(ledger, RunState.FAILED, exit_code=32)
    small.add_source("web2", host="web2")
    ended(ledger.realm("web2"), run=a_run("web2"))
    ended(ledger, RunState.FAILED, run=failed, exit_code=99)
    Scraper(small.path).scrape()
    found = Scraper(small.path).scrape()
    assert {labels: count for labels, count in found["holdfast_runs_total"].items() if count} == {
        ("backup-full", "failed"): 2,
        ("backup-full", "succeeded"): 1,
    }
    assert {labels: count for labels, count in found["holdfast_run_errors_total"].items() if count} == {
        ("Denied",): 1,
        ("other",): 1,
    }


def test_requests_made_again_are_counted_by_site(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """From the last attempts of runs that ended, well or not."""
    ledger, _ = redis
    for state, retries in ((RunState.SUCCEEDED, 2), (RunState.FAILED, 3), (RunState.SUCCEEDED, 0)):
        request = a_run()
        ledger.open(request)
        lease = ledger.claim(request.id, "worker").lease
        assert lease is not None
        ledger.finish(lease, state, retries=("a", retries))
    assert Scraper(small.path).scrape()["holdfast_store_retries_total"] == {("a",): 5}


def test_more_runs_than_one_reading_takes_are_followed(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """Between two scrapes many runs may end: the list is followed back to the last one that was seen."""
    ledger, _ = redis
    ended(ledger)
    exporter = Scraper(small.path)
    exporter.scrape()
    last = ledger.get(ended(ledger).id)
    assert last is not None
    for _ in range(120):
        ended(ledger, run=a_run("web2"))
    assert exporter.scrape()["holdfast_last_run_end_timestamp_seconds"] == {
        ("web1", "backup-full", "succeeded"): pytest.approx(last.ended)
    }


def test_many_realms_are_followed_at_once(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """Each back to the run of it that was seen last, however many have ended there since."""
    ledger, _ = redis
    since = {"h1": 1, "h2": 4, "h3": 5, "h4": 60, "h5": 0}
    for host in since:
        small.add_source(host, host=host)
        ended(ledger.realm(host), RunState.FAILED, run=a_run(host), exit_code=32)
    exporter = Scraper(small.path)
    exporter.scrape()
    last = {}
    for host, count in since.items():
        realm = ledger.realm(host)
        for _ in range(count):
            run = realm.get(ended(realm, run=a_run(host)).id)
            assert run is not None
            last[host, "backup-full", "succeeded"] = pytest.approx(run.ended)
    found = exporter.scrape()["holdfast_last_run_end_timestamp_seconds"]
    assert {labels: at for labels, at in found.items() if labels[0] != "h5"} == last
    assert [labels for labels in found if labels[0] == "h5"] == [("h5", "backup-full", "failed")]


def test_a_page_of_a_fleet_is_what_prometheus_client_writes(
    redis: tuple[Ledger, ValkeyServer], small: SmallFleet
) -> None:
    """To the byte, and again where what the configuration says was kept from the scrape before."""
    ledger, _ = redis
    ended(ledger)
    small.add_source("web2", host="web2")
    ledger.realm("web2").open(a_run("web2"))
    collector = FleetCollector(FleetWatch(small.path))
    for _ in range(2):
        families = collector.scrape()
        registry = CollectorRegistry()
        registry.register(Seen(families))
        assert page(families, openmetrics=False) == generate_latest(registry)


def test_a_new_exporter_knows_the_past(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """The last run and the last good snapshot come from the ledger: a restart forgets nothing but the counters."""
    ledger, _ = redis
    good = ledger.get(ended(ledger).id)
    bad = ledger.get(ended(ledger, RunState.FAILED, exit_code=30).id)
    assert good is not None
    assert bad is not None
    found = Scraper(small.path).scrape()
    assert found["holdfast_last_good_snapshot_start_timestamp_seconds"] == {("web1", "a"): pytest.approx(good.started)}
    assert found["holdfast_last_good_snapshot_end_timestamp_seconds"] == {("web1", "a"): pytest.approx(good.ended)}
    assert found["holdfast_last_run_end_timestamp_seconds"] == {
        ("web1", "backup-full", "failed"): pytest.approx(bad.ended)
    }
    assert found["holdfast_last_run_failed"] == {("web1",): 1}
    assert found["holdfast_last_run_read_bytes"] == {("web1",): 7}
    assert found["holdfast_last_run_added_bytes"] == {("web1",): 5}
    assert found["holdfast_last_run_uploaded_bytes"] == {("web1",): 3}
    assert found["holdfast_source_rpo_seconds"] == {("web1",): 3600}


def test_an_incomplete_snapshot_is_not_good(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """It does not count for the RPO, though the evidence names its slot."""
    ledger, _ = redis
    exporter = Scraper(small.path)
    ended(ledger, RunState.INCOMPLETE)
    ledger.note_evidence("web1", "a", Evidence("2026-03-04T02:00:00Z"))
    assert exporter.scrape()["holdfast_last_good_snapshot_start_timestamp_seconds"] == {}
    assert Scraper(small.path).scrape()["holdfast_last_good_snapshot_start_timestamp_seconds"] == {}


def test_after_a_wipe_the_evidence_of_the_sites_stands_in(
    redis: tuple[Ledger, ValkeyServer], small: SmallFleet
) -> None:
    """What the old ledger knew is forgotten with it; the slot that the tick found at the site is the start then."""
    ledger, _ = redis
    exporter = Scraper(small.path)
    ended(ledger)
    assert len(exporter.scrape()["holdfast_last_good_snapshot_start_timestamp_seconds"]) == 1
    ledger.client.flushall()
    assert exporter.scrape()["holdfast_last_good_snapshot_start_timestamp_seconds"] == {}
    ledger.note_evidence("web1", "a", Evidence("1970-01-01T01:00:00Z"))
    found = exporter.scrape()
    assert found["holdfast_last_good_snapshot_start_timestamp_seconds"] == {("web1", "a"): 3600}
    assert found["holdfast_last_good_snapshot_end_timestamp_seconds"] == {}
    ended(ledger)
    found = exporter.scrape()
    assert found["holdfast_last_good_snapshot_start_timestamp_seconds"]["web1", "a"] > 3600
    assert found["holdfast_runs_total"]["backup-full", "succeeded"] == 1


def test_open_runs_leases_and_queues(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """Runs by state, leases by queue, rings that wait, and for how long the oldest run has waited."""
    ledger, _ = redis
    waiting, held = a_run(), a_run()
    ledger.open(waiting)
    ledger.client.hincrby(ledger.keys.run(waiting.id), "opened", -5000)
    ledger.open(held)
    lease = ledger.claim(held.id, "worker").lease
    assert lease is not None
    ledger.renew(lease)
    ledger.client.lpush("backup", "a ring", "another")
    found = Scraper(small.path).scrape()
    assert {labels: count for labels, count in found["holdfast_open_runs"].items() if count} == {
        ("backup-full", "queued"): 1,
        ("backup-full", "running"): 1,
    }
    assert found["holdfast_source_running"] == {("web1",): 1}
    assert {queue: count for queue, count in found["holdfast_leases"].items() if count} == {("backup",): 1}
    assert {queue: count for queue, count in found["holdfast_queue_length"].items() if count} == {("backup",): 2}
    assert set(found["holdfast_queue_length"]) == {
        (queue,) for queue in ("backup", "maintenance", "replication", "restore", "scheduler")
    }
    assert 5 <= found["holdfast_queue_oldest_seconds"][("backup",)] < 60


def test_a_hosts_runs_lie_in_a_realm_of_their_own(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """The runs and the queue of a source with `host:` are found under that host's prefix."""
    ledger, _ = redis
    with open(small.path) as file:
        text = file.read()
    with open(small.path, "w") as file:
        file.write(text.replace("web1: {", "web1: {host: server1, owner: ops, "))
    realm = ledger.realm("server1")
    ended(realm)
    ledger.client.lpush("hf:h:server1:host.server1", "a ring")
    found = Scraper(small.path).scrape()
    assert len(found["holdfast_last_good_snapshot_start_timestamp_seconds"]) == 1
    assert found["holdfast_queue_length"][("host.server1",)] == 1
    assert found["holdfast_source_info"] == {("web1", "all", "ops", "host:server1", "a"): 1}


def test_uploaded_bytes_add_up_by_source(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """Of backups alone, well ended or not; and labels are served to add them up by."""
    ledger, _ = redis
    small.change("web1: {", "web1: {labels: {team: web, tier: 1}, ")
    ended(ledger)
    ended(ledger, RunState.FAILED, exit_code=30)
    restore = replace(a_run(), kind=RunKind.RESTORE)
    ended(ledger, run=restore)
    found = Scraper(small.path).scrape()
    assert found["holdfast_uploaded_bytes_total"] == {("web1",): 6}
    assert found["holdfast_source_label"] == {("web1", "team", "web"): 1, ("web1", "tier", "1"): 1}


def test_workers_are_counted_by_what_they_take(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """An agent counts for its host, others for their pools; one that was asked to leave counts no more."""
    ledger, _ = redis
    small.add_source("web2", host="server2")
    small.add_source("web3", host="server3")
    Roll(ledger).beat("worker-1@m", "m", 1, ["backup", "restore", "host.server3"])
    agent = Roll(ledger.realm("server2"))
    agent.beat("worker-2@server2", "server2", 2, ["host.server2", "host.server2.restore"])
    agent.beat("restore-3@server2", "server2", 3, ["host.server2.restore"])
    exporter = Scraper(small.path)
    expected = {("pool:",): 1, ("host:server2",): 1, ("host:server3",): 1}
    assert exporter.scrape()["holdfast_executor_workers"] == expected
    agent.drain("worker-2@server2", "me")
    assert exporter.scrape()["holdfast_executor_workers"] == expected | {("host:server2",): 0}


def test_what_an_agent_makes_of_its_realm_hides_no_other(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """Counts that are none, a key of another type, a worker that says nonsense: the others are counted all the same."""
    ledger, _ = redis
    ended(ledger)
    for number, (key, value) in enumerate(
        (
            ("counts", {"ended|backup-full|succeeded": "many", "retries|a": "-5", "uploaded|web1": "1e300"}),
            ("counts", "no hash"),
            ("workers", "no sorted set"),
        )
    ):
        small.add_source(f"bad{number}", host=f"bad{number}")
        name = f"hf:h:bad{number}:{key}"
        if isinstance(value, dict):
            ledger.client.hset(name, mapping=value)
        else:
            ledger.client.set(name, value)
    Roll(ledger.realm("bad0")).beat("w", "bad0", 1, [])
    ledger.client.hset("hf:h:bad0:worker:w", "queues", "[1, {")
    found = Scraper(small.path).scrape()
    assert found["holdfast_ledger_up"] == {(): 1}
    assert found["holdfast_runs_total"]["backup-full", "succeeded"] == 1
    assert found["holdfast_store_retries_total"] == {("a",): 0}
    assert found["holdfast_uploaded_bytes_total"]["web1",] == 3
    assert set(found["holdfast_executor_workers"].values()) == {0}


def test_no_agent_speaks_for_anothers_source(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """A run in its realm that bears another's source, or a site, a queue or a kind of its own making, adds nothing."""
    ledger, _ = redis
    small.add_source("stolen", host="stolen")
    exporter = Scraper(small.path)
    before = exporter.scrape()
    realm = ledger.realm("stolen")
    ended(realm)
    odd = ended(realm, run=a_run("stolen"))
    realm.client.hset(realm.keys.run(odd.id), "result", '{"site": "nowhere"}')
    odd = ended(realm, run=a_run("stolen"))
    realm.client.hset(realm.keys.run(odd.id), "result", "[1]")
    realm.client.hset(
        realm.keys.counts, mapping={f"ended|odd|{chr(97 + n // 26)}{chr(97 + n % 26)}": 1 for n in range(600)}
    )
    realm.open(replace(a_run("stolen"), queue="of its own"))
    for scraper in (exporter, Scraper(small.path)):
        after = scraper.scrape()
        for name in ("holdfast_last_good_snapshot_start_timestamp_seconds", "holdfast_queue_oldest_seconds"):
            assert set(after[name]) == set(before[name])
        assert "web1" not in {labels[0] for labels in after["holdfast_last_run_end_timestamp_seconds"]}
        assert after["holdfast_runs_total"]["other", "other"] == 600 - 32


def test_no_agent_adds_to_the_bytes_of_anothers_source(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """What it has counted for a source of its own stands; what for another's, or among too many counts, does not."""
    ledger, _ = redis
    for name in ("own", "flood"):
        small.add_source(name, host=name)
    ended(ledger)
    ledger.client.hset(ledger.realm("own").keys.counts, mapping={"uploaded|web1": 1000, "uploaded|own": 5})
    many = {f"retries|{number}": 1 for number in range(2000)}
    ledger.client.hset(ledger.realm("flood").keys.counts, mapping=many | {"uploaded|flood": 7})
    found = Scraper(small.path).scrape()
    assert found["holdfast_uploaded_bytes_total"] == {("web1",): 3, ("own",): 5, ("flood",): 0}


@pytest.mark.parametrize(
    ("field", "value"), [("result", "[" * 100_000), ("started", "9" * 400), ("ended", "1" * 5000), ("lease", "soon")]
)
def test_a_run_that_can_not_be_read_is_left_out(
    redis: tuple[Ledger, ValkeyServer], small: SmallFleet, field: str, value: str
) -> None:
    """Nested without end, or a number beyond all: the scrape tells of the others."""
    ledger, _ = redis
    small.add_source("bad", host="bad")
    ended(ledger)
    realm = ledger.realm("bad")
    odd = ended(realm, run=a_run("bad"))
    realm.client.hset(realm.keys.run(odd.id), field, value)
    found = Scraper(small.path).scrape()
    assert found["holdfast_ledger_up"] == {(): 1}
    assert {labels[0] for labels in found["holdfast_last_run_end_timestamp_seconds"]} == {"web1"}


@pytest.mark.parametrize(
    "key", ["open", "recent", "history:bad", "evidence:bad", "run:abc", "backups:bad", "workers", "pulse", "fenced"]
)
def test_a_key_of_another_type_stops_neither_exporter_nor_tick(
    redis: tuple[Ledger, ValkeyServer], small: SmallFleet, key: str
) -> None:
    """An agent may make of its own keys what it likes: others are seen, and backed up, all the same."""
    ledger, _ = redis
    small.add_source("bad", host="bad")
    ledger.client.set(f"hf:h:bad:{key}", "nonsense")
    if key.startswith("run:"):
        ledger.client.zadd("hf:h:bad:open", {key.removeprefix("run:"): 1})
    exporter = Scraper(small.path)
    assert exporter.scrape()["holdfast_ledger_up"] == {(): 1}
    ticked = tick(small.fleet, ledger, lambda _: None, lambda *_: None, datetime.now(UTC))
    assert "web1" in {run.source for run in ticked.opened}
    ended(ledger)
    assert ("web1", "a") in exporter.scrape()["holdfast_last_good_snapshot_start_timestamp_seconds"]


def test_bytes_that_are_no_text_stop_neither_exporter_nor_tick(
    redis: tuple[Ledger, ValkeyServer], small: SmallFleet
) -> None:
    """The same of what is of the right type and no UTF-8: in a list, a hash, a run."""
    ledger, _ = redis
    small.add_source("bad", host="bad")
    realm = ledger.realm("bad")
    run = a_run("bad")
    realm.open(run)
    ledger.client.hset(realm.keys.run(run.id), "queue", b"\xff")
    ledger.client.lpush(realm.keys.recent, b"\xff\xfe")
    ledger.client.hset(realm.keys.evidence("bad"), "a|last", b"\xff")
    assert Scraper(small.path).scrape()["holdfast_ledger_up"] == {(): 1}
    ticked = tick(small.fleet, ledger, lambda _: None, lambda *_: None, datetime.now(UTC))
    assert [run.source for run in ticked.opened] == ["web1"]


def test_redis_is_told_to_keep_or_not(tmp_path: os.PathLike[str]) -> None:
    """Its log on disk, its limit of memory, and whether it would evict."""
    with ValkeyServer(os.path.join(tmp_path, "valkey"), append_only=True) as server:
        small = SmallFleet(os.path.join(tmp_path, "fleet"), broker=server.url)
        exporter = Scraper(small.path)
        found = exporter.scrape()
        assert (found["holdfast_ledger_persistent"], found["holdfast_ledger_may_evict"]) == ({(): 1}, {(): 0})
        assert found["holdfast_ledger_memory_limit_bytes"] == {(): 0}
        assert 0 < found["holdfast_ledger_clients"][()] < found["holdfast_ledger_clients_limit"][()]
        client = connect(server.url).client
        for name, value in (("appendonly", "no"), ("maxmemory", "64mb"), ("maxmemory-policy", "allkeys-lru")):
            client.config_set(name, value)
        found = exporter.scrape()
        assert (found["holdfast_ledger_persistent"], found["holdfast_ledger_may_evict"]) == ({(): 0}, {(): 1})
        assert (
            0 < found["holdfast_ledger_memory_bytes"][()] < found["holdfast_ledger_memory_limit_bytes"][()] == 64 << 20
        )


def test_the_oldest_open_run_of_a_kind(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """Counts from when it was opened, whoever works on it; the other kinds have none."""
    ledger, _ = redis
    forget = replace(a_run(), kind=RunKind.FORGET)
    ledger.open(forget)
    ledger.client.hincrby(ledger.keys.run(forget.id), "opened", -7_200_000)
    assert ledger.claim(forget.id, "worker").lease is not None
    found = Scraper(small.path).scrape()["holdfast_oldest_open_run_seconds"]
    assert {kind: age // 3600 for kind, age in found.items() if age} == {("forget",): 2}


def test_without_redis_the_past_is_still_served(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """A scrape answers, says that the ledger can't be read, keeps what was, and tells nothing of what is."""
    ledger, server = redis
    ended(ledger)
    exporter = Scraper(small.path)
    before = exporter.scrape()
    server.kill()
    away = exporter.scrape()
    assert (before["holdfast_ledger_up"], away["holdfast_ledger_up"]) == ({(): 1}, {(): 0})
    for name in ("holdfast_last_good_snapshot_start_timestamp_seconds", "holdfast_source_rpo_seconds"):
        assert away[name] == before[name]
    assert "holdfast_scheduler_leader" not in away
    assert "holdfast_queue_length" not in away
    server.start()
    assert exporter.scrape()["holdfast_ledger_up"] == {(): 1}


def test_a_scrape_of_many_sources_takes_few_commands(
    tmp_path: os.PathLike[str], redis: tuple[Ledger, ValkeyServer], small: SmallFleet
) -> None:
    """From the second scrape on, a source that did nothing costs no command."""
    ledger, _ = redis
    names = [f"s{number}" for number in range(100)]
    path = os.path.join(small.directory, "many.yaml")
    with open(small.path) as file, open(path, "w") as many:
        head = file.read().rpartition("sources:")[0]
        many.write(head + "sources:\n" + "".join(f"  {name}: {{paths: [/srv]}}\n" for name in names))
    for name in names:
        ended(ledger, run=a_run(name))
    exporter = Scraper(path)
    assert len(exporter.scrape()["holdfast_last_good_snapshot_start_timestamp_seconds"]) == 100
    before = ledger.client.info("stats")["total_commands_processed"]
    found = exporter.scrape()
    used = ledger.client.info("stats")["total_commands_processed"] - before
    assert len(found["holdfast_last_good_snapshot_start_timestamp_seconds"]) == 100
    assert used < 25


def test_a_real_beat_is_seen_to_lead_and_tick(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """The keys by which the exporter knows a leader and its last tick are those that RedBeat writes."""
    exporter = Scraper(small.path)
    assert exporter.scrape()["holdfast_scheduler_leader"] == {(): 0}
    command = [sys.executable, "-m", "scheduler", "beat", "--config", small.path, "--tick", "1"]
    beat = forked.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        found = until(
            lambda: (
                now
                if (now := exporter.scrape())["holdfast_scheduler_leader"] == {(): 1}
                and now["holdfast_scheduler_tick_timestamp_seconds"]
                else None
            )
        )
    finally:
        beat.terminate()
        beat.wait(20)
    assert abs(time.time() - found["holdfast_scheduler_tick_timestamp_seconds"][()]) < 60


def test_a_bad_configuration_keeps_the_old_one(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """A changed file comes into force without a restart; a bad one does not, and a metric says so."""
    exporter = Scraper(small.path)
    with open(small.path) as file:
        text = file.read()

    def change(to: str) -> dict[str, dict[tuple[str, ...], float]]:
        with open(small.path, "w") as file:
            file.write(to)
        for _ in range(2):  # two looks that agree
            exporter.watch.check()
        return exporter.scrape()

    bad = change(text.replace("rpo: 1h", "rpo: soon enough"))
    assert bad["holdfast_exporter_config_valid"] == {(): 0}
    assert bad["holdfast_source_rpo_seconds"] == {("web1",): 3600}
    mended = change(text.replace("rpo: 1h", "rpo: 30m"))
    assert mended["holdfast_exporter_config_valid"] == {(): 1}
    assert mended["holdfast_source_rpo_seconds"] == {("web1",): 1800}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9321", ("127.0.0.1", 9321)),
        (":80", ("0.0.0.0", 80)),  # noqa: S104 - what an empty host asks for
        ("[::1]:9321", ("::1", 9321)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    """Host and port, an empty host for all, and IPv6 in brackets."""
    assert address(text) == expected


@pytest.mark.parametrize("text", ["", "9321", "localhost", "localhost:http", "localhost:70000", "localhost:"])
def test_a_wrong_address_says_what_was_expected(text: str) -> None:
    """The error names what was found, and an example."""
    with pytest.raises(ConfigError, match=r"expected host:port"):
        address(text)


def test_a_taken_address_ends_the_process_with_a_clear_line(
    tmp_path: os.PathLike[str], redis: tuple[Ledger, ValkeyServer], small: SmallFleet
) -> None:
    """Two exporters on one address: the second says so, and ends with the code of a wrong configuration."""
    with ExporterServer(os.path.join(tmp_path, "exporter"), config=small.path) as first:
        listen = f"127.0.0.1:{first.port}"
        for command in (
            [sys.executable, "-m", "scheduler.exporter", "--config", small.path, "--listen", listen],
            [sys.executable, "-m", "cli.main", "exporter", "--config", small.path, "--listen", listen],
        ):
            second = forked.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
            assert second.returncode == 10
            assert f"can't listen on {listen}: Address already in use" in second.stderr


def test_the_kinds_of_runs_are_all_counted_from_zero(redis: tuple[Ledger, ValkeyServer], small: SmallFleet) -> None:
    """The first run of a kind is an increase, since its series was there at 0."""
    counted = Scraper(small.path).scrape()["holdfast_runs_total"]
    finals = [state.value for state in RunState if state.is_final]
    assert counted == {(kind.value, state): 0 for kind in RunKind for state in finals}


def test_upkeep_is_told_by_kind(redis: tuple[Ledger, ValkeyServer], tmp_path: Path) -> None:
    """How often it is wanted, when all was last well, what is wrong: at the first scrape, and as later runs end."""
    ledger, server = redis
    policy = "full: 1d, verify: 1d, restore_test: 7d, retention: {keep_last: 3}"
    small = SmallFleet(str(tmp_path), broker=server.url, policy=policy)
    ledger.note_upkeep("web1", "a", RunKind.VERIFY, "2026-03-04T00:00:00Z", figure=3)
    exporter = Scraper(small.path)
    found = exporter.scrape()
    assert found["holdfast_upkeep_healed_objects"] == {("web1", "a"): 3}
    assert found.get("holdfast_restore_rate_bytes_per_second", {}) == {}
    assert found["holdfast_upkeep_interval_seconds"] == {
        ("all", "verify"): 86400,
        ("all", "restore-test"): 604800,
        ("all", "forget"): 86400,
        ("all", "prune"): 604800,
    }
    assert set(found["holdfast_upkeep_good_timestamp_seconds"]) == {("web1", "a", "verify")}
    for code, failed in ((24, {("web1", "a", "restore-test"): 1}), (0, {})):
        ledger.note_upkeep("web1", "a", RunKind.RESTORE_TEST, "2026-03-04T00:00:00Z", code=code, figure=5e6)
        ended(ledger, run=replace(a_run("web1"), kind=RunKind.RESTORE_TEST))
        found = exporter.scrape()
        assert found["holdfast_upkeep_failed"] == failed
        assert found["holdfast_restore_rate_bytes_per_second"] == {("web1", "a"): 5e6}
    assert {kind for _, _, kind in found["holdfast_upkeep_good_timestamp_seconds"]} == {"verify", "restore-test"}
