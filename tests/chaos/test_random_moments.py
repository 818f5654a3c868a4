"""A real Celery worker over a real MinIO, killed at random moments: SIGKILL to its group and to its engine's.

Two workers serve one queue; the one that works is killed, the reaper rings, the other takes the run up, and a new
worker takes the dead one's place. Two such lanes run side by side. The moments are drawn stage by stage, so that the
short stages are hit as often as the long ones; where each kill landed is read from the trace that the dead left.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any, Self

import pytest

from shared.config.fleet import Fleet
from shared.ledger.ledger import Ledger
from shared.ledger.model import RunKind, RunState
from shared.messaging.bell import ring
from shared.messaging.client import open_and_ring
from shared.storage.api import ObjectStore
from tests.support import forked
from tests.support.attempts import RECOVERY, SECRET, Bench, make_source, run_restic
from tests.support.ledgers import own_ledger, until
from tests.support.stores import make_bucket, open_bucket
from tests.support.tools import MinioServer
from tests.support.traced_engine import TRACE
from tests.support.zygote import ROOT

KILLS, ALL_KILLS = 18, 50  # the seed is another each time; `--kill-points=all` for all of them
LANES = 2
# Each stage, the trace's line that begins it, and over how many seconds from there the moments are spread.
STAGES = {
    "open": ("engine ", 0.12),
    "scan": ("end put locks/", 0.15),
    "upload": ("begin put data/", 0.12),
    "index": ("begin put index/", 0.025),
    "commit": ("begin put_if_absent holdfast/commits/", 0.025),
    "snapshot": ("begin put snapshots/", 0.02),
}
# Per helper: two uploads under way and two that it has not told of; the coordinator's trees.
IN_FLIGHT = 10


class Lane:
    """A Valkey, two workers, and a source per kill, each with a repository of its own."""

    def __init__(self, directory: str, minio: MinioServer, bucket: str, ledger: Ledger, broker: str) -> None:
        self.ledger = ledger
        self.minio = minio
        self.bucket = bucket
        self.trace = os.path.join(directory, "trace")
        self.cache = os.path.join(directory, "cache")
        self.source = make_source(os.path.join(directory, "source"), big=16 << 20)
        os.makedirs(self.trace)
        for name, text in (
            ("secret", SECRET.hex()),
            ("recovery", RECOVERY),
            (
                "keys",
                f"[default]\naws_access_key_id = {minio.access_key}\naws_secret_access_key = {minio.secret_key}\n",
            ),
        ):
            with open(
                os.path.join(directory, name), "w", opener=lambda path, flags: os.open(path, flags, 0o600)
            ) as file:
                file.write(text)
        self.path = os.path.join(directory, "fleet.yaml")
        fleet = {
            "secret": {"file": "secret"},
            "recovery_password": {"file": "recovery"},
            "state_dir": "state",
            "cache_dir": "cache",
            "sites": {
                "a": {"url": f"s3:http://{minio.endpoint}/{bucket}", "credentials": {"file": f"{directory}/keys"}}
            },
            "regions": {"local": {"broker": broker}},
            "sources": {f"s{number}": {"paths": [self.source]} for number in range(2 * ALL_KILLS)},
        }
        with open(self.path, "w") as file:
            json.dump(fleet, file)  # which is YAML, too
        self.fleet = Fleet.load(self.path)
        self.workers = [self._worker(), self._worker()]

    def _worker(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.support.traced_worker", "--config", self.path, "--concurrency", "1"]
        with open(os.path.join(os.path.dirname(self.path), "workers.log"), "ab") as log:
            return forked.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True, env={**os.environ, TRACE: self.trace}
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()

    def open(self, source: str) -> str:
        """Open a full backup by hand, and ring."""
        return open_and_ring(self.fleet, RunKind.FULL, source)

    def reap(self) -> None:
        """What the scheduler's tick does for runs that nobody holds."""
        for run in self.ledger.reap():
            ring(self.ledger.client, [(run.id, run.request.queue)])

    def traces(self, run: str) -> list[str]:
        """The traces of the engines that worked on a run."""
        return [os.path.join(self.trace, name) for name in os.listdir(self.trace) if name.startswith(run)]

    def state(self, run: str) -> RunState | None:
        """Where the ledger says that it stands."""
        found = self.ledger.get(run)
        return found.state if found else None

    def kill(self, number: int, engine: int) -> None:
        """Kill a worker, and the engine where one is given; start another worker in its place."""
        if engine:
            os.killpg(engine, signal.SIGKILL)
        os.killpg(self.workers[number].pid, signal.SIGKILL)
        self.workers[number].wait()
        self.workers[number] = self._worker()


def _lines(trace: str) -> list[str]:
    with open(trace) as file:
        return file.read().splitlines()


def _stage(trace: str) -> str:
    """Where an engine was when its trace ended."""
    lines = _lines(trace)
    reached = [stage for stage, (first, _) in STAGES.items() if any(line.startswith(first) for line in lines)]
    return "done" if any(line.startswith("end put snapshots/") for line in lines) else reached[-1]


class S3Bench(Bench):
    """A bench whose repository lies in a bucket."""

    def __init__(self, lane: Lane, source: str) -> None:
        self.lane = lane
        self.store: ObjectStore = open_bucket(lane.minio, lane.bucket).below(f"repos/{source}")
        self.source = lane.source
        self.cache = lane.cache
        self.password = lane.fleet.machine_password(source)
        self.url = f"s3:http://{lane.minio.endpoint}/{lane.bucket}/repos/{source}"

    @property
    def exists(self) -> bool:
        """Whether it has a config."""
        return any(info.key == "config" for info in self.store.list(""))

    def names(self, kind: str) -> set[str]:
        """The ids of the objects of a kind."""
        return {info.key.rpartition("/")[2] for info in self.store.list(f"{kind}/")}

    def open(self) -> Any:
        """The repository, opened."""
        from shared.repository.repository import Repository

        return Repository.open(self.store, self.password)

    def restic(self, *arguments: str, **_: Any) -> str:
        """What stock restic says."""
        keys = {"AWS_ACCESS_KEY_ID": self.lane.minio.access_key, "AWS_SECRET_ACCESS_KEY": self.lane.minio.secret_key}
        return run_restic(self.url, *arguments, password=self.password, environment=keys)


class Kills:
    """The tally of both lanes."""

    def __init__(self, seed: int, wanted: int) -> None:
        self.seed = seed
        self.wanted = wanted
        self.landed: Counter[str] = Counter()
        self.orphaned: Counter[str] = Counter()  # the worker alone was killed
        self.again: Counter[int] = Counter()
        self._lock = threading.Lock()
        self._numbers: Iterator[int] = iter(range(2 * wanted))

    def next(self) -> int | None:
        """The number of the next kill; None when there are enough."""
        with self._lock:
            if self.landed.total() + self.orphaned.total() - self.landed["done"] - self.orphaned["done"] >= self.wanted:
                return None
            return next(self._numbers)

    def note(self, stage: str, *, engine_too: bool) -> None:
        """A kill has landed there."""
        with self._lock:
            (self.landed if engine_too else self.orphaned)[stage] += 1


def _one_kill(lane: Lane, kills: Kills, number: int) -> None:
    draw = random.Random(f"{kills.seed}-{number}")
    stage = list(STAGES)[number % len(STAGES)]
    engine_too = draw.random() < 0.85
    first, width = STAGES[stage]
    bench = S3Bench(lane, f"s{number}")
    run = lane.open(f"s{number}")
    (trace,) = until(lambda: lane.traces(run), seconds=60, what=f"an engine for run {number}")
    engine, parent = (int(word) for word in until(lambda: _lines(trace))[0].split()[1:])
    # The engine's parent is a child of its worker's pool.
    (worker,) = (number for number, worker in enumerate(lane.workers) if os.getsid(parent) == worker.pid)
    while not any(line.startswith(first) for line in _lines(trace)):
        time.sleep(0.001)
    time.sleep(draw.uniform(0, width))
    lane.kill(worker, engine if engine_too else 0)
    kills.note(_stage(trace), engine_too=engine_too)
    durable: set[str] = set()
    known: set[str] = set()
    if bench.exists:
        bench.check()
        durable = bench.names("data")
        known = (bench.journaled() | set(lane.ledger.journal(run)) | bench.indexed()) & durable
    deadline = time.monotonic() + 60
    while lane.state(run) not in (RunState.SUCCEEDED, RunState.FAILED):
        assert time.monotonic() < deadline, f"run {number} does not end: {lane.ledger.get(run)}"
        lane.reap()
        time.sleep(0.1)
    found = lane.ledger.get(run)
    assert found is not None
    assert (found.state, found.error) == (RunState.SUCCEEDED, "")
    bench.check()
    (snapshot,) = bench.snapshots()
    assert (snapshot.tag("run"), snapshot.id) == (run, found.result["snapshot"])
    if engine_too:  # else the orphan may have gone on for a moment beside the next one
        new = bench.blobs(bench.names("data") - durable)
        assert new.keys() & bench.blobs(known).keys() == set()
        again = [pack for pack in durable - known if bench.blobs([pack]).keys() & new.keys()]
        assert len(again) <= IN_FLIGHT
        kills.again[len(again)] += 1


def test_random_moments(pytestconfig: pytest.Config, capfd: pytest.CaptureFixture[str]) -> None:
    """`restic check --read-data` passes after every kill, and the run ends with one snapshot, little uploaded twice."""
    seed = pytestconfig.getoption("--kill-seed") or random.SystemRandom().randrange(1, 1 << 32)
    kills = Kills(seed, ALL_KILLS if pytestconfig.getoption("--kill-points") == "all" else KILLS)
    began = time.monotonic()
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-kill-"))
        minio = stack.enter_context(MinioServer(os.path.join(scratch, "minio")))
        bucket = make_bucket(minio)

        def work(number: int) -> list[str]:
            directory = os.path.join(scratch, f"lane{number}")
            with (
                own_ledger(os.path.join(directory, "valkey")) as (ledger, server),
                Lane(directory, minio, bucket, ledger, server.url) as lane,
            ):
                failures: list[str] = []
                while not failures and (kill := kills.next()) is not None:
                    try:
                        _one_kill(lane, kills, kill)
                    except BaseException as error:  # noqa: BLE001 - told below, with its number
                        failures.append(f"kill {kill} of seed {seed}: {error!r}")
                return failures

        with ThreadPoolExecutor(LANES) as pool:
            failures = [failure for lane in pool.map(work, range(LANES)) for failure in lane]
    with capfd.disabled():
        total = kills.landed.total() + kills.orphaned.total()
        print(f"\n{total} kills, --kill-seed={seed}, {time.monotonic() - began:.0f} s")  # noqa: T201
        for stage in [*STAGES, "done"]:
            bar = "#" * kills.landed[stage] + "+" * kills.orphaned[stage]
            print(f"  {stage:9}{kills.landed[stage] + kills.orphaned[stage]:3}  {bar}")  # noqa: T201
        print("  (# worker and engine, + worker alone)")  # noqa: T201
        print(f"  packs uploaded again, and how often: {dict(sorted(kills.again.items()))}")  # noqa: T201
    assert failures == [], "\n".join(failures)
    missed = [stage for stage in STAGES if not kills.landed[stage]]
    assert len(missed) <= (0 if kills.landed.total() > KILLS else 1), missed  # few draws may leave one out
