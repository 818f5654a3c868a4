"""What the ledger keeps beside the runs under way: history, children, the roll, evidence, journals."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from shared.ledger import model
from shared.ledger.keys import Keys
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, Opened, RunKind, RunState
from shared.ledger.roll import Roll
from tests.support.ledgers import a_run, claimed, own_ledger


@pytest.fixture(scope="module")
def shared_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """One for all tests of this module."""
    with own_ledger(str(tmp_path_factory.mktemp("valkey"))) as (ledger, _):
        yield ledger


@pytest.fixture
def ledger(shared_ledger: Ledger) -> Ledger:
    """An empty ledger."""
    shared_ledger.client.flushall()
    return shared_ledger.realm("")


def test_history_is_bounded_and_what_falls_out_is_forgotten(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newest first, per source; a failed slot that is opened again leaves it, so it can't be deleted while it runs."""
    monkeypatch.setattr("shared.ledger.calls.HISTORY", 3)
    monkeypatch.setattr("shared.ledger.ledger.RETRY_FIRST", 0.0)
    slot = a_run()
    ledger.open(slot)
    ledger.finish(claimed(ledger, slot.id), RunState.FAILED)
    assert ledger.open(slot) is Opened.REOPENED
    requests = [a_run() for _ in range(4)]
    for request in [*requests, a_run("db1")]:
        ledger.open(request)
        ledger.finish(claimed(ledger, request.id), RunState.SUCCEEDED)
    assert [run.id for run in ledger.history("web1")] == [request.id for request in reversed(requests[1:])]
    assert [run.id for run in ledger.history("web1", 1)] == [requests[3].id]
    assert ledger.get(requests[0].id) is None
    assert [run.id for run in ledger.open_runs()] == [slot.id]


def test_a_run_knows_its_parent_and_a_parent_its_children(ledger: Ledger) -> None:
    """In the order in which they were opened."""
    parent = a_run()
    ledger.open(parent)
    children = [model.RunRequest(model.new_run_id(), RunKind.VERIFY, "web1", parent=parent.id) for _ in range(3)]
    for child in children:
        ledger.open(child)
        time.sleep(0.002)
    assert [(run.id, run.parent) for run in ledger.children(parent.id)] == [(one.id, parent.id) for one in children]


def test_the_roll_knows_who_is_there_and_who_is_to_leave(ledger: Ledger) -> None:
    """A worker is told by the answer to its beat; one that left or fell silent is off."""
    roll = Roll(ledger)
    assert roll.beat("w1@h", "h", 11, ["backup", "restore"]) == ""
    assert not roll.drain("w2@h", "anna")
    assert roll.drain("w1@h", "anna")
    assert roll.beat("w1@h", "h", 11, ["backup"]) == "anna"
    (found,) = roll.workers()
    assert (found.name, found.host, found.pid, found.queues, found.drained_by) == ("w1@h", "h", 11, ("backup",), "anna")
    roll.leave("w1@h")
    assert roll.workers() == []
    roll.beat("w3@h", "h", 13, [])
    ledger.client.delete(ledger.keys.worker("w3@h"))  # as its expiry does
    assert roll.workers() == []


def test_all_that_a_host_touches_lies_under_its_prefix(ledger: Ledger) -> None:
    """An agent's ACL allows nothing else; and it sees none of the others' runs."""
    mine = ledger.realm("web1")
    request = a_run()
    mine.open(request)
    lease = claimed(mine, request.id)
    mine.renew(lease, {"files": 1})
    mine.journal_append(request.id, ["aa"])
    mine.note_evidence("web1", "a", Evidence("x", "x"))
    mine.fenced()
    mine.cancel(request.id, "anna")
    Roll(mine).beat("w1@h", "h", 11, [])
    Roll(mine).drain("w1@h", "anna")
    mine.finish(lease, RunState.SUCCEEDED)
    keys = list(ledger.client.scan_iter())
    assert keys
    assert [key for key in keys if not key.startswith("hf:h:web1:")] == []
    assert ledger.get(request.id) is None
    with pytest.raises(ValueError, match="host"):
        Keys("web1:run")


def test_evidence_only_grows(ledger: Ledger) -> None:
    """A run that ends late does not hide a newer snapshot; sites are kept apart."""
    assert ledger.evidence("web1", "a") is None
    ledger.note_evidence("web1", "a", Evidence("2026-03-04T02:00:00Z", "2026-03-01T02:00:00Z"))
    ledger.note_evidence("web1", "a", Evidence("2026-03-03T02:00:00Z"))
    assert ledger.evidence("web1", "a") == Evidence("2026-03-04T02:00:00Z", "2026-03-01T02:00:00Z")
    assert ledger.evidence("web1", "b") is None


def test_a_journal_survives_attempts_and_goes_with_success(ledger: Ledger) -> None:
    """The next attempt is told which packs are there; after the snapshot nobody needs them."""
    request = a_run()
    ledger.open(request)
    lease = claimed(ledger, request.id)
    ledger.journal_append(request.id, ["bb", "aa"])
    ledger.journal_append(request.id, ["aa"])
    ledger.release(lease)
    assert ledger.journal(request.id) == ["aa", "bb"]
    ledger.finish(claimed(ledger, request.id), RunState.SUCCEEDED)
    assert ledger.journal(request.id) == []
