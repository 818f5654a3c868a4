"""`holdfast up --detach`, `up --status`, `down`, and `holdfast scheduler` alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.config.fleet import Fleet
from shared.ledger.ledger import Ledger
from tests.support.command import Shop, open_shop
from tests.support.fleets import alive
from tests.support.ledgers import own_ledger, until

PARTS = ["valkey", "worker", "restore", "probes", "scheduler", "beat"]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop that is down at the end of the test, whatever has happened."""
    shop = open_shop(tmp_path)
    yield shop
    shop.run("down")


def test_up_in_the_background_and_down_again(shop: Shop) -> None:
    """It stands when the command ends, is listed with its logs, works, and leaves nothing behind."""
    assert shop.ask("up", "--status", code=1) == {"up": False, "processes": []}
    said = shop.run("up", "--detach")
    assert said.splitlines()[0].startswith("up: valkey, worker, restore, probes, scheduler, beat (process ")
    assert "stop: holdfast down" in said
    found = shop.ask("up", "--status")
    pids = [found["pid"], *(process["pid"] for process in found["processes"])]
    assert [process["name"] for process in found["processes"]] == PARTS
    assert [os.path.exists(process["log"]) for process in found["processes"]] == [True] * len(PARTS)
    assert [pid for pid in pids if not alive(pid)] == []
    assert "runs already" in shop.run("up", code=71)
    assert "holdfast down" in shop.run("up", "--detach", code=71)
    assert shop.ask("backup", "data", "--follow")["complete"] is True

    down = shop.ask("down")
    assert down["stopped"] == PARTS
    assert [pid for pid in pids if alive(pid)] == []
    assert shop.run("down") == "nothing was up here\n"


def test_down_waits_for_what_a_killed_up_has_left(shop: Shop) -> None:
    """Its children have been told to end by the kernel; until they have, nothing is said to be stopped."""
    shop.run("up", "--detach")
    found = shop.ask("up", "--status")
    os.kill(found["pid"], signal.SIGKILL)
    until(lambda: not alive(found["pid"]))
    shop.run("down")
    assert [process["name"] for process in found["processes"] if alive(process["pid"])] == []


def test_a_child_that_dies_is_told_of(shop: Shop) -> None:
    """With how often, and it is there again."""
    shop.run("up", "--detach")
    beat = shop.ask("up", "--status")["processes"][-1]
    os.kill(beat["pid"], signal.SIGKILL)

    def again() -> bool:
        now = shop.ask("up", "--status")["processes"][-1]
        return now["deaths"] == 1 and now["pid"] not in {None, beat["pid"]}

    until(again)
    assert "died 1 time of late" in shop.run("up", "--status")


def test_what_cannot_start_in_the_background_says_why(tmp_path: Path) -> None:
    """The command has the error, hint and exit code that `up` would have had on the terminal."""
    shop = open_shop(tmp_path)
    config = shop.conf / "holdfast.yaml"
    config.write_text(config.read_text() + "\nregions: {local: {broker: {file: not-there}}}\n")
    assert "not-there" in shop.run("up", "--detach", code=10)
    assert shop.ask("up", "--status", code=1)["up"] is False


def test_the_scheduler_alone_leads_and_stops(tmp_path: Path) -> None:
    """One command, two processes that log to its standard error; SIGTERM ends both."""
    with own_ledger(str(tmp_path / "valkey")) as (ledger, server):
        shop = open_shop(tmp_path)
        config = shop.conf / "holdfast.yaml"
        config.write_text(config.read_text() + f"\nregions: {{local: {{broker: '{server.url}'}}}}\n")
        scheduler = shop.start("scheduler")
        until(lambda: _opened(ledger, Fleet.load(str(config))), what="a run that is due")
        scheduler.send_signal(signal.SIGTERM)
        said, log = scheduler.communicate(timeout=40)
    assert (scheduler.returncode, said.splitlines()[-1].endswith("nothing is left running")) == (0, True)
    assert '"due"' in log


def _opened(ledger: Ledger, fleet: Fleet) -> list[str]:
    return [run.request.source for run in ledger.open_runs() if run.request.source in fleet.sources]
