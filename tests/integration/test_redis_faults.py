"""Redis absent, full, read-only, frozen, restarted empty, cut off: a backup under way goes on, and the worker serves.

One worker for all of these faults, one after the other, with leases that run out during each of them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from shared.ledger.ledger import Ledger
from shared.ledger.model import Run, RunKind, RunState
from shared.messaging.bell import ring
from shared.messaging.client import open_and_ring
from tests.support import forked
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger, until
from tests.support.proxy import FaultProxy
from tests.support.tools import ValkeyServer, free_port

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
LEASE = 0.9  # seconds
FAULT = 1.4  # seconds for which each lasts


@dataclass
class Scene:
    """A worker whose way to Redis leads through a proxy; `ledger` is the test's own way."""

    small: SmallFleet
    ledger: Ledger
    server: ValkeyServer
    proxy: FaultProxy
    process: subprocess.Popen[bytes]
    log: Path

    def run(self, run_id: str) -> Run | None:
        """A run; None also while Redis is away."""
        with suppress(RedisError):
            if self.ledger.client.ping():
                return self.ledger.get(run_id)
        return None

    def ended(self, run_id: str) -> Run:
        """A run, once it is over."""
        return until(lambda: run if (run := self.run(run_id)) and run.is_over else None, seconds=30, what=run_id)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The worker is started while there is no Redis yet."""
    base = tmp_path_factory.mktemp("scene")
    with own_ledger(str(base / "valkey")) as (ledger, server), FaultProxy(("127.0.0.1", server.port)) as proxy:
        server.kill()
        small = SmallFleet(str(base), broker=f"redis://127.0.0.1:{proxy.port}/0")
        command = [sys.executable, "-m", "tests.support.fake_worker", "--config", small.path, "--concurrency", "2"]
        environment = {**os.environ, "HOLDFAST_TEST_LEASE": str(LEASE)}
        log = base / "worker.log"
        with log.open("wb") as out:
            process = forked.Popen(command, cwd=ROOT, stdout=out, stderr=out, env=environment, start_new_session=True)
        try:
            until(lambda: "Cannot connect" in log.read_text(), what="a worker that looks for Redis")
            server.start()
            yield Scene(small, ledger, server, proxy, process, log)
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(40)


def full(scene: Scene) -> None:
    """No room for a single write."""
    scene.ledger.client.config_set("maxmemory", "1")
    time.sleep(FAULT)
    scene.ledger.client.config_set("maxmemory", "0")


def read_only(scene: Scene) -> None:
    """A replica of a primary that is not there."""
    scene.ledger.client.execute_command("REPLICAOF", "127.0.0.1", free_port())
    time.sleep(FAULT)
    scene.ledger.client.execute_command("REPLICAOF", "NO", "ONE")


def frozen(scene: Scene) -> None:
    """It takes connections and bytes, and answers nothing."""
    os.kill(scene.server.pid, signal.SIGSTOP)
    time.sleep(FAULT)
    os.kill(scene.server.pid, signal.SIGCONT)


def restarted_empty(scene: Scene) -> None:
    """Killed, and back without a single key."""
    scene.server.kill()
    time.sleep(FAULT)
    scene.server.start()


def cut_off(scene: Scene) -> None:
    """Every connection is reset again and again, whatever is on the way."""
    until_then = time.monotonic() + FAULT
    while time.monotonic() < until_then:
        scene.proxy.cut_all()
        time.sleep(0.02)


FAULTS: list[Callable[[Scene], None]] = [full, read_only, frozen, restarted_empty, cut_off]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_backup_under_way_goes_on(scene: Scene, fault: Callable[[Scene], None]) -> None:
    """One engine does it from start to end, the ledger hears of it, and the same worker follows the next ring."""
    scene.small.behave("hang", seconds=FAULT + 0.5)
    run_id = open_and_ring(scene.small.fleet, RunKind.INCREMENTAL, "web1")
    until(lambda: (run := scene.run(run_id)) and run.state is RunState.RUNNING, what="the run")
    fault(scene)
    run = scene.ended(run_id)
    assert (run.state, run.attempt, run.error) == (RunState.SUCCEEDED, 1, "")
    assert [start["run"] for start in scene.small.starts].count(run_id) == 1
    scene.small.behave("done")
    again = open_and_ring(scene.small.fleet, RunKind.INCREMENTAL, "web1")
    assert scene.ended(again).state is RunState.SUCCEEDED
    assert scene.process.poll() is None


def test_a_worker_that_waits_for_a_primary_leaves_no_connection_behind(scene: Scene) -> None:
    """Each try to serve a replica ends with its sockets closed: a minute would take all that a process may have."""

    def tries() -> int:
        return scene.log.read_text().count("Cannot connect")

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{scene.process.pid}/fd"))

    before = descriptors()
    scene.ledger.client.execute_command("REPLICAOF", "127.0.0.1", free_port())
    first = tries()
    until(lambda: tries() > first + 15, what="a worker that tries again and again")
    held = descriptors()
    scene.ledger.client.execute_command("REPLICAOF", "NO", "ONE")
    assert held <= before + 5
    assert scene.ended(open_and_ring(scene.small.fleet, RunKind.INCREMENTAL, "web1")).state is RunState.SUCCEEDED


@pytest.mark.parametrize("fault", [full, read_only], ids=lambda fault: fault.__name__)
def test_a_ring_that_comes_just_before_redis_refuses_ends_no_worker(
    scene: Scene, fault: Callable[[Scene], None]
) -> None:
    """It may be lost, as any ring may: the run stays queued, the reaper rings, and the same worker follows."""
    os.killpg(scene.process.pid, signal.SIGSTOP)
    run_id = open_and_ring(scene.small.fleet, RunKind.INCREMENTAL, "web1")
    waking = threading.Timer(FAULT / 4, os.killpg, (scene.process.pid, signal.SIGCONT))
    waking.start()
    fault(scene)
    waking.join()
    scene.ledger.client.zadd(scene.ledger.keys.open, {run_id: 0}, xx=True)
    ring(scene.ledger.client, [(run.id, run.request.queue) for run in scene.ledger.reap()])
    assert scene.ended(run_id).state is RunState.SUCCEEDED
    assert scene.process.poll() is None
