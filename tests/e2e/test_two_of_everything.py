"""Two of what there should be one of: schedulers, ticks, backups of one source. Each slot has one run.

Real processes on a real Valkey; the engine of the schedulers' runs is the fake one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scheduler.tick import tick
from shared.ledger.connect import connect
from shared.ledger.keys import BEAT_LOCK
from shared.ledger.ledger import Ledger
from shared.ledger.model import RunKind, RunState
from tests.support.attempts import run_restic
from tests.support.command import Shop, open_shop
from tests.support.fleets import SmallFleet, alive
from tests.support.ledgers import own_ledger, until
from tests.support.processes import engine_of, in_processes
from tests.support.tools import ValkeyServer

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ledger, ValkeyServer]]:
    """One Valkey for all of these tests."""
    with own_ledger(str(tmp_path_factory.mktemp("valkey"))) as pair:
        yield pair


@pytest.fixture
def redis(shared: tuple[Ledger, ValkeyServer]) -> tuple[Ledger, str]:
    """An empty ledger, and its URL."""
    ledger, server = shared
    ledger.client.flushall()
    return ledger, server.url


def test_ticks_at_once_open_each_slot_once(redis: tuple[Ledger, str], tmp_path: Path) -> None:
    """Five at the same time, thirty sources: each source has one run, and one of the ticks has rung for it."""
    ledger, url = redis
    small = SmallFleet(str(tmp_path), broker=url)
    path = Path(small.path)
    more = "".join(f"s{number}: {{paths: [/srv]}}, " for number in range(29))
    path.write_text(path.read_text().replace("sources: {", f"sources: {{{more}"))

    def work(_: int) -> list[str]:
        rung: list[tuple[str, str]] = []
        tick(small.fleet, connect(url), rung.extend, lambda *_: None, NOON)
        return [run_id for run_id, _ in rung]

    rung = [run_id for ids in in_processes(5, work) for run_id in ids]
    runs = ledger.open_runs()
    assert len({run.request.source for run in runs}) == len(runs) == len(rung) == 30
    assert sorted(rung) == sorted(run.id for run in runs)


def test_of_two_schedulers_one_leads_and_the_other_takes_over(redis: tuple[Ledger, str], tmp_path: Path) -> None:
    """A slot a second, before and after the leader is killed; no slot is backed up twice, none by two runs."""
    ledger, url = redis
    small = SmallFleet(str(tmp_path), broker=url, policy="full: 52w, incremental: 1s")
    with ExitStack() as stack:
        beats = [_start(stack, small, "scheduler", "beat", "--tick", "0.5") for _ in range(2)]
        workers = [_start(stack, small, "scheduler", "worker") for _ in range(2)]
        _start(stack, small, "tests.support.fake_worker")
        until(lambda: len(ledger.history("web1")) >= 2, what="two slots")
        holder = until(lambda: ledger.client.get(BEAT_LOCK), what="a leader")
        assert [beat.poll() for beat in beats] == [None, None]
        _kill_leader(ledger, beats)
        workers[0].kill()
        until(lambda: ledger.client.get(BEAT_LOCK) not in (None, holder), what="another leader")
        ended = len(ledger.history("web1"))
        until(lambda: len(ledger.history("web1")) >= ended + 2, what="two more slots")
    runs = ledger.history("web1")
    slots = [run.request.slot for run in runs]
    assert sorted(slots, reverse=True) == slots
    assert len(set(slots)) == len(slots)
    assert {(run.state, run.attempt) for run in runs} == {(RunState.SUCCEEDED, 1)}
    started = [start["slot"] for start in small.starts]
    assert len(set(map(str, started))) == len(started)


def _start(stack: ExitStack, small: SmallFleet, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", module, *arguments, "--config", small.path]
    log = stack.enter_context((Path(small.directory) / "log").open("ab"))
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    stack.callback(process.wait, 40)
    stack.callback(process.terminate)
    return process


def _kill_leader(ledger: Ledger, beats: list[subprocess.Popen[bytes]]) -> None:
    """Only the leader's ticks move on: freeze one, and see whether they do."""
    os.kill(beats[0].pid, signal.SIGSTOP)
    at = ledger.client.hget(ledger.keys.pulse, "at")
    try:
        until(lambda: ledger.client.hget(ledger.keys.pulse, "at") != at, seconds=1.2)
        leader = beats[1]
    except AssertionError:
        leader = beats[0]
    leader.kill()
    os.kill(beats[0].pid, signal.SIGCONT)


@pytest.fixture
def shop(redis: tuple[Ledger, str], tmp_path: Path) -> Shop:
    """A shop on that Redis, with nothing that runs."""
    shop = open_shop(tmp_path)
    config = shop.conf / "holdfast.yaml"
    config.write_text(config.read_text() + f"\nregions: {{local: {{broker: '{redis[1]}'}}}}\n")
    return shop


def test_two_people_who_ask_at_once_get_one_run(redis: tuple[Ledger, str], shop: Shop) -> None:
    """Both commands say the same id; a third that asks for a full one has a run of its own."""
    both = [shop.start("backup", "data", "--json") for _ in range(2)]
    said = [process.communicate(timeout=60)[0] for process in both]
    full = shop.ask("backup", "data", "--full")["run"]
    runs = redis[0].open_runs()
    (joined,) = [run.id for run in runs if run.request.kind is RunKind.INCREMENTAL]
    assert [joined in text for text in said] == [True, True]
    assert {run.id for run in runs} == {joined, full}


def test_a_direct_backup_beside_a_workers_commits_too(redis: tuple[Ledger, str], shop: Shop) -> None:
    """The worker's engine is frozen in mid-run, a person backs up past it, and then it goes on: both are whole."""
    with (shop.data / "big").open("wb") as file:
        for number in range(16):
            file.write(number.to_bytes(4) * (1 << 19))
    worker = shop.start("worker", "start", "--concurrency", "1")
    try:
        run_id = shop.ask("backup", "data")["run"]
        run = until(lambda: found if (found := redis[0].get(run_id)) and found.owner else None, what="its claim")
        engine = until(lambda: engine_of(int(run.owner.rpartition(":")[2])), what="its engine")
        until(lambda: list((shop.conf / "backups/repos/data/locks").glob("*")), what="its lock")
        os.killpg(engine, signal.SIGSTOP)
        direct = shop.ask("backup", "data", "--direct")
        assert redis[0].get(run_id).state in {RunState.CLAIMED, RunState.RUNNING}  # type: ignore[union-attr]
        os.killpg(engine, signal.SIGCONT)
        followed = shop.ask("runs", "follow", run_id)
    finally:
        worker.terminate()
        worker.communicate(timeout=60)
    assert (direct["complete"], followed["state"], alive(engine)) == (True, "succeeded", False)
    snapshots = {one["id"] for one in shop.ask("snapshots", "data")["snapshots"]}
    assert snapshots == {direct["snapshot"], followed["result"]["snapshot"]}
    password = (shop.conf / "recovery.password").read_text().strip()
    said = run_restic(str(shop.conf / "backups/repos/data"), "check", "--read-data", "--no-lock", password=password)
    assert "no errors were found" in said
