"""What is seen of the sites as events: on a real Valkey, with nobody who consumes, with forgers, and with it away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from scheduler.families import seen as seen_families
from shared.agents.acl import set_agents
from shared.agents.identity import redis_user
from shared.health import places
from shared.health.events import SEEN, look, looked_up, said_of, tell
from shared.health.heard import Heard, Listening
from shared.health.observation import Observation, Verdict
from shared.health.place import observer_of, place_of
from shared.ledger.ledger import Ledger
from shared.ledger.model import Run, RunKind, RunRequest, RunState, Word, new_run_id
from shared.messaging import events
from shared.messaging.app import make_app
from shared.messaging.events import HEALTH, QUEUES, REPLICATION, SITE_SEEN, Ear, publish
from shared.messaging.names import SCHEDULER
from shared.messaging.signed import Judge, Sealer
from tests.integration.test_exporter import Scraper
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger, until
from tests.support.tools import ValkeyServer
from workers.supervise import Outcome
from workers.telling import seen_by_run, tell_of_run

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")


class Scene:
    """A fleet of a site, its Redis, and somebody who tells."""

    def __init__(self, base: Path, ledger: Ledger, server: ValkeyServer) -> None:
        self.small = SmallFleet(str(base), broker=server.url)
        self.fleet = self.small.fleet
        self.ledger = ledger
        self.server = server
        self.app: Celery = make_app(server.url)

    def tell(self, *seen: Observation, by: str = "probes@here", key: bytes = b"") -> None:
        """Somebody tells."""
        tell(self.app.producer_pool, Sealer(key or self.fleet.event_key, by), seen)

    def ear(self) -> Ear:
        """Somebody who listens."""
        return Ear(self.server.url, HEALTH, Judge(self.fleet.event_key, max_age=60, ahead=60))


@pytest.fixture(scope="module")
def shared_scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One Redis for all of them."""
    base = tmp_path_factory.mktemp("events")
    with own_ledger(str(base / "valkey")) as (ledger, server):
        scene = Scene(base, ledger, server)
        yield scene
        scene.app.close()


@pytest.fixture
def scene(shared_scene: Scene) -> Scene:
    """See `Scene`; its Redis is empty."""
    shared_scene.ledger.client.flushall()
    return shared_scene


def one(site: str = "a", observer: str = "probes@here", **more: Any) -> Observation:
    """Something that was seen just now."""
    return Observation(site, observer, "here", time.time(), Verdict.DOWN, "no answer", 1.5, **more)


# -- told and heard -----------------------------------------------------------------------------------


def test_what_is_told_is_heard_once_and_lies_beside_for_whoever_looks(scene: Scene) -> None:
    """An ear takes it; looking takes nothing."""
    seen = one(free=7, certificate=1_900_000_000.0, clock=-0.25)
    expected = replace(seen, at=round(seen.at, 3))
    scene.tell(seen)
    (event,) = scene.ear().drain()
    assert (event.by, event.said) == ("probes@here", said_of(seen))
    assert scene.ear().drain() == []
    for _ in range(2):
        assert looked_up(scene.fleet, scene.ledger) == {("a", "probes@here"): expected}


def test_who_listens_knows_the_newest_of_each(scene: Scene) -> None:
    """Also where another listener has taken the events: they lie beside the queue."""
    scene.tell(one(), one("b"))
    scene.tell(replace(one(), verdict=Verdict.UP, why=""))
    scene.tell(replace(one(), place="there"), by="probes@there")
    assert len(scene.ear().drain()) == 4
    scene.tell(one("b"), by="runs@here")
    listening = Listening(scene.fleet)
    listening.listen()
    found = {(*key, seen.place): seen.verdict.value for key, seen in listening.newest().items()}
    assert found == {
        ("a", "probes@here", "here"): "up",
        ("b", "probes@here", "here"): "down",
        ("a", "probes@there", "there"): "down",
        ("b", "runs@here", "here"): "down",
    }


def test_what_was_seen_grows_old() -> None:
    """From when it was made, by the observer's clock, and at the latest from when it was heard."""
    clock = [100.0]
    heard = Heard(35.0, clock=lambda: clock[0])
    seen = Observation("a", "o", "here", 1000.0, Verdict.UP)
    heard.hear([seen, replace(seen, observer="late", at=970.0), replace(seen, observer="ahead", at=1030.0)], 1000.0)
    assert len(heard.newest()) == 3
    clock[0] += 6
    assert {observer for _, observer in heard.newest()} == {"o", "ahead"}
    heard.hear([replace(seen, at=999.0, verdict=Verdict.DOWN)], 1006.0)  # older than what is known
    assert heard.newest()["a", "o"] == seen
    clock[0] += 30
    assert heard.newest() == {}


def test_a_queue_that_nobody_reads_stays_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them; the newest stay. As it is, ten thousand do."""
    assert events.KEPT == 10_000
    monkeypatch.setattr(events, "KEPT", 20)
    sealer = Sealer(scene.fleet.event_key, "probes@here")
    for number in range(50):
        for name in (SITE_SEEN, events.SNAPSHOT_COMMITTED):
            waiting = publish(scene.app.producer_pool, sealer.seal(name, {"number": number}))
            assert max(waiting.values()) <= 20
    assert [scene.ledger.client.llen(queue.name) for queue in QUEUES] == [20, 20]
    assert [event.said["number"] for event in scene.ear().drain()] == list(range(30, 50))


def test_one_that_is_forged_is_counted_and_changes_nothing(scene: Scene) -> None:
    """In the queue and beside it: of another secret, no message at all, from hours ahead, or an old one repeated."""
    scene.tell(one())
    old = scene.ledger.client.lrange(HEALTH.name, 0, -1)
    listening = Listening(scene.fleet)
    listening.listen()
    before = listening.newest()
    scene.tell(replace(one(), verdict=Verdict.UP), key=b"x" * 32)
    ahead = Sealer(scene.fleet.event_key, "probes@here", clock=lambda: time.time() + 7200)
    publish(scene.app.producer_pool, ahead.seal(SITE_SEEN, said_of(replace(one(), verdict=Verdict.UP))))
    for raw in (
        *old,
        "what?",
        b"\xff",
        "{}",
        "[1]",
        json.dumps({"body": 7, "properties": {}}),
        "[" * 9000,
        "x" * 100_000,
    ):
        scene.ledger.client.lpush(HEALTH.name, raw)
    scene.ledger.client.hset(SEEN, "a|probes@here", json.dumps({"mac": "no"}))
    scene.ledger.client.hset(SEEN, "b|somebody", "nonsense")
    listening._look_at = 0.0
    listening.listen()
    assert (listening.newest(), scene.ledger.client.llen(HEALTH.name)) == (before, 0)
    assert scene.ledger.client.hgetall(SEEN) == {}  # what is none is swept out
    counted = {name: int(count) for name, count in scene.ledger.client.hgetall(scene.ledger.keys.counts).items()}
    assert counted == {"ignored|forged": 1, "ignored|early": 1, "ignored|repeated": 1, "ignored|malformed": 7}
    listening.listen()
    assert sum(map(int, scene.ledger.client.hvals(scene.ledger.keys.counts))) == 10


def test_one_does_not_speak_for_another(scene: Scene) -> None:
    """Who has sealed it is who has seen it, and it lies under his name alone."""
    scene.tell(one(observer="probes@there"))
    sealer = Sealer(scene.fleet.event_key, "probes@here")
    publish(scene.app.producer_pool, sealer.seal(SITE_SEEN, said_of(one())), kept=(SEEN, "a|probes@other"))
    listening = Listening(scene.fleet)
    listening.listen()
    assert {observer for _, observer in listening.newest()} == {"probes@here"}
    assert scene.ledger.client.hkeys(SEEN) == ["a|probes@here"]


def test_observers_that_are_gone_do_not_pile_up(scene: Scene) -> None:
    """Old ones count no more, and are swept out by whoever looks."""
    scene.tell(one())
    now, key = time.time(), scene.fleet.event_key
    assert len(look(scene.ledger.client, key, now=now + 30, max_age=60, ahead=60)) == 1
    assert look(scene.ledger.client, key, now=now + 90, max_age=60, ahead=60) == {}
    assert scene.ledger.client.hlen(SEEN) == 1
    assert look(scene.ledger.client, key, now=now + 4000, max_age=60, ahead=60) == {}
    assert scene.ledger.client.hlen(SEEN) == 0
    scene.tell(one())
    assert scene.ledger.client.ttl(SEEN) > 0


def test_no_agent_reaches_any_of_it(scene: Scene) -> None:
    """Neither to speak nor to take what others say, nor to bind a queue of its own."""
    set_agents(scene.ledger.client, [("web1", "pw")])
    bindings = "_kombu.binding.holdfast.events"
    for words in (
        *(("LPUSH", queue.name, "x") for queue in QUEUES),
        *(("RPOP", queue.name) for queue in QUEUES),
        ("HSET", SEEN, "a|x", "x"),
        ("HGETALL", SEEN),
        ("SADD", bindings, "x"),
        ("ZADD", places.PLACES, "1", "x"),
        ("LPUSH", "probe.here", "1"),
        ("LPUSH", SCHEDULER, "x"),
    ):
        answer = scene.ledger.client.execute_command("ACL", "DRYRUN", redis_user("web1"), *words)
        assert "no permissions" in str(answer), words


# -- Redis away ---------------------------------------------------------------------------------------


def test_a_redis_that_is_away_or_frozen_means_no_news(tmp_path: Path) -> None:
    """Whoever listens asks and waits for nothing; what was heard counts until it is old. Back, it is heard again."""
    with own_ledger(str(tmp_path / "valkey")) as (ledger, server):
        scene = Scene(tmp_path, ledger, server)
        scene.tell(one())
        listening = Listening(scene.fleet, pace=0.02)
        listening.start()
        try:
            until(listening.newest, what="the first")
            os.kill(server.pid, signal.SIGSTOP)
            assert len(listening.newest()) == 1
            os.kill(server.pid, signal.SIGCONT)
            server.kill()
            assert len(listening.newest()) == 1
            ear = scene.ear()
            assert ear.drain() == []
            server.start()
            until(lambda: _told(scene), what="Redis")
            until(lambda: listening.newest()["a", "probes@here"].verdict is Verdict.UP, what="news")
        finally:
            listening.stop()
            scene.app.close()


def _told(scene: Scene) -> bool:
    try:
        scene.tell(replace(one(), verdict=Verdict.UP))
    except OperationalError:
        return False
    return True


# -- who looks, and when ------------------------------------------------------------------------------


def test_a_place_has_one_ring_however_often_it_is_rung(scene: Scene) -> None:
    """And it goes when nobody takes it; a place where nobody is any more is rung for no longer."""
    assert places.ring_all(scene.ledger) == []
    for place in ("here", "there", "here"):
        places.here(scene.ledger, place)
    for _ in range(3):
        assert sorted(places.ring_all(scene.ledger)) == ["here", "there"]
    assert scene.ledger.client.llen("probe.here") == 1
    assert places.await_ring(scene.ledger, "here", 1.0)
    assert scene.ledger.client.llen("probe.here") == 0
    assert 0 < scene.ledger.client.ttl("probe.there") <= places.GONE
    assert 0 < scene.ledger.client.ttl(places.PLACES) <= places.GONE


def test_who_probes_here_looks_when_it_is_rung_and_ends_when_it_is_asked(scene: Scene) -> None:
    """A process of its own, with a real site."""
    scene.small.change("{probe: false}", "{interval: 1h, place: dc1}")
    log = Path(scene.small.directory) / "probes.log"
    command = [sys.executable, "-m", "workers.probing", "--config", scene.small.path]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True)
    fleet = scene.small.fleet
    try:
        first = until(lambda: looked_up(fleet, scene.ledger), what="a first look, unrung")["a", observer_of("probes")]
        assert (first.place, first.verdict) == ("dc1", Verdict.UP)
        assert first.free
        os.rename(fleet.site("a").url, f"{fleet.site('a').url}-away")
        scene.ledger.client.execute_command("CLIENT", "KILL", "TYPE", "normal")  # it connects again
        assert until(lambda: places.ring_all(scene.ledger), what="its place") == ["dc1"]
        until(
            lambda: looked_up(fleet, scene.ledger)["a", observer_of("probes")].verdict is Verdict.DOWN,
            what="the next look",
        )
    finally:
        process.terminate()
        assert process.wait(20) == 0
        os.rename(f"{fleet.site('a').url}-away", fleet.site("a").url)
        scene.small.change("{interval: 1h, place: dc1}", "{probe: false}")
    assert "Traceback" not in log.read_text()


def a_run(kind: RunKind = RunKind.FULL) -> Run:
    """A run of web1, as the ledger has it."""
    return Run(RunRequest(new_run_id(), kind, "web1", policy="all", queue="backup"), RunState.RUNNING)


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (32, Verdict.REFUSED),
        (33, Verdict.DOWN),
        (34, Verdict.DOWN),
        (35, Verdict.REFUSED),
        (31, None),
        (30, None),
        (25, None),
    ],
)
def test_a_run_that_failed_for_its_sites_sake_tells_of_it(scene: Scene, code: int, verdict: Verdict | None) -> None:
    """By its exit code; of a directory, what fails again means that it is not there. A lock says nothing of a site."""
    outcome = Outcome(Word.FINISHED, RunState.FAILED, error="why", exit_code=code)
    found = seen_by_run(scene.fleet, a_run(), outcome, "a")
    assert (found.verdict if found else None) is verdict
    if found:
        assert (found.observer, found.place) == (observer_of("runs"), place_of(scene.fleet))
        assert found.why == "backup-full of web1: why"


def test_a_run_that_asked_again_and_again_tells_that_its_site_is_slow(scene: Scene) -> None:
    """Though it went well; a few times say nothing. Of a replication's two sites the one that failed is named."""
    fine = Outcome(Word.FINISHED, RunState.SUCCEEDED, retries=9)
    assert seen_by_run(scene.fleet, a_run(), fine, "a") is None
    found = seen_by_run(scene.fleet, a_run(RunKind.REPLICATE), replace_outcome(fine, retries=10), "a")
    assert found is not None
    assert (found.verdict, found.why) == (Verdict.SLOW, "replicate of web1: 10 requests had to be made again")
    failed = Outcome(Word.FINISHED, RunState.FAILED, exit_code=33, site="a")
    origin = seen_by_run(scene.fleet, a_run(RunKind.REPLICATE), failed, "elsewhere")
    assert origin is not None
    assert origin.site == "a"
    assert seen_by_run(scene.fleet, a_run(), replace_outcome(failed, site=""), "elsewhere") is None


def replace_outcome(outcome: Outcome, **more: Any) -> Outcome:
    """The same with something changed."""
    return Outcome(**{name: getattr(outcome, name) for name in Outcome.__slots__} | more)


def test_what_a_run_tells_is_heard(scene: Scene) -> None:
    """A commit rings for the scheduler once, however many follow before it has heard; a failure is seen of its site."""
    committed = Outcome(Word.FINISHED, RunState.SUCCEEDED, {"site": "a", "snapshot": "ab" * 32, "repository": "web1"})
    for _ in range(3):
        tell_of_run(scene.app, scene.fleet, a_run(), committed, "a", committed=True)
    client = scene.ledger.client
    assert (client.llen(REPLICATION.name), client.llen(SCHEDULER)) == (3, 1)
    assert looked_up(scene.fleet, scene.ledger) == {}
    failed = Outcome(Word.FINISHED, RunState.FAILED, error="why", exit_code=33)
    tell_of_run(scene.app, scene.fleet, a_run(), failed, "a", committed=False)
    assert {key: seen.verdict for key, seen in looked_up(scene.fleet, scene.ledger).items()} == {
        ("a", observer_of("runs")): Verdict.DOWN
    }
    assert client.llen(SCHEDULER) == 1


# -- shown --------------------------------------------------------------------------------------------


def test_the_exporter_tells_what_is_seen(scene: Scene) -> None:
    """By site and place; what was forged is counted, and is not shown."""
    scene.tell(replace(one(free=7, certificate=1_900_000_000.0, clock=-0.25), verdict=Verdict.UP))
    scene.tell(one("a"), key=b"x" * 32, by="forger")
    scene.ledger.client.hincrby(scene.ledger.keys.counts, "ignored|forged", 3)
    found = Scraper(scene.small.path).scrape()
    here = ("a", "here")
    assert {name: found[f"holdfast_site_{name}"] for name in ("seen_up", "latency_seconds", "free_bytes")} == {
        "seen_up": {here: 1},
        "latency_seconds": {here: 1.5},
        "free_bytes": {here: 7},
    }
    assert found["holdfast_site_certificate_expiry_timestamp_seconds"] == {here: 1_900_000_000}
    assert found["holdfast_site_clock_offset_seconds"] == {here: -0.25}
    assert found["holdfast_site_wanted_free_bytes"] == {(): 5 * 2**30}
    assert found["holdfast_events_ignored_total"]["forged",] == 3
    assert found["holdfast_events_ignored_total"]["old",] == 0


def test_a_place_from_which_somebody_sees_it_fail_does_not_see_it_up(scene: Scene) -> None:
    """A probe that goes well does not outweigh the backups that fail; another place does."""
    up = replace(one(clock=0.0), verdict=Verdict.UP)
    seen = [
        up,
        one(observer="runs@here"),
        replace(up, place="there", observer="probes@there"),
        replace(up, site="gone"),
    ]
    families = {family.metric.name: dict(family.samples) for family in seen_families(scene.fleet, seen)}
    assert families["holdfast_site_seen_up"] == {("a", "here"): False, ("a", "there"): True}
