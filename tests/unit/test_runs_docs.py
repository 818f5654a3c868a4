"""docs/runs.md is held to the code: its table of transitions, its states, its numbers."""

from __future__ import annotations

import os

import pytest

from scheduler import reaper
from shared.ledger import calls, lease, model, roll
from shared.ledger.model import RunState
from workers import presence, supervise

PAGE = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "runs.md")


@pytest.fixture
def page() -> str:
    """The page, its lines joined, so that a sentence may be broken anywhere."""
    with open(PAGE) as file:
        return " ".join(file.read().split())


def test_the_table_is_the_codes(page: str) -> None:
    """Line by line that of the model, which the tests of the ledger try cell by cell."""
    rows = [" ".join(line.split()) for line in (model.__doc__ or "").splitlines() if "|" in line]
    assert [row for row in rows if row not in page] == []


def test_every_state_is_explained(page: str) -> None:
    """Each has a row that says what it means."""
    assert [state.value for state in RunState if f"| `{state.value}` |" not in page] == []


@pytest.mark.parametrize(
    "said",
    [
        f"holds its lease for {lease.LEASE_SECONDS:.0f} s and renews it every {lease.LEASE_SECONDS / 3:.0f}",
        f"takes it for gone after {lease.LEASE_SECONDS * 2 / 3:.0f} s",
        f"after {calls.RING_AGAIN:.0f} s, doubled each time",
        f"every {calls.RING_AGAIN_AT_MOST / 60:.0f} minutes at most",
        f"After a pause: {calls.RETRY_FIRST:.0f} s, doubled with each attempt, an hour at most",
        f"given up after {model.ATTEMPTS} attempts",
        f"tried again every {reaper.AGAIN:.0f} s",
        f"{supervise.STOP_GRACE:.0f} s at most, then it is killed",
        f"{calls.REMEMBERED / 86400:.0f} days, and the last {calls.HISTORY} of each source",
        f"{calls.JOURNAL_KEPT / 86400:.0f} days at most",
        f"every {presence.BEAT:.0f} s that it is there",
        f"silent for {roll.GONE:.0f} s",
    ],
)
def test_its_numbers_are_the_codes(page: str, said: str) -> None:
    """A constant that changes must change here too."""
    assert said in page
    assert calls.RETRY_AT_MOST == 3600  # "an hour"
    assert calls.ATTEMPTS_KEPT == 10  # "the last ten"
