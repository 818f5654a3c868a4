"""A worker of one host alone, held by an ACL of a real Valkey to that host's keys and channels.

Either way of running one: the agent, and a Celery worker with `--no-pools`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from shared.agents import acl
from shared.agents.identity import redis_user
from shared.ledger import sweep
from shared.ledger.ledger import Ledger
from shared.ledger.model import RunKind, RunRequest, RunState, new_run_id
from shared.messaging import client
from shared.messaging.bell import message, ring
from tests.support import forked
from tests.support.fleets import SmallFleet, alive
from tests.support.ledgers import own_ledger, until
from tests.support.tools import ValkeyServer

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")


class Scene:
    """What everybody else has (`small`, `ledger`), and the agent's own file, with its own user of Redis."""

    def __init__(self, small: SmallFleet, ledger: Ledger, server: ValkeyServer, kind: str) -> None:
        self.small = small
        self.ledger = ledger
        self.server = server
        self.agent_config = os.path.join(small.directory, "agent.yaml")
        self.copy_sources()
        self.kind = kind

    def copy_sources(self) -> None:
        """Its own file has what the fleet's has, and another user of Redis."""
        user = f"//{redis_user('web1')}:pw@"
        with open(self.small.path) as file:
            text = file.read().replace(self.server.url, self.server.url.replace("//", user))
        with open(self.agent_config, "w") as file:
            file.write(text)

    @contextmanager
    def agent(self) -> Iterator[subprocess.Popen[bytes]]:
        """The agent, with the fake engine; killed at the end if it is there still."""
        module = {"agent": ["fake_agent"], "worker": ["fake_worker", "--no-pools"]}[self.kind]
        command = [sys.executable, "-m", f"tests.support.{module[0]}", *module[1:], "--config", self.agent_config]
        with open(self.log, "ab") as log:
            process = forked.Popen(
                [*command, "--host", "web1"], cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )
        try:
            until(lambda: client.workers(self.small.fleet), what="the agent on the roll")
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @property
    def log(self) -> str:
        """What the agent said."""
        return os.path.join(self.small.directory, "agent.log")

    def denials(self) -> list[Any]:
        """What Redis refused, to anybody."""
        found: list[Any] = self.ledger.client.execute_command("ACL", "LOG")
        return found

    def attempts(self, run_id: str) -> int:
        """How often a run of the host was begun."""
        run = self.ledger.realm("web1").get(run_id)
        return run.attempt if run else 0

    def state(self, run_id: str) -> RunState | None:
        """Where a run of the host stands."""
        run = self.ledger.realm("web1").get(run_id)
        return run.state if run else None


@pytest.fixture(params=["agent", "worker"])
def scene(tmp_path: object, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A source of host web1, and that host's agent."""
    directory = str(tmp_path)
    with own_ledger(os.path.join(directory, "valkey")) as (ledger, server):
        acl.set_agents(ledger.client, [("web1", "pw")])
        small = SmallFleet(directory, broker=server.url)
        small.change("web1: {", "web1: {host: web1, ")
        yield Scene(small, ledger, server, str(request.param))


def test_an_agent_works_within_its_own_keys(scene: Scene) -> None:
    """Rung by who has no prefix, it claims, renews, finishes, and is seen; Redis refused it nothing."""
    scene.small.behave("hang", seconds=5)  # longer than its lease of three
    with scene.agent():
        (seen,) = client.workers(scene.small.fleet)
        assert seen.queues == ("host.web1", "host.web1.restore")
        run_id = client.open_and_ring(scene.small.fleet, RunKind.FULL, "web1")
        until(lambda: client.workers(scene.small.fleet)[0].runs == (run_id,), what="its claim")
        until(lambda: scene.state(run_id) is RunState.SUCCEEDED)
        run = scene.ledger.realm("web1").get(run_id)
        assert run is not None
        assert run.attempt == 1
    assert scene.denials() == []
    assert [key for key in scene.ledger.client.scan_iter() if not str(key).startswith("hf:h:web1:")] == []
    with open(scene.log) as log:
        assert "NOPERM" not in log.read()


def test_an_agent_gives_its_run_back_and_takes_it_again(scene: Scene) -> None:
    """Drained from anywhere, it rings on its own queue; the next one goes on, and is cancelled from anywhere."""
    scene.small.behave("hang", once=True)
    with scene.agent() as first:
        run_id = client.open_and_ring(scene.small.fleet, RunKind.FULL, "web1")
        until(lambda: scene.ledger.realm("web1").journal(run_id))
        client.drain(scene.small.fleet, client.workers(scene.small.fleet)[0].name, "anna")
        first.wait(30)
    assert scene.state(run_id) is RunState.QUEUED
    assert scene.ledger.client.llen("hf:h:web1:host.web1") == 1
    scene.small.behave("hang")
    with scene.agent():
        until(lambda: scene.state(run_id) is RunState.RUNNING)
        client.cancel(scene.small.fleet, run_id, "anna")
        until(lambda: scene.state(run_id) is RunState.CANCELLED)
    assert scene.denials() == []


def test_an_agent_takes_no_run_of_the_pools(scene: Scene) -> None:
    """Not even one that is rung on its own queue: it claims in its own realm alone."""
    with scene.agent():
        stray = RunRequest(new_run_id(), RunKind.FULL, "web1", queue="host.web1")
        scene.ledger.open(stray)
        ring(scene.ledger.client, [(stray.id, stray.queue)])
        run_id = client.open_and_ring(scene.small.fleet, RunKind.FULL, "web1")
        until(lambda: scene.state(run_id) is RunState.SUCCEEDED)
    left = scene.ledger.get(stray.id)
    assert left is not None
    assert left.state is RunState.QUEUED
    assert scene.denials() == []


# -- what an agent does by itself, without Celery --------------------------------------------------

alone = pytest.mark.parametrize("scene", ["agent"], indirect=True)


@alone
def test_so_many_runs_at_once_and_a_restore_besides(scene: Scene) -> None:
    """As `limits.runs` says; what is rung meanwhile waits in its queue, where another could take it."""
    scene.small.behave("hang")
    for number in (2, 3):
        scene.small.add_source(f"web{number}", host="web1")
    scene.copy_sources()
    with scene.agent():
        runs = [client.open_and_ring(scene.small.fleet, RunKind.FULL, f"web{number}") for number in (1, 2, 3)]
        until(lambda: [scene.state(run) for run in runs].count(RunState.RUNNING) == 2)
        (waiting,) = [run for run in runs if scene.state(run) is not RunState.RUNNING]
        assert scene.state(waiting) is RunState.QUEUED
        assert scene.ledger.client.llen("hf:h:web1:host.web1") == 1
        restore = client.open_and_ring(scene.small.fleet, RunKind.RESTORE, "web1", host="web1")
        # The fake engine can't restore; that it has tried is enough.
        until(lambda: scene.attempts(restore), what="the restore, beside both backups")
        assert [scene.state(run) for run in runs].count(RunState.RUNNING) == 2
        owners = {run.owner for run in scene.ledger.realm("web1").open_runs() if run.id in runs and run.owner}
        assert len(owners) == 2
        client.cancel(scene.small.fleet, next(run for run in runs if run != waiting), "anna")
        until(lambda: scene.state(waiting) is RunState.RUNNING, what="the one that waited")


@alone
def test_a_ring_that_comes_twice_is_one_run(scene: Scene) -> None:
    """Both slots hear it, and one has the lease."""
    scene.small.behave("hang", seconds=2)
    with scene.agent():
        run_id = client.open_and_ring(scene.small.fleet, RunKind.FULL, "web1")
        ring(scene.ledger.client, [(run_id, "host.web1")] * 3)
        until(lambda: scene.state(run_id) is RunState.SUCCEEDED)
        until(lambda: not scene.ledger.client.exists("hf:h:web1:host.web1"), what="all rings heard")
    assert len(scene.small.starts) == 1


@alone
def test_what_is_no_ring_ends_no_agent(scene: Scene) -> None:
    """It lies in the queue before one that is; all are taken, and that one is followed."""
    good = message("0" * 32, "host.web1")
    for junk in ("", "{", "[]", "null", '{"headers": 1}', "x" * 100_000, good.replace("holdfast.run", "other.task")):
        scene.ledger.client.lpush("hf:h:web1:host.web1", junk)
    with scene.agent():
        run_id = client.open_and_ring(scene.small.fleet, RunKind.FULL, "web1")
        until(lambda: scene.state(run_id) is RunState.SUCCEEDED)
    with open(scene.log) as log:
        assert "Traceback" not in log.read()


@alone
def test_a_killed_agent_leaves_no_engine_and_its_run_goes_on_with_the_next(scene: Scene) -> None:
    """SIGKILL: the engine ends with its pipe, the lease runs out, the reaper rings."""
    scene.small.behave("hang", once=True)
    with scene.agent() as first:
        run_id = client.open_and_ring(scene.small.fleet, RunKind.FULL, "web1")
        until(lambda: scene.state(run_id) is RunState.RUNNING)
        (engine,) = [start["pid"] for start in scene.small.starts]
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        until(lambda: not alive(engine), what="the end of the engine")
    with scene.agent():

        def reaped() -> bool:
            for run in sweep.reap(scene.ledger, ["web1"]).runs:
                ring(scene.ledger.client, [(run.id, run.request.queue)])
            return scene.state(run_id) is RunState.SUCCEEDED

        until(reaped, seconds=30)


@alone
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_an_idle_agent_at_once(scene: Scene, how: signal.Signals) -> None:
    """With exit code 0, off the roll, and nothing said of it in the log but that it was ready."""
    with scene.agent() as process:
        os.kill(process.pid, how)
        assert process.wait(20) == 0
        assert client.workers(scene.small.fleet) == []
    with open(scene.log) as log:
        assert [json.loads(line)["event"] for line in log] == ["agent ready"]


@alone
def test_redis_goes_away_and_comes_back(scene: Scene) -> None:
    """The backup under way goes on; rings are heard again by itself."""
    scene.small.behave("hang", seconds=6)
    with scene.agent() as process:
        run_id = client.open_and_ring(scene.small.fleet, RunKind.FULL, "web1")
        until(lambda: scene.state(run_id) is RunState.RUNNING)
        scene.server.kill()
        scene.server.start()
        acl.set_agents(scene.ledger.client, [("web1", "pw")])
        until(lambda: scene.state(run_id) is RunState.SUCCEEDED, seconds=40, what="the run, noted again")
        scene.small.behave("done")
        again = client.open_and_ring(scene.small.fleet, RunKind.FULL, "web1")
        until(lambda: scene.state(again) is RunState.SUCCEEDED, seconds=40, what="another one")
        assert process.poll() is None
    assert len(scene.small.starts) == 2
