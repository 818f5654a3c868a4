"""Backups in shards by real workers, on a real Valkey and a directory: one snapshot, whoever dies in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scheduler.keeper import LockKeeper
from scheduler.tick import tick
from shared.ledger.ledger import Ledger
from shared.ledger.model import Run, RunKind, RunState
from shared.messaging import client
from shared.messaging.bell import ring
from tests.support.backups import write
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger, until
from tests.support.quick_worker import PAUSE
from tests.support.tools import restic

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
SHARDS = 4


class Scene:
    """A pool's source that is cut in four, its ledger, and a scheduler that ticks when it is told to."""

    def __init__(self, base: str, ledger: Ledger, url: str) -> None:
        self.small = SmallFleet(base, broker=url)
        self.small.change("web1: {paths", f"nas: {{pool: big, shards: {SHARDS}, paths")
        self.fleet = self.small.fleet
        self.ledger = ledger
        self.pause = os.path.join(base, "pause")
        os.mkdir(self.pause)
        self.source = self.small.source_dir
        os.unlink(os.path.join(self.source, "engine.json"))
        for number in range(60):
            write(f"{self.source}/d{number % 6}/e{number % 4}/f{number}", os.urandom(2000 + 300 * number))
        self._processes: list[subprocess.Popen[bytes]] = []

    def worker(self, slots: int = 1) -> subprocess.Popen[bytes]:
        """A worker of the pool, in a process group of its own."""
        command = [sys.executable, "-m", "tests.support.quick_worker", "--config", self.small.path]
        with open(os.path.join(self.small.directory, "worker.log"), "ab") as log:
            process = subprocess.Popen(
                [*command, "--pool", "big", "--concurrency", str(slots)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, PAUSE: self.pause},
            )
        self._processes.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL to a worker and its pool, as when a machine dies."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        """End all workers."""
        for process in self._processes:
            self.kill(process)

    def tick(self) -> list[str]:
        """One tick at noon; the ids that were rung."""
        rung: list[tuple[str, str]] = []

        def bell(rings: Sequence[tuple[str, str]]) -> None:
            rung.extend(rings)
            ring(self.ledger.client, rings)

        tick(self.fleet, self.ledger, bell, lambda *_: None, NOON)
        return [run_id for run_id, _ in rung]

    def open(self, kind: RunKind = RunKind.INCREMENTAL) -> str:
        """A run that somebody asks for."""
        return client.open_and_ring(self.fleet, kind, "nas")

    def run(self, run_id: str) -> Run:
        """A run as it is now."""
        run = self.ledger.get(run_id)
        assert run is not None
        return run

    def ends(self, run_id: str, state: RunState = RunState.SUCCEEDED) -> Run:
        """The run, once it has ended as it should; the scheduler ticks meanwhile."""

        def look() -> Run | None:
            self.tick()
            run = self.run(run_id)
            return run if run.is_over else None

        run = until(look, seconds=40, what="the end of the run")
        assert run.state is state, run
        return run

    def hold(self, step: str) -> None:
        """Hold up an engine: "cut", "end" or a shard's number."""
        Path(self.pause, step).touch()

    def let_go(self, step: str) -> None:
        """Let it go on."""
        os.unlink(os.path.join(self.pause, step))

    @property
    def begun(self) -> list[str]:
        """The engines that were started."""
        try:
            return Path(self.pause, "begun").read_text().split()
        except FileNotFoundError:
            return []

    def restic(self, *arguments: str) -> str:
        """What stock restic says of the repository."""
        repository = os.path.join(self.small.directory, "site", "repos", "nas")
        password = self.fleet.machine_password("nas")
        command = [restic("0.18"), "-r", repository, "--no-cache", *arguments]
        done = subprocess.run(
            command, env={"PATH": os.environ["PATH"], "RESTIC_PASSWORD": password}, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def tree_of(self, snapshot: object) -> str:
        """The tree of the source's folder in a snapshot: those above it change with what else is there."""
        said = self.restic("ls", "--json", str(snapshot), os.path.dirname(self.source))
        nodes = [json.loads(line) for line in said.splitlines()]
        return next(node["subtree"] for node in nodes if node.get("path") == self.source) if False else said

    def locks(self) -> list[str]:
        """The repository's locks."""
        return os.listdir(os.path.join(self.small.directory, "site", "repos", "nas", "locks"))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A source that was never backed up."""
    with ExitStack() as stack:
        ledger, server = stack.enter_context(own_ledger(str(tmp_path / "valkey"), lease_seconds=2.0))
        made = Scene(str(tmp_path / "fleet") if os.mkdir(tmp_path / "fleet") is None else "", ledger, server.url)
        stack.callback(made.close)
        yield made


def test_two_workers_make_one_snapshot(scene: Scene) -> None:
    """Four shards."""
    scene.worker()
    scene.worker()
    run = scene.ends(scene.open())
    print(run.result, scene.begun)
    scene.restic("check", "--read-data")
    assert len(scene.restic("snapshots", "--json")) > 5
    LockKeeper(scene.fleet)
