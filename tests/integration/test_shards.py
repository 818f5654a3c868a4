"""Backups in shards by real workers, on a real Valkey and a directory: one snapshot, whoever dies in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from scheduler.keeper import LockKeeper
from scheduler.tick import tick
from shared.config.opening import open_repository
from shared.ledger.ledger import Ledger
from shared.ledger.model import Run, RunKind, RunRequest, RunState, Word, new_run_id
from shared.messaging import client
from shared.messaging.bell import ring
from shared.repository.absent import DOOMED
from shared.repository.locks import read_locks
from shared.repository.pack import BlobType
from shared.repository.repository import Repository
from tests.support import forked
from tests.support.backups import write
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger, until
from tests.support.quick_worker import PAUSE
from tests.support.shards import subtree
from tests.support.tools import restic
from workers.backup.run import run_backup
from workers.backup.spec import BackupSpec
from workers.specs import spec_for

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
SHARDS = 4


class Scene:
    """A pool's source that is cut in four, its ledger, and a scheduler that ticks when it is told to."""

    def __init__(self, base: str, ledger: Ledger, url: str) -> None:
        os.mkdir(base)
        self.small = SmallFleet(base, broker=url, policy="full: 52w, incremental: 52w")
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
            process = forked.Popen(
                [*command, "--pool", "big", "--concurrency", str(slots)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, PAUSE: self.pause, forked.SERVER: forked.address()},
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
        """One tick; the ids that were rung."""
        rung: list[tuple[str, str]] = []

        def bell(rings: Sequence[tuple[str, str]]) -> None:
            rung.extend(rings)
            ring(self.ledger.client, rings)

        tick(self.fleet, self.ledger, bell, lambda *_: None, datetime.now(UTC))
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

    @property
    def repository(self) -> Repository:
        """The source's repository."""
        return open_repository(self.fleet, "nas", "a").repository

    def tree_of(self, run: Run) -> str:
        """The tree of the source's folder in a run's snapshot."""
        return subtree(self.repository, str(run.result["tree"]), self.source)

    def in_one_piece(self) -> str:
        """The same of a full backup of now that is not cut."""
        request = RunRequest(new_run_id(), RunKind.FULL, "nas")
        result = run_backup(BackupSpec.from_json(spec_for(self.fleet, request)), lambda _: None)
        return subtree(self.repository, result.tree, self.source)

    def shards(self, run_id: str) -> list[Run]:
        """The shards of a run, by their numbers."""
        return sorted(self.ledger.children(run_id), key=lambda run: int(str(run.request.options["shard"])))

    def locks(self) -> list[str]:
        """The repository's locks."""
        folder = os.path.join(self.small.directory, "site", "repos", "nas", "locks")
        return os.listdir(folder) if os.path.isdir(folder) else []

    def holders(self) -> list[str]:
        """Who holds them."""
        repo = self.repository
        return [lock.hostname for lock in read_locks(repo.store, repo.load, now=repo.store.clock())]

    def keep_locks(self) -> None:
        """What the scheduler does about the locks of runs that are cut, as if a minute had passed."""
        for run_id in self.ledger.client.zrange(self.ledger.keys.cut, 0, -1):
            self.ledger.client.zadd(self.ledger.keys.cut, {run_id: 0})
        keeper = LockKeeper(self.fleet)
        keeper(self.ledger)
        keeper.wait(20)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A source that was never backed up."""
    with ExitStack() as stack:
        ledger, server = stack.enter_context(own_ledger(str(tmp_path / "valkey"), lease_seconds=2.0))
        made = Scene(str(tmp_path / "fleet"), ledger, server.url)
        stack.callback(made.close)
        yield made


def at_rest(source: str) -> None:
    """An incremental believes only what was at rest for two seconds before its parent began."""
    newest = max(os.lstat(os.path.join(top, name)).st_ctime for top, _, names in os.walk(source) for name in names)
    until(lambda: time.time() > newest + 2.1)


def test_two_workers_make_one_snapshot_as_one_would(scene: Scene) -> None:
    """A first backup and an incremental one: the tree is that of a backup in one piece, and restic finds no fault."""
    scene.worker()
    scene.worker()
    at_rest(scene.source)
    first = scene.ends(scene.open())
    assert sorted(scene.begun) == ["0", "1", "2", "3", "cut", "end"]
    assert (first.result["kind"], first.result["files_new"], first.result["shards"]) == ("full", 60, SHARDS)
    assert [shard.state for shard in scene.shards(first.id)] == [RunState.SUCCEEDED] * SHARDS
    assert scene.tree_of(first) == scene.in_one_piece()
    write(f"{scene.source}/d1/new", b"new" * 5000)
    os.unlink(f"{scene.source}/d2/e2/f2")
    second = scene.ends(scene.open())
    result = second.result
    assert [result[name] for name in ("kind", "files_new", "files_unmodified", "files_gone")] == [
        "incremental", 1, 59, 1
    ]  # fmt: skip
    assert result["bytes_read"] == 15000
    assert scene.tree_of(second) == scene.in_one_piece()
    assert "no errors were found" in scene.restic("check", "--read-data")
    assert [run.id for run in scene.ledger.history("nas") if run.result.get("shards")] == [second.id, first.id]
    scene.keep_locks()
    assert scene.locks() == []


def test_one_worker_of_one_slot_does_it_all(scene: Scene) -> None:
    """While shards are to be done the run waits and holds no slot, and its lock stands."""
    scene.worker()
    scene.hold("3")
    run_id = scene.open()
    until(lambda: "3" in scene.begun, what="a shard under way")
    assert scene.run(run_id).state is RunState.WAITING
    assert any("/shards" in lock for lock in scene.holders())
    scene.let_go("3")
    assert scene.ends(run_id).result["shards"] == SHARDS
    assert scene.locks() == []


@pytest.mark.parametrize("step", ["cut", "2", "end"])
def test_of_a_killed_worker_that_step_alone_is_done_again(scene: Scene, step: str) -> None:
    """Whoever cuts the run, does a shard, or finishes it: the others stay done, and another worker does that one."""
    scene.hold(step)
    first = scene.worker()
    run_id = scene.open()
    until(lambda: step in scene.begun, seconds=40, what=step)
    scene.kill(first)
    scene.let_go(step)
    scene.worker()
    run = scene.ends(run_id)
    counts = {one: scene.begun.count(one) for one in scene.begun}
    assert counts == {**dict.fromkeys(["cut", "0", "1", "2", "3", "end"], 1), step: 2}
    assert scene.tree_of(run) == scene.in_one_piece()


def test_what_was_doomed_meanwhile_is_stored_again(scene: Scene) -> None:
    """The shard whose tree lies in a doomed pack is done again, and no other, before the run is finished."""
    scene.worker()
    scene.hold("end")
    run_id = scene.open()
    until(lambda: "end" in scene.begun, what="all shards")
    tree = bytes.fromhex(str(scene.shards(run_id)[1].result["tree"]))
    repo = scene.repository
    listed = [one for info in repo.store.list("index/") for one in repo.load_index(info.key.rpartition("/")[2])]
    (pack,) = {pack for pack, blobs in listed for blob in blobs if (blob.type, blob.id) == (BlobType.TREE, tree)}
    repo.store.put(DOOMED + pack.hex(), b"{}")
    scene.let_go("end")
    run = scene.ends(run_id)
    assert {step: scene.begun.count(step) for step in ("0", "1", "2", "3", "end")} == {
        "0": 1, "1": 2, "2": 1, "3": 1, "end": 2
    }  # fmt: skip
    repo.store.delete(DOOMED + pack.hex())
    assert scene.tree_of(run) == scene.in_one_piece()


def test_cancelling_it_cancels_its_shards(scene: Scene) -> None:
    """Those that are queued at once, the one that is under way by its worker; the lock goes with the run."""
    scene.worker()
    scene.hold("3")
    scene.hold("2")
    run_id = scene.open()
    until(lambda: {"2", "3"} & set(scene.begun), what="a shard under way")
    assert client.cancel(scene.fleet, run_id, "anna") is Word.CANCELLED
    until(lambda: all(run.is_over for run in scene.shards(run_id)), what="the end of all shards")
    assert RunState.CANCELLED in {run.state for run in scene.shards(run_id)}
    assert scene.run(run_id).state is RunState.CANCELLED
    scene.keep_locks()
    until(lambda: scene.locks() == [], what="the last lock")
    assert "end" not in scene.begun


def test_redis_wiped_in_the_middle_leaves_one_snapshot(scene: Scene) -> None:
    """The shard under way goes on; the slot is opened again, finds that shard's plan, and has the others done anew."""
    scene.worker(slots=2)
    (run_id,) = scene.tick()
    scene.hold("1")
    until(lambda: "1" in scene.begun, what="a shard under way")
    scene.ledger.client.flushall()
    until(scene.ledger.open_runs, what="the shard in the new ledger")
    until(lambda: scene.tick() and scene.ledger.get(run_id), what="the slot")
    scene.let_go("1")
    run = scene.ends(run_id)
    assert scene.begun.count("1") == 1
    assert scene.tree_of(run) == scene.in_one_piece()
    assert len(json.loads(scene.restic("snapshots", "--json"))) == 2  # the other is the one that it was compared with


def test_a_run_fails_with_its_shard_and_goes_on_from_the_others(scene: Scene) -> None:
    """What a source leaves out was changed in between: the shard says so, the run fails, and is cut anew when tried."""
    scene.worker()
    scene.hold("0")
    (run_id,) = scene.tick()
    until(lambda: "0" in scene.begun, what="a shard under way")
    scene.ledger.cancel(scene.shards(run_id)[0].id, "anna")
    failed = scene.ends(run_id, RunState.FAILED)
    assert failed.error == "shard 1 of 4: cancelled by anna"
    scene.let_go("0")
    scene.ledger.client.hset(scene.ledger.keys.run(run_id), "retry", 0)
    until(lambda: run_id in scene.tick(), what="the next attempt")
    run = scene.ends(run_id)
    assert {step: scene.begun.count(step) for step in ("0", "1", "2", "3")} == {"0": 2, "1": 1, "2": 1, "3": 1}
    assert scene.tree_of(run) == scene.in_one_piece()
