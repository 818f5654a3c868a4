"""A worker that is frozen past its lease and wakes up; one whose clock is an hour off. Real processes, short leases."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shared.ledger.ledger import Ledger
from shared.ledger.model import Run, RunKind, RunState
from shared.messaging.bell import ring
from shared.messaging.client import open_and_ring
from tests.support import forked
from tests.support.command import Shop, environment, open_shop
from tests.support.fleets import SmallFleet, alive
from tests.support.ledgers import own_ledger, until

ROOT = Path(__file__).parents[2]
LEASE = 0.9  # seconds
HOUR = 3600.0
# In every Python process below: its clock, and not the one that leases are counted by.
OFF = """
import os, time
off, now, now_ns = float(os.environ["TEST_CLOCK_OFF"]), time.time, time.time_ns
time.time, time.time_ns = lambda: now() + off, lambda: now_ns() + int(off * 1e9)
"""


class Scene:
    """A fleet, its ledger, and the workers of a test."""

    def __init__(self, small: SmallFleet, ledger: Ledger, stack: ExitStack) -> None:
        self.small = small
        self.ledger = ledger
        self._stack = stack

    def worker(self, **more: str) -> subprocess.Popen[bytes]:
        """Start one, with this in its environment."""
        command = [sys.executable, "-m", "tests.support.fake_worker", "--config", self.small.path]
        log = self._stack.enter_context((Path(self.small.directory) / "log").open("ab"))
        settings = {**environment(), "HOLDFAST_TEST_LEASE": str(LEASE), **more}
        process = forked.Popen(command, cwd=ROOT, env=settings, stdout=log, stderr=log, start_new_session=True)
        self._stack.callback(process.wait, 40)
        self._stack.callback(process.terminate)
        return process

    def run(self, run_id: str) -> Run:
        """A run."""
        run = self.ledger.get(run_id)
        assert run is not None
        return run

    def reap(self) -> bool:
        """What a scheduler does at each tick; whether a run was rung for."""
        runs = self.ledger.reap()
        ring(self.ledger.client, [(run.id, run.request.queue) for run in runs])
        return bool(runs)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Nothing runs yet."""
    with own_ledger(str(tmp_path / "valkey"), lease_seconds=LEASE) as (ledger, server), ExitStack() as stack:
        yield Scene(SmallFleet(str(tmp_path), broker=server.url), ledger, stack)


def test_a_worker_that_was_frozen_past_its_lease_leaves_the_run_to_the_next(scene: Scene) -> None:
    """It wakes up, hears that it has lost the lease, ends its engine, writes nothing, and takes the next run."""
    scene.small.behave("hang", seconds=3600)
    first = scene.worker()
    run_id = open_and_ring(scene.small.fleet, RunKind.FULL, "web1")
    until(lambda: scene.ledger.journal(run_id), what="the engine")
    frozen = int(str(scene.small.starts[0]["pid"]))
    for group in (first.pid, frozen):
        os.killpg(group, signal.SIGSTOP)
    scene.small.behave("done")
    until(scene.reap, what="the end of the lease")
    second = scene.worker()
    # A ring may have gone to the frozen one, whose connection waited for it: then the reaper rings again.
    until(lambda: (scene.reap(), scene.run(run_id).is_over)[1], seconds=60, what="the second worker")
    ended = scene.run(run_id)
    assert ended.state is RunState.SUCCEEDED
    for group in (first.pid, frozen):
        os.killpg(group, signal.SIGCONT)
    until(lambda: not alive(frozen), what="the end of the first engine")
    assert scene.run(run_id) == ended
    assert [(one.number, one.error) for one in ended.attempts] == [(1, "its worker stopped answering"), (2, "")]
    assert f"worker-{second.pid}@" in ended.owner
    second.terminate()
    second.wait(40)
    again = open_and_ring(scene.small.fleet, RunKind.FULL, "web1")
    until(lambda: scene.run(again).state is RunState.SUCCEEDED, what="the first worker")
    assert (f"worker-{first.pid}@" in scene.run(again).owner, len(scene.small.starts)) == (True, 3)


@pytest.mark.parametrize("off", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_a_clock_that_is_an_hour_off_costs_no_lease(scene: Scene, tmp_path: Path, off: float) -> None:
    """Leases and slots are counted by Redis's clock and by that of the time since boot: one attempt, the right slot."""
    (tmp_path / "sitecustomize.py").write_text(OFF)
    scene.small.behave("hang", seconds=2 * LEASE)
    scene.worker(PYTHONPATH=f"{tmp_path}:{ROOT}", TEST_CLOCK_OFF=str(off))
    run_id = open_and_ring(scene.small.fleet, RunKind.FULL, "web1")
    until(lambda: scene.reap() or scene.run(run_id).is_over, what="its end")
    run = scene.run(run_id)
    assert (run.state, [one.error for one in run.attempts]) == (RunState.SUCCEEDED, [""])
    evidence = scene.ledger.evidence("web1", "a")
    assert evidence is not None
    assert scene.small.starts[0]["slot"] == evidence.last
    assert run.opened - 1 <= run.started <= run.ended < run.opened + 30


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A shop beside a clock that is off."""
    (tmp_path / "sitecustomize.py").write_text(OFF)
    return open_shop(tmp_path)


@pytest.mark.parametrize("off", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_backups_by_two_clocks_miss_no_change(shop: Shop, monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    """A host whose clock is set right, or wrong, between two incrementals: what has changed is read."""
    path = shop.data / "sub/file-3.txt"

    def backup(content: str, *, wrong: bool) -> int:
        path.write_text(content)
        with monkeypatch.context() as patched:
            if wrong:
                patched.setattr("tests.support.command.ROOT", f"{shop.base}:{ROOT}")
                patched.setenv("TEST_CLOCK_OFF", str(off))
            changed: int = shop.ask("backup", "data", "--direct")["files_changed"]
        return changed

    assert [backup("one", wrong=True), backup("two", wrong=False), backup("six", wrong=True)] == [0, 1, 1]
    shop.run("restore", f"data:{path}", "--direct", "--to", "back")
    assert (shop.conf / "back/file-3.txt").read_text() == "six"
    assert "whole: no errors were found" in shop.run("verify", "data", "--data", "--direct")
