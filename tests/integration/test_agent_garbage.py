"""A hostile agent fills its own part of the ledger with whatever Redis takes: nobody else is held up by it.

web1 is the hostile one, on a real Valkey, by its own user. What it writes is drawn over every key that the ledger has.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from scheduler.__main__ import Ticker
from shared.config.watch import FleetWatch
from shared.ledger.ended import EndedRuns
from shared.ledger.keys import host_queues
from shared.ledger.model import Evidence, RunKind, RunState, Word, run_id_for_slot, slot_text
from shared.messaging.bell import ring
from shared.messaging.client import realms
from shared.messaging.names import redis_list
from shared.observability import metrics
from tests.support import hostile
from tests.support.garbage import DEEP, Garbage
from tests.support.hostile import MINE, THEIRS, Scene
from tests.support.ledgers import a_run, claimed, expire
from tests.support.scraping import Scraper
from workers.reporter import line

hostile_server, scene = hostile.hostile_server, hostile.scene  # fixtures
SEEDS = range(3)
# A hundred thousand entries more of a key, which look like ids of runs. ARGV: a command that adds several, a number.
MANY = """
for i = 1, 100 do
  local some = {}
  for j = 1, 1000 do
    if ARGV[1] == 'ZADD' then some[#some + 1] = j end
    some[#some + 1] = string.format('%032x', (ARGV[2] * 100 + i) * 1000 + j)
    if ARGV[1] == 'HSET' then some[#some + 1] = j end
  end
  redis.call(ARGV[1], KEYS[1], unpack(some))
end
"""
# A text of so many MiB, in a key of each kind. ARGV: the size
LARGE = """
local text = string.rep('x', ARGV[1] * 1048576)
for i, key in ipairs(KEYS) do
  redis.call('DEL', key)
  local by = {{'ZADD', key, 0, text}, {'RPUSH', key, text}, {'SADD', key, text}, {'HSET', key, 'pid', text}}
  redis.call(unpack(by[(i - 1) % 4 + 1]))
end
"""


def slot_ids(now: datetime) -> list[str]:
    """The ids that runs of either source may have today: anybody can work them out."""
    slot = slot_text(now.replace(hour=0, minute=0, second=0, microsecond=0))
    return [run_id_for_slot(source, "all", RunKind.FULL, slot) for source in (MINE, THEIRS)]


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_it_writes_others_are_backed_up_and_everything_answers(
    scene: Scene, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    """Ticks, the reaper, the exporter, status, lists of runs and workers; the other's run is opened, rung and done."""
    ids = [*(f"{number:032x}" for number in range(6)), *slot_ids(datetime.now(UTC))]
    garbage = Garbage(scene.thief, MINE, seed, ids=ids, sources=[MINE, THEIRS, "none"])
    ended = EndedRuns(scene.ledger, realms(scene.small.fleet))
    exporter = Scraper(scene.small.path)
    theirs = scene.theirs
    for _ in range(2):
        ended.look()
        garbage.write(80)
        assert exporter.scrape()["holdfast_ledger_up"] == {(): 1}
        rings = scene.tick()
        (run,) = theirs.open_runs()
        assert rings.count(run.id) == len(rings) > 0
        garbage.write(30)
        status = scene.command(capsys, "status", codes=(0, 1, 2))
        assert next(one["condition"] for one in status["sources"] if one["source"] == THEIRS) == "never"
        listed = scene.command(capsys, "runs", "--limit", "200")
        assert run.id in {one["id"] for one in listed["runs"] if one["host"] == THEIRS}
        assert scene.command(capsys, "runs", "show", run.id)["host"] == THEIRS
        for command in (
            ["worker", "list"],
            ["schedule"],
            ["sites"],
            ["runs", "--source", MINE],
            ["runs", "--source", THEIRS],
        ):
            scene.command(capsys, *command)
        for run_id in ids[:3]:
            for do in ("show", "cancel", "retry"):
                scene.command(capsys, "runs", do, run_id, codes=(0, 60, 62, 63, 64))
        lease = claimed(theirs, run.id)
        theirs.finish(lease, RunState.SUCCEEDED, result={"site": "a", "bytes_stored": 7})
        assert all(line(one) for one in ended.look())
        found = exporter.scrape()
        assert (THEIRS, "backup-full", "succeeded") in found[metrics.LAST_END.name]
        assert found[metrics.UPLOADED.name][THEIRS,] == 7  # whatever the other has counted in its name
        assert found[metrics.RUNNING.name][THEIRS,] == 0
        theirs.client.delete(theirs.keys.history(THEIRS), theirs.keys.recent, theirs.keys.run(run.id))
        theirs.client.delete(theirs.keys.counts, redis_list(host_queues(THEIRS)[0]))


def test_what_can_not_be_read_is_counted_and_said_once(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """In status, in lists of runs, in a metric, and in a scheduler's log: of which host, and how much."""
    odd = a_run(MINE)
    scene.mine.open(odd)
    scene.thief.hset(scene.keys.run(odd.id), mapping={"attempt": "many", "opened": DEEP})
    scene.thief.zadd(scene.keys.open, {odd.id: 1, "\x1b[2J": 2, "short": 3})
    said = {"host": MINE, "entries": 3}
    assert said in scene.command(capsys, "runs")["unread"]
    status = scene.command(capsys, "status", codes=(2,))
    assert [one["text"] for one in status["problems"] if "can't be read" in one["text"]] == [
        "3 entries of the ledger's part of host web1 can't be read, and are left out"
    ]
    assert Scraper(scene.small.path).scrape()[metrics.UNREAD.name] == {(MINE,): 3}
    ticker = Ticker(FleetWatch(scene.small.path))
    with capture_logs() as logs:
        ticker.tick()
        ticker.tick()
    told = [one for one in logs if one["event"] == "a part of the ledger can't be read"]
    assert [(one["host"], one["entries"] > 0) for one in told] == [(MINE, True)]


def keys_of(scene: Scene) -> list[str]:
    """Those of its keys that somebody else looks at."""
    keys = scene.keys
    names = [keys.open, keys.recent, keys.fenced, keys.cut, keys.workers, keys.pulse, keys.counts, keys.ledger]
    names += [keys.history(MINE), keys.history(THEIRS), keys.evidence(MINE), f"{keys.prefix}backups:{MINE}"]
    return [*names, *map(redis_list, host_queues(MINE)), *(keys.run(one) for one in slot_ids(datetime.now(UTC)))]


@pytest.mark.parametrize("kind", ["string", "list", "set", "zset", "hash"])
def test_a_key_of_another_type_ends_no_tick(scene: Scene, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """Each of them at once: that realm alone is left out, and the other's runs are opened, rung and shown."""
    write = {
        "string": lambda key: scene.thief.set(key, "no"),
        "list": lambda key: scene.thief.rpush(key, "no"),
        "set": lambda key: scene.thief.sadd(key, "no"),
        "zset": lambda key: scene.thief.zadd(key, {"no": 0}),
        "hash": lambda key: scene.thief.hset(key, "no", "no"),
    }[kind]
    for key in keys_of(scene):
        write(key)
    (run_id,) = scene.tick()
    expire(scene.theirs, run_id)
    assert scene.tick() == [run_id, run_id]  # rung again by the reaper
    exporter = Scraper(scene.small.path).scrape()
    assert exporter["holdfast_ledger_up"] == {(): 1}
    assert exporter[metrics.UNREAD.name][MINE,] > 0
    for command in (["status"], ["runs"], ["worker", "list"], ["runs", "--source", THEIRS], ["schedule"]):
        scene.command(capsys, *command, codes=(0, 1, 2))
    assert scene.theirs.cancel(run_id, "me") is Word.CANCELLED


def test_what_has_no_end_is_not_read_to_its_end(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """Lists of two hundred thousand, sets, sorted sets and hashes: none is taken out of Redis."""
    prefix, run = scene.keys.prefix, a_run(MINE)
    for name, command in (
        ("open", "ZADD"),
        ("workers", "ZADD"),
        ("fenced", "ZADD"),
        ("recent", "RPUSH"),
        (f"history:{MINE}", "RPUSH"),
        ("host.web1", "RPUSH"),
        ("counts", "HSET"),
        (f"run:{run.id}", "HSET"),
        (f"backups:{MINE}", "SADD"),
    ):
        for part in range(2 if command == "RPUSH" else 1):
            scene.thief.eval(MANY, 1, f"{prefix}{name}", command, part)
    look_at_everything(scene, capsys)


def test_what_is_large_is_not_read(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """One entry of 24 MiB in each: by their number they would do."""
    keys = scene.keys
    run_id = slot_ids(datetime.now(UTC))[0]
    named = [keys.open, keys.recent, f"{keys.prefix}backups:{MINE}", keys.evidence(MINE)]
    named += [keys.workers, keys.history(MINE), keys.children(run_id), keys.counts]
    named += [keys.fenced, redis_list(host_queues(MINE)[0]), keys.packs(run_id), keys.run(run_id)]
    scene.thief.eval(LARGE, len(named), *named, 24)
    scene.thief.hset(keys.evidence(MINE), "a|full", "9")
    for name in ("a|last", "queues"):
        scene.thief.eval(
            "redis.call('HSET', KEYS[1], ARGV[1], string.rep('x', 16777216))", 1, keys.evidence(MINE), name
        )
    look_at_everything(scene, capsys)
    # Each alone, under names that are looked up: a run that is rung for, a worker, a drain.
    scene.thief.delete(keys.open, keys.workers, keys.recent)
    scene.mine.open(a_run(MINE))
    (other,) = scene.mine.open_runs()
    scene.thief.eval("redis.call('HSET', KEYS[1], 'result', string.rep('x', 33554432))", 1, keys.run(other.id))
    scene.thief.zadd(keys.open, {other.id: 0})
    scene.thief.rpush(keys.recent, other.id)
    scene.thief.zadd(keys.workers, {"w": 9e15})
    scene.thief.hset(keys.worker("w"), mapping={"queues": "[]", "since": "1", "pid": "1"})
    scene.thief.eval("redis.call('SET', KEYS[1], string.rep('x', 33554432))", 1, keys.drain("w"))
    look_at_everything(scene, capsys)


def look_at_everything(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice, and at a bounded price: Redis has sent little."""
    exporter = Scraper(scene.small.path)
    client = scene.ledger.client
    client.config_resetstat()
    for _ in range(2):
        assert len(scene.tick()) > 0
        assert exporter.scrape()["holdfast_ledger_up"] == {(): 1}
    for command in (["status"], ["runs"], ["worker", "list"], ["runs", "--source", MINE]):
        scene.command(capsys, *command, codes=(0, 1, 2))
    assert client.info("stats")["total_net_output_bytes"] < 1 << 20


def test_a_queue_that_is_none_stops_no_ring(scene: Scene) -> None:
    """Its own list of rings is of another type: the others are rung for all the same."""
    scene.thief.set(f"{scene.keys.prefix}host.web1", "no list")
    ring(scene.ledger.client, [("0" * 32, "host.web1"), ("1" * 32, "host.web2"), ("2" * 32, "backup")])
    assert [scene.ledger.client.llen(redis_list(queue)) for queue in ("host.web2", "backup")] == [1, 1]


def test_evidence_that_is_none_opens_nothing_for_the_fleet(scene: Scene) -> None:
    """Slots that are no times, or to come, in its own evidence: it is due by the site, and the other is not."""
    now = slot_text(datetime.now(UTC))
    scene.theirs.note_evidence(THEIRS, "a", Evidence(now, now))
    for slot in ("!", "2026-99-99T99:99:99Z", "zzzz", "9999-12-31T23:59:59Z"):
        scene.thief.hset(scene.keys.evidence(MINE), mapping={"a|last": slot, "a|full": slot})
        assert scene.tick() == []
        assert [run.request.source for run in scene.mine.open_runs()] in ([MINE], [])
