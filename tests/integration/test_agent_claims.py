"""No host speaks for another: what a hostile agent writes into its realm about others changes nothing there.

web1 is the hostile one, on a real Valkey, by its own user.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest

from cli.main import main
from scheduler.reaper import Unlocker
from shared.ledger.keys import host_queues
from shared.ledger.model import Evidence, RunKind, RunRequest, RunState, new_run_id, run_id_for_slot, slot_text
from shared.ledger.roll import Roll
from shared.messaging import client
from shared.messaging.bell import rung
from shared.messaging.names import redis_list
from shared.observability import metrics
from shared.repository.locks import read_locks
from shared.repository.repository import Repository
from tests.support import hostile
from tests.support.hostile import MINE, THEIRS, Scene
from tests.support.ledgers import a_run, claimed, expire, state_of
from tests.support.scraping import Scraper

hostile_server, scene = hostile.hostile_server, hostile.scene  # fixtures
SLOT = "2026-03-04T02:00:00Z"


def slot_run(source: str) -> RunRequest:
    """A slot's run, whose id anybody can work out."""
    run_id = run_id_for_slot(source, "all", RunKind.FULL, SLOT)
    return RunRequest(run_id, RunKind.FULL, source, policy="all", slot=SLOT, queue=host_queues(source)[0])


@pytest.mark.parametrize("queue", ["backup", "scheduler", "hf:recent", "host.web2", 'x"}]', "host.web1"])
def test_a_run_of_a_host_is_rung_on_its_own_queue_alone(
    scene: Scene, capsys: pytest.CaptureFixture[str], queue: str
) -> None:
    """By the reaper, and by a person who asks for it again; whatever queue it names."""
    run = a_run(MINE)
    scene.mine.open(run)
    scene.thief.hset(scene.keys.run(run.id), "queue", queue)
    expire(scene.mine, run.id)
    (theirs,) = scene.tick()
    assert theirs != run.id
    own = redis_list(host_queues(MINE)[0])
    assert scene.ledger.client.llen(own) >= 1
    rings = scene.ledger.client.llen(own)
    scene.thief.hset(scene.keys.run(run.id), mapping={"state": "failed", "ended": 1772000000000})
    scene.command(capsys, "runs", "retry", run.id)
    assert scene.ledger.client.llen(own) == rings + 2  # with and without --json
    again = scene.command(capsys, "runs", "--open")["runs"]
    again = [one for one in again if one["host"] == MINE]
    root = scene.ledger.client
    for key in root.scan_iter("*", _type="list"):
        rings = [rung(one) for one in root.lrange(key, 0, -1)]
        assert (key == own) or not {run.id, *(one["id"] for one in again)} & {*map(str, rings)}
    assert scene.ledger.client.llen(redis_list(host_queues(THEIRS)[0])) == 1


def test_a_fence_in_its_realm_removes_no_lock_of_another(scene: Scene) -> None:
    """Of another host's live backup: neither by its lease that ran out, nor by a process that is said to be killed."""
    fleet = scene.small.fleet
    repository = Repository.create(
        fleet.open_site("a").below(f"repos/{THEIRS}"),
        repository_id=THEIRS,
        fleet_secret=fleet.secret.read(),
        recovery_password=fleet.recovery_password.read("recovery password").decode(),
    )
    run = slot_run(THEIRS)
    repository.lock(holder=f"web2/holdfast/{run.id}").begin()
    (lock,) = read_locks(repository.store, repository.load, now=repository.store.clock())
    path = os.path.join(scene.small.directory, "site", "repos", THEIRS, "locks", lock.id)
    os.utime(path, (os.stat(path).st_mtime - 60,) * 2)
    scene.mine.open(run)
    for name in (run.id, f"{run.id}:{lock.pid}"):
        scene.thief.zadd(scene.keys.fenced, {name: scene.ledger.client.time()[0] * 1000})
    unlock = Unlocker(fleet)
    unlock(scene.mine)
    unlock.wait(30)
    assert os.path.exists(path)
    assert scene.mine.fenced() == []
    # It is removed where the source's own realm says so.
    scene.theirs.open(run)
    scene.theirs.lock_left(run.id, lock.pid)
    unlock(scene.theirs)
    unlock.wait(30)
    assert not os.path.exists(path)


@pytest.mark.parametrize("asked", ["whole", "first digits"])
def test_the_id_of_anothers_run_hides_that_from_nobody(
    scene: Scene, capsys: pytest.CaptureFixture[str], asked: str
) -> None:
    """Ids of slots can be worked out: a run of that id in its own realm stands back behind the real one."""
    run = slot_run(THEIRS)
    scene.theirs.open(run)
    name = run.id if asked == "whole" else run.id[:8]
    for claim in ({"source": MINE}, {"source": MINE, "slot": ""}, {"source": THEIRS}, {"kind": "restore"}):
        scene.mine.open(run)
        scene.thief.hset(scene.keys.run(run.id), mapping=claim)
        assert scene.command(capsys, "runs", "show", name)["host"] == THEIRS
        scene.thief.delete(scene.keys.run(run.id))
    scene.mine.open(run)
    assert main(["runs", "cancel", name, "--config", scene.small.path]) == 0
    assert (state_of(scene.theirs, run.id), state_of(scene.mine, run.id)) == ("cancelled", "queued")


def test_a_run_of_the_pools_is_found_under_any_number_of_its_id(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planted ones of those first digits: the fleet's own is the one that is meant."""
    run = a_run(THEIRS, RunKind.FORGET)
    scene.ledger.open(run)
    for number in range(100):
        planted = f"{run.id[:4]}{number:028x}"
        scene.thief.hset(scene.keys.run(planted), mapping={"id": planted, "kind": "backup-full", "source": MINE})
        scene.thief.hset(scene.keys.run(planted), mapping={"state": "queued"})
    assert scene.command(capsys, "runs", "show", run.id[:4])["id"] == run.id


def test_it_does_not_pass_for_a_worker_of_others(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """What it says to serve counts for its own queues, and what it says to hold is not another's."""
    Roll(scene.ledger).beat("worker-8@backup2", "backup2", 8, ["backup"])
    run = slot_run(THEIRS)
    scene.theirs.open(run)
    claimed(scene.theirs, run.id, "worker-8@backup2:9")
    fields = {"queues": '["backup", "host.web2", "host.web1"]', "pid": "1", "since": "1", "host": "backup2"}
    for name in ("worker-8@backup2", "worker-88@backup2", "worker-9"):
        scene.thief.zadd(scene.keys.workers, {name: 9e15})
        scene.thief.hset(scene.keys.worker(name), mapping=fields)
    planted = a_run(MINE)
    scene.mine.open(planted)
    scene.thief.hset(scene.keys.run(planted.id), mapping={"state": "running", "owner": "worker-8@backup2:1"})
    listed = scene.command(capsys, "worker", "list")["workers"]
    seen = {(one["name"], *one["queues"]): one["runs"] for one in listed}
    assert seen == {
        ("worker-8@backup2", "backup"): [],
        ("worker-8@backup2", "host.web1"): [planted.id],
        ("worker-88@backup2", "host.web1"): [],
        ("worker-9", "host.web1"): [],
    }
    found = Scraper(scene.small.path).scrape()
    assert found[metrics.WORKERS.name] == {("host:web1",): 3, ("host:web2",): 0}
    status = scene.command(capsys, "status", codes=(2,))
    assert any("no worker serves host.web2" in one["text"] for one in status["problems"])


def test_a_drain_reaches_the_worker_that_is_meant(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """Also by the start of its name, where the agent has borrowed it, or has one that begins so."""
    roll = Roll(scene.ledger)
    roll.beat("worker-8@backup2", "backup2", 8, ["backup"])
    for name in ("worker-8@backup2", "worker-8", "worker-88"):
        Roll(scene.mine).beat(name, "backup2", 1, ["backup"])
    for asked in ("worker-8@backup2", "worker-"):
        assert scene.command(capsys, "worker", "drain", asked)["workers"][0]["worker"] == "worker-8@backup2"
        assert roll.beat("worker-8@backup2", "backup2", 8, ["backup"])
        assert not Roll(scene.mine).beat("worker-8@backup2", "backup2", 1, ["backup"])
        scene.ledger.client.delete(scene.ledger.keys.drain("worker-8@backup2"))
    # A host's own is drained by its name, and so is whoever has borrowed that.
    Roll(scene.theirs).beat("agent-5@web2", "web2", 5, ["host.web2"])
    Roll(scene.mine).beat("agent-5@web2", "web2", 5, ["host.web2"])
    client.drain(scene.small.fleet, "agent-5@web2", "me")
    assert Roll(scene.theirs).beat("agent-5@web2", "web2", 5, ["host.web2"]) == "me"


def test_what_it_says_of_others_does_not_change_how_they_stand(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full backup of the other's source that runs or fails in its own realm, and what it counts: not theirs."""
    now = slot_text(datetime.now(UTC))
    scene.theirs.note_evidence(THEIRS, "a", Evidence(now, now))
    run = a_run(THEIRS)
    scene.mine.open(run)
    scene.thief.hset(scene.keys.run(run.id), mapping={"error": "it is lost", "state": "running"})
    over = a_run(THEIRS)
    scene.mine.open(over)
    result = {"site": "a", "bytes_stored": 9, "bytes_read": 9}
    scene.mine.finish(claimed(scene.mine, over.id), RunState.FAILED, result=result, error="it is lost")
    scene.thief.hset(scene.keys.counts, mapping={f"uploaded|{THEIRS}": 5, "error|x": 1, "retries|a": "1e999"})
    status = scene.command(capsys, "status", "--all", codes=(2,))
    (theirs,) = (one for one in status["sources"] if one["source"] == THEIRS)
    assert (theirs["error"], theirs["running"], theirs["condition"] in {"good", "unserved"}) == (None, False, True)
    found = Scraper(scene.small.path).scrape()
    assert found[metrics.RUNNING.name][THEIRS,] == 0
    assert found[metrics.UPLOADED.name][THEIRS,] == 0
    assert (THEIRS,) not in found[metrics.LAST_FAILED.name]
    assert main(["runs", "--config", scene.small.path]) == 0
    assert f"{THEIRS} on {MINE}" in capsys.readouterr().out  # who says so is named


def test_it_takes_no_more_places_than_a_host_has(scene: Scene) -> None:
    """Backups that it says are open: the fleet's places are left to others."""
    scene.small.change("policies:", "scheduling: {runs: 2}\npolicies:")
    for number in range(5):
        scene.small.add_source(f"more{number}", host=MINE)
    for name in (MINE, *(f"more{number}" for number in range(5))):
        run_id = new_run_id()
        scene.thief.sadd(f"{scene.keys.prefix}backups:{name}", run_id)
        scene.thief.hset(scene.keys.run(run_id), mapping={"state": "running", "opened": "1772000000000"})
    assert len(scene.tick()) == 1
