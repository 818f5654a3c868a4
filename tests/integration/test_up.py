"""`holdfast up`: Valkey, scheduler and worker from nothing, kept alive, and stopped without a trace."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from shared.config.fleet import Fleet
from shared.ledger.errors import LedgerAway
from shared.ledger.ledger import Ledger
from shared.ledger.model import RunKind, RunState
from shared.messaging.broker import embedded_socket
from shared.messaging.client import ledger_of, open_and_ring
from tests.support.fleets import SmallFleet, alive
from tests.support.ledgers import own_ledger, until
from tests.support.ups import Up, descendants


@pytest.fixture
def up(tmp_path: object) -> Iterator[Up]:
    """`up` on a fleet that wants a full backup, once a day."""
    up = Up(SmallFleet(str(tmp_path)))
    yield up
    up.process.terminate()
    up.process.wait(40)


def succeeded(ledger: Ledger) -> list[str]:
    """The runs that ended well."""
    return [run.id for run in ledger.recent() if run.state is RunState.SUCCEEDED]


def rung(fleet: Fleet) -> str | None:
    """The id of a run by hand; None while Redis is away."""
    try:
        return open_and_ring(fleet, RunKind.INCREMENTAL, "web1")
    except LedgerAway:
        return None


def test_from_nothing_to_a_backup_and_back_to_nothing(up: Up) -> None:
    """The first backup comes by itself; children that are killed come back; SIGTERM ends all; data are private."""
    ledger = ledger_of(up.small.fleet)
    until(lambda: "succeeded" in up.said, what="the first backup")
    assert len(succeeded(ledger)) == 1

    before = until(lambda: found if len(found := up.children()) == 5 else None)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(set(up.children().values()) - set(before.values())) == 5, what="all of it again")
    by_hand = until(lambda: rung(up.small.fleet), what="Valkey")
    until(lambda: len(succeeded(ledger)) == 2, what="the backup by hand")
    assert succeeded(ledger)[0] == by_hand  # and the first one was kept: Valkey's log is on disk

    everything = descendants(up.process.pid)
    socket = embedded_socket(up.small.state_dir)
    assert os.stat(os.path.dirname(socket)).st_mode & 0o077 == 0
    up.process.terminate()
    assert up.process.wait(40) == 0
    assert [pid for pid in everything if alive(pid)] == []
    assert "nothing is left running" in up.said
    assert not os.path.exists(socket)
    ledger.client.close()


def test_a_second_up_says_that_there_is_one(up: Up) -> None:
    """Two on one state directory would share a Valkey's files."""
    until(lambda: up.children().get("valkey"))
    second = Up(up.small)
    assert second.process.wait(20) == 1
    assert "runs already" in second.said


def test_a_terminal_that_goes_away_ends_it_cleanly(up: Up) -> None:
    """SIGHUP, as the kernel sends it then, is a request to stop like any other."""
    until(lambda: "succeeded" in up.said, what="the first backup")
    everything = descendants(up.process.pid)
    up.process.send_signal(signal.SIGHUP)
    assert up.process.wait(40) == 0
    assert [pid for pid in everything if alive(pid)] == []


def test_should_it_be_killed_outright_its_children_end(up: Up) -> None:
    """SIGKILL to `up` itself: the kernel tells the children, and they stop cleanly."""
    until(lambda: "succeeded" in up.said)
    everything = descendants(up.process.pid)
    up.process.kill()
    up.process.wait()
    until(lambda: not [pid for pid in everything if alive(pid)], what="their end")


def test_a_redis_that_is_named_is_used(tmp_path: object) -> None:
    """With a broker in the configuration no Valkey is started, and that one is left running."""
    with own_ledger(os.path.join(str(tmp_path), "valkey")) as (ledger, server):
        up = Up(SmallFleet(str(tmp_path), broker=server.url))
        until(lambda: "succeeded" in up.said, what="the first backup")
        assert sorted(up.children()) == ["beat", "restore", "scheduler", "worker"]
        up.process.terminate()
        assert up.process.wait(40) == 0
        assert len(succeeded(ledger)) == 1
