"""`holdfast schedule` on a real ledger."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cli.main import main
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, RunKind, RunRequest, slot_text
from tests.support.fleets import SmallFleet
from tests.support.ledgers import own_ledger

NOW = datetime.now(UTC)


@pytest.fixture
def small(tmp_path: object) -> Iterator[tuple[SmallFleet, Ledger]]:
    """Four sources backed up each day: one that no site was asked for yet, three of one host."""
    with own_ledger(os.path.join(str(tmp_path), "valkey")) as (ledger, server):
        small = SmallFleet(str(tmp_path), broker=server.url)
        realm = ledger.realm("h")
        for name, days in (("good", 0), ("late", 2), ("later", 3)):
            small.add_source(name, host="h")
            slot = slot_text(NOW - timedelta(days=days))
            realm.note_evidence(name, "a", Evidence(slot, slot))
        yield small, ledger


def ask(capsys: pytest.CaptureFixture[str], small: SmallFleet, *arguments: str, code: int = 0) -> str:
    """What it says."""
    assert main(["-c", small.path, "schedule", *arguments]) == code
    said = capsys.readouterr()
    return said.out + said.err


def plan(capsys: pytest.CaptureFixture[str], small: SmallFleet, *arguments: str) -> Any:
    """The same with --json."""
    return json.loads(ask(capsys, small, *arguments, "--json"))


def test_what_is_to_come_and_what_waits(small: tuple[SmallFleet, Ledger], capsys: pytest.CaptureFixture[str]) -> None:
    """What is due now with what it waits for; of each source that is known the runs of two days, by time."""
    fleet, _ = small
    got = plan(capsys, fleet, "--hours", "48")
    assert got["held"] == [
        {"source": "late", "why": "host h has 1 of 1 runs"},
        {"source": "later", "why": "the next tick opens it"},
        {"source": "web1", "why": "the ledger does not know it: site a is asked"},
    ]
    runs = [(one["source"], one["at"] == got["from"]) for one in got["runs"]]
    assert sorted(runs) == [
        ("good", False),
        ("good", False),
        ("late", False),
        ("late", False),
        ("late", True),
        ("later", False),
        ("later", False),
        ("later", True),
    ]
    assert [one["at"] for one in got["runs"]] == sorted(one["at"] for one in got["runs"])
    assert "good  full  full: 1d" in ask(capsys, fleet)


def test_a_backup_that_is_open_is_said_to_be(
    small: tuple[SmallFleet, Ledger], capsys: pytest.CaptureFixture[str]
) -> None:
    """It serves what has passed, so the next one is that of the next slot."""
    fleet, ledger = small
    ledger.realm("h").open_backup(RunRequest("ab" * 16, RunKind.FULL, "late"))
    got = plan(capsys, fleet, "late")
    assert got["held"] == [{"source": "late", "why": "a backup of it is queued or under way"}]
    assert [one["at"] for one in got["runs"]] == [one["slot"] for one in got["runs"]]


def test_slots_that_have_passed_are_looked_back_at(
    small: tuple[SmallFleet, Ledger], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one source alone; the newest one is due and not dropped."""
    fleet, _ = small
    dropped = plan(capsys, fleet, "later", "--dropped", "--hours", "49")["dropped"]
    assert {(one["kind"], one["run"]) for one in dropped} == {("backup-full", None)}
    assert len(dropped) in {1, 2}  # by the time of the day
    assert "nothing was begun at its time" in ask(capsys, fleet, "later", "--dropped", "--hours", "49")
    assert "--dropped looks back at one source" in ask(capsys, fleet, "--dropped", code=2)
    assert 'no source "latr"' in ask(capsys, fleet, "latr", code=10)
