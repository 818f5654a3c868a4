"""A worker of a supervised group that is drained stays away until all of it is started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from shared.messaging import client
from shared.messaging.names import BACKUP, RESTORE
from tests.support.fleets import SmallFleet, alive
from tests.support.ledgers import until
from tests.support.ups import Up
from workers.standing import look


@pytest.fixture
def up(tmp_path: object) -> Iterator[Up]:
    """`up`, with both workers on the roll."""
    up = Up(SmallFleet(str(tmp_path)))
    try:
        until(lambda: "web1  backup-full  succeeded" in up.said, what="the first backup")
        until(lambda: len(client.workers(up.small.fleet)) == 2, what="both workers")
        yield up
    finally:
        up.stop()


def listed(up: Up) -> dict[str, tuple[bool, str]]:
    """What the list of `up` says of each: whether it has a process, and why not."""
    standing = look(up.small.state_dir)
    assert standing is not None
    return {member.name: (member.pid > 0, member.note) for member in standing.members}


def test_each_kind_of_worker_has_a_name_and_queues_of_its_own(up: Up) -> None:
    """One takes all, and the other restores alone: a restore need not wait behind backups."""
    there = {one.name.partition("-")[0]: one for one in client.workers(up.small.fleet)}
    assert sorted(there) == ["restore", "worker"]
    assert there["restore"].queues == (RESTORE,)
    assert (BACKUP in there["worker"].queues, RESTORE in there["worker"].queues) == (True, True)
    assert {name: one.pid for name, one in there.items()} == {name: up.children()[name] for name in there}


def test_a_drained_worker_stays_away_and_one_that_is_killed_does_not(up: Up) -> None:
    """It is told apart by its exit code; the list says that it was drained."""
    before = up.children()
    (worker,) = (one.name for one in client.workers(up.small.fleet) if one.name.startswith("worker-"))
    client.drain(up.small.fleet, worker, "anna")
    until(lambda: "worker was drained and stays away" in up.said, what="its end", seconds=40)
    assert not alive(before["worker"])
    os.kill(before["restore"], signal.SIGKILL)
    until(lambda: "restore started again" in up.said, what="the one that was killed")
    until(lambda: listed(up)["worker"] == (False, "drained"), what="that it is listed as drained")
    until(lambda: listed(up)["restore"] == (True, ""), what="the other one in the list")

    up.small.change("sources: {", f"sources: {{nas: {{pool: dc1, paths: [{up.small.source_dir}]}}, ")
    until(lambda: "restore is started anew" in up.said, what="a change that concerns both workers")
    assert "worker" not in up.children()
