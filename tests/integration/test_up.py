"""`holdfast up`: Valkey, scheduler and worker from nothing, kept alive, and stopped without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")


class Up:
    """A running `up`, in a process of its own."""

    def __init__(self, small: SmallFleet) -> None:
        self.small = small
        command = [sys.executable, "-m", "tests.support.fake_up", small.path]
        self.said_path = os.path.join(small.directory, "said")
        with open(self.said_path, "ab") as said:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, start_new_session=True)

    @property
    def said(self) -> str:
        """What the terminal shows."""
        with open(self.said_path) as file:
            return file.read()

    def children(self) -> dict[str, int]:
        """Its own children that do something, by what they are."""
        found = {}
        for pid in descendants(self.process.pid):
            try:
                with open(f"/proc/{pid}/cmdline") as file:
                    line = file.read()
                mine = parent_of(pid) == self.process.pid
            except (FileNotFoundError, ProcessLookupError):
                continue
            for name in ("valkey-server", "fake_worker", "beat", "scheduler\0worker"):
                if name in line and mine:
                    found[name] = pid
        return found


def parent_of(pid: int) -> int:
    """The parent of a process."""
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def descendants(top: int) -> list[int]:
    """All processes below one."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = parent_of(int(name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    below = [top]
    for pid in below:
        below += [child for child, parent in parents.items() if parent == pid]
    return below[1:]


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

    before = until(lambda: found if len(found := up.children()) == 4 else None)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(set(up.children().values()) - set(before.values())) == 4, what="all of it again")
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
    until(lambda: up.children().get("valkey-server"))
    second = Up(up.small)
    assert second.process.wait(20) == 1
    assert "runs already" in second.said


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
        assert sorted(up.children()) == ["beat", "fake_worker", "scheduler\0worker"]
        up.process.terminate()
        assert up.process.wait(40) == 0
        assert len(succeeded(ledger)) == 1
