"""Ending a run before its time, in whatever state it is: the ledger on a real Valkey."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from shared.ledger.lease import Lease
from shared.ledger.ledger import Ledger
from shared.ledger.model import Opened, RunState, Word
from tests.support.ledgers import a_run, claimed, expire, own_ledger, state_of


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


def test_a_queued_run_is_cancelled_at_once(ledger: Ledger) -> None:
    """Nothing rings for it again; who cancelled it is kept; a second time it is done."""
    request = a_run()
    ledger.open(request)
    assert ledger.cancel(request.id, "anna") is Word.CANCELLED
    run = ledger.get(request.id)
    assert run is not None
    assert (run.state, run.cancel_by, run.error, run.exit_code) == (
        RunState.CANCELLED,
        "anna",
        "cancelled by anna",
        130,
    )
    assert (ledger.open_runs(), [run.id for run in ledger.recent()]) == ([], [request.id])
    assert ledger.cancel(request.id, "anna") is Word.DONE
    assert ledger.open(request) is Opened.DONE
    assert ledger.cancel("ab" * 16, "anna") is Word.UNKNOWN


def test_a_holder_is_told_to_cancel_and_keeps_its_lease_until_it_has(ledger: Ledger) -> None:
    """Renew answers CANCEL, and renews: nobody else may begin while it flushes."""
    request = a_run()
    ledger.open(request)
    lease = claimed(ledger, request.id)
    assert ledger.cancel(request.id, "anna") is Word.ASKED
    word, renewed = ledger.renew(lease)
    assert (word, renewed.asked > lease.asked) == (Word.CANCEL, True)
    assert ledger.claim(request.id, "another").word is Word.HELD
    assert ledger.finish(lease, RunState.CANCELLED, error="cancelled by anna") is Word.FINISHED
    assert state_of(ledger, request.id) == "cancelled"


def _release(ledger: Ledger, lease: Lease) -> object:
    return ledger.release(lease)


def _fail(ledger: Ledger, lease: Lease) -> object:
    return ledger.finish(lease, RunState.FAILED, error="denied", exit_code=32)


def _die(ledger: Ledger, lease: Lease) -> object:
    expire(ledger, lease.run_id)
    return [run.state for run in ledger.reap()]


def _die_and_be_followed(ledger: Ledger, lease: Lease) -> object:
    expire(ledger, lease.run_id)
    return ledger.claim(lease.run_id, "another").word


@pytest.mark.parametrize(
    ("end", "answer"),
    [
        (_release, Word.CANCELLED),
        (_fail, Word.FINISHED),
        (_die, [RunState.CANCELLED]),
        (_die_and_be_followed, Word.DONE),
    ],
)
def test_a_run_to_be_cancelled_is_never_rung_again(
    ledger: Ledger, end: Callable[[Ledger, Lease], object], answer: object
) -> None:
    """Whichever way its attempt ends but well, the run ends as cancelled."""
    request = a_run()
    ledger.open(request)
    lease = claimed(ledger, request.id)
    ledger.cancel(request.id, "anna")
    assert end(ledger, lease) == answer
    run = ledger.get(request.id)
    assert run is not None
    assert (run.state, run.error, run.exit_code) == (RunState.CANCELLED, "cancelled by anna", 130)
    assert ledger.open_runs() == []


def test_what_was_done_in_spite_of_a_cancel_is_not_called_cancelled(ledger: Ledger) -> None:
    """The snapshot exists, so the run succeeded; and a dead holder's run that is cancelled is over at once."""
    one, two = a_run(), a_run()
    ledger.open(one)
    lease = claimed(ledger, one.id)
    ledger.cancel(one.id, "anna")
    ledger.finish(lease, RunState.SUCCEEDED)
    assert state_of(ledger, one.id) == "succeeded"
    ledger.open(two)
    lease = claimed(ledger, two.id)
    expire(ledger, two.id)
    assert ledger.cancel(two.id, "anna") is Word.CANCELLED
    assert ledger.finish(lease, RunState.SUCCEEDED) is Word.DONE
