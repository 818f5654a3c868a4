"""`holdfast worker`: two take the work, a third joins by one command, one leaves in mid-run and its run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from shared.config.fleet import Fleet
from shared.ledger.model import RunKind
from shared.messaging.client import ledger_of, open_and_ring
from tests.support.command import Shop, open_shop
from tests.support.fleets import alive
from tests.support.ledgers import own_ledger, until
from tests.support.processes import engine_of


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop whose configuration names a Redis, with nothing else that runs."""
    with own_ledger(str(tmp_path / "valkey")) as (_, server):
        shop = open_shop(tmp_path)
        config = shop.conf / "holdfast.yaml"
        config.write_text(config.read_text() + f"\nregions: {{local: {{broker: '{server.url}'}}}}\n")
        yield shop


def names(shop: Shop) -> set[str]:
    """The workers that are there."""
    return {one["name"] for one in shop.ask("worker")["workers"]}


def start(shop: Shop, *options: str) -> subprocess.Popen[str]:
    """A worker, and no process beside it."""
    return shop.start("worker", "start", "--restores", "0", *options)


def test_a_worker_and_one_for_restores_beside_it(shop: Shop) -> None:
    """One command runs both; each may be drained, and when both are it ends with exit code 0."""
    process = shop.start("worker", "start", "--concurrency", "1")
    try:
        there = until(lambda: found if len(found := sorted(names(shop))) == 2 else None, what="both")
        assert [name.partition("-")[0] for name in there] == ["restore", "worker"]
        shop.run("worker", "drain", there[1].partition("@")[0], "--wait")
        assert (names(shop), process.poll()) == ({there[0]}, None)
        os.kill(int(there[0].partition("-")[2].partition("@")[0]), signal.SIGKILL)
        again = until(lambda: names(shop) - {*there}, what="the one that was killed, again")
        shop.run("worker", "drain", *again, "--wait")
        assert process.wait(40) == 0
    finally:
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    lines = [line.partition("  ")[2] for line in said.splitlines()]
    assert "worker was drained and stays away" in lines
    assert "restore was drained and stays away" in lines
    assert lines[-1] == "stopped; nothing is left running"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_both_workers(shop: Shop, how: signal.Signals) -> None:
    """With exit code 0, and nothing left."""
    process = shop.start("worker", "start")
    there = until(lambda: found if len(found := sorted(names(shop))) == 2 else None, what="both")
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == 0
    pids = [name.partition("-")[2].partition("@")[0] for name in there]
    assert [pid for pid in pids if alive(pid)] == []


def test_two_take_four_at_once_a_third_joins_and_one_leaves_in_mid_run(shop: Shop) -> None:
    """By one command each. The leaver's runs go on elsewhere: four sources end well, with one snapshot each."""
    sources = four_sources(shop)
    processes = [start(shop) for _ in range(2)]
    engines: dict[str, int] = {}
    try:
        until(lambda: len(names(shop)) == 2, what="two workers")
        fleet = Fleet.load(str(shop.conf / "holdfast.yaml"))
        for source in sources:
            run = open_and_ring(fleet, RunKind.FULL, source)
            engines[run] = freeze(fleet, run)
        runs = list(engines)
        served = at_work(shop)
        assert (served.keys(), sorted(Counter(served.values()).values())) == (engines.keys(), [2, 2])
        processes.append(start(shop, "--host", "elsewhere"))
        until(lambda: len(names(shop)) == 3, what="the third")
        leaving = min(served.values())
        given_back = {run for run, worker in served.items() if worker == leaving}
        shop.run("worker", "drain", leaving)
        for run in given_back:
            until(lambda run=run: is_asked_to_end(engines[run]), what="the word to its engine")
        for engine in engines.values():
            os.killpg(engine, signal.SIGCONT)
        ended = {run: shop.ask("runs", "follow", run) for run in runs}
        until(lambda: leaving not in names(shop), what="its leave")
        assert [process.wait(40) for process in processes if leaving.startswith(f"worker-{process.pid}@")] == [0]
    finally:
        for engine in engines.values():
            with suppress(ProcessLookupError):
                os.killpg(engine, signal.SIGCONT)
        for process in processes:
            process.terminate()
        said = [process.communicate(timeout=60)[1] for process in processes]
    assert "no source is of host elsewhere" in said[2]
    assert {run: one["state"] for run, one in ended.items()} == dict.fromkeys(runs, "succeeded")
    assert {run: one["attempt"] for run, one in ended.items()} == {run: 1 + (run in given_back) for run in runs}
    assert [run for run, one in ended.items() if one["owner"].startswith(leaving)] == []
    assert [one["error"] for run in ended.values() for one in run["attempts"]] == [None] * 6
    assert [len(shop.ask("snapshots", source)["snapshots"]) for source in sources] == [1, 1, 1, 1]


def four_sources(shop: Shop) -> list[str]:
    """More to back up, each of them for some tenths of a second."""
    sources = [f"s{number}" for number in range(4)]
    for source in sources:
        (shop.base / source).mkdir()
        (shop.base / source / "big").write_bytes(os.urandom(16 << 20))
    (shop.conf / "conf.d").mkdir()
    lines = "".join(f"  {source}: {{paths: [{shop.base / source}]}}\n" for source in sources)
    (shop.conf / "conf.d/four.yaml").write_text(f"sources:\n{lines}")
    return sources


def freeze(fleet: Fleet, run_id: str) -> int:
    """Stop the engine of a run as soon as there is one; which that is."""
    ledger = ledger_of(fleet)
    run = until(lambda: found if (found := ledger.get(run_id)) and found.owner else None, what="its claim")
    engine = until(lambda: engine_of(int(run.owner.rpartition(":")[2])), what="its engine")
    os.killpg(engine, signal.SIGSTOP)
    return engine


def is_asked_to_end(engine: int) -> bool:
    """Whether SIGTERM waits for a frozen process."""
    status = Path(f"/proc/{engine}/status").read_text()
    (pending,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("ShdPnd")]
    return bool(pending >> (signal.SIGTERM - 1) & 1)


def at_work(shop: Shop) -> dict[str, str]:
    """The runs that are under way at this moment, and the worker of each."""
    return {run: one["name"] for one in shop.ask("worker")["workers"] for run in one["runs"]}


def test_no_worker_of_that_name(shop: Shop) -> None:
    """Says who is there, and what to do where nobody is."""
    assert "There is none at all" in shop.run("worker", "drain", "worker-1@nowhere", code=65)
    assert "holdfast worker start" in shop.run("worker")
    assert "no worker runs" in shop.run("status", code=2)
