"""A worker of one host alone, held by an ACL of a real Valkey to that host's keys and channels."""

from __future__ import annotations

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
from shared.ledger.ledger import Ledger
from shared.ledger.model import RunKind, RunRequest, RunState, new_run_id
from shared.messaging import client
from shared.messaging.bell import ring
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger, until

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")


class Scene:
    """What everybody else has (`small`, `ledger`), and the agent's own file, with its own user of Redis."""

    def __init__(self, small: SmallFleet, ledger: Ledger, agent_config: str) -> None:
        self.small = small
        self.ledger = ledger
        self.agent_config = agent_config

    @contextmanager
    def agent(self) -> Iterator[subprocess.Popen[bytes]]:
        """The agent, with the fake engine; killed at the end if it is there still."""
        command = [sys.executable, "-m", "tests.support.fake_worker", "--config", self.agent_config]
        with open(self.log, "ab") as log:
            process = subprocess.Popen(
                [*command, "--host", "web1", "--no-pools"], cwd=ROOT, stdout=log, stderr=log, start_new_session=True
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

    def state(self, run_id: str) -> RunState | None:
        """Where a run of the host stands."""
        run = self.ledger.realm("web1").get(run_id)
        return run.state if run else None


@pytest.fixture
def scene(tmp_path: object) -> Iterator[Scene]:
    """A source of host web1, and that host's agent."""
    directory = str(tmp_path)
    with own_ledger(os.path.join(directory, "valkey")) as (ledger, server):
        acl.set_agents(ledger.client, [("web1", "pw")])
        small = SmallFleet(directory, broker=server.url)
        agent_config = os.path.join(directory, "agent.yaml")
        with open(small.path) as file:
            text = file.read().replace("web1: {", "web1: {host: web1, ")
        for path, url in (
            (small.path, server.url),
            (agent_config, server.url.replace("//", f"//{redis_user('web1')}:pw@")),
        ):
            with open(path, "w") as file:
                file.write(text.replace(server.url, url))
        yield Scene(small, ledger, agent_config)


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
