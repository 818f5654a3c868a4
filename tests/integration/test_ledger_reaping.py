"""The reaper's side of the ledger on a real Valkey: who died, who was never claimed, fences, giving up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from shared.ledger.ledger import Ledger
from shared.ledger.model import ATTEMPTS, Opened, RunState, Word
from tests.support.ledgers import a_run, claimed, expire, own_ledger

SHORT = 0.15  # seconds of a lease that a test lets run out


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


def test_the_reaper_rings_for_a_run_whose_worker_died(ledger: Ledger) -> None:
    """Once its lease ran out, and then not again before the ring had time to be followed."""
    ledger.lease_seconds = SHORT
    request = a_run()
    ledger.open(request)
    claimed(ledger, request.id)
    assert ledger.reap() == []
    time.sleep(SHORT + 0.05)
    (run,) = ledger.reap()
    assert (run.id, run.state, run.error) == (request.id, RunState.QUEUED, "its worker stopped answering")
    assert ledger.reap() == []
    assert claimed(ledger, request.id).attempt == 2


def test_leases_that_ran_out_while_nobody_looked_are_spared_for_a_lease(ledger: Ledger) -> None:
    """Redis was stopped for a minute: its holders could not renew, and must not lose their runs for that."""
    ledger.lease_seconds = SHORT
    request = a_run()
    ledger.open(request)
    lease = claimed(ledger, request.id)
    assert ledger.reap() == []
    looked = int(ledger.client.hget(ledger.keys.pulse, "at") or 0)
    ledger.client.hset(ledger.keys.pulse, "at", str(looked - 60_000))
    time.sleep(SHORT + 0.05)
    assert ledger.reap() == []
    assert ledger.renew(lease)[0] is Word.RENEWED
    time.sleep(2 * SHORT)
    (run,) = ledger.reap()
    assert (run.id, run.state) == (request.id, RunState.QUEUED)


def test_runs_that_were_never_claimed_are_rung_for_though_nobody_looked_for_long(ledger: Ledger) -> None:
    """No holder can lose them."""
    request = a_run()
    ledger.open(request, ring_again=0)
    ledger.client.hset(ledger.keys.pulse, "at", "1")
    assert [run.id for run in ledger.reap()] == [request.id]


def test_the_reaper_rings_for_a_run_that_was_never_claimed(ledger: Ledger) -> None:
    """A ring was lost: it is repeated, less and less often."""
    request = a_run()
    ledger.open(request, ring_again=SHORT)
    assert ledger.reap() == []
    time.sleep(SHORT + 0.05)
    (run,) = ledger.reap()
    assert (run.id, run.rings) == (request.id, 2)
    assert ledger.reap() == []


def test_each_attempt_is_kept_with_its_error(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that died, one that crashed, one that was given back, one that ended it; the newest ten of a long row."""
    monkeypatch.setattr("shared.ledger.ledger.RETRY_FIRST", 0.0)
    request = a_run()
    ledger.open(request)
    claimed(ledger, request.id, "a:1")
    expire(ledger, request.id)
    ledger.reap()
    ledger.release(claimed(ledger, request.id, "b:2"), error="no word: caf\udce9")
    ledger.release(claimed(ledger, request.id, "c:3"))
    ledger.finish(claimed(ledger, request.id, "d:4"), RunState.FAILED, error="denied")
    run = ledger.get(request.id)
    assert run is not None
    assert [(one.number, one.owner, one.error) for one in run.attempts] == [
        (1, "a:1", "its worker stopped answering"),
        (2, "b:2", "no word: caf\\udce9"),
        (3, "c:3", ""),
        (4, "d:4", "denied"),
    ]
    assert all(one.started <= one.ended for one in run.attempts)
    ledger.open(request)
    for _ in range(10):
        ledger.release(claimed(ledger, request.id, "e:5"))
    run = ledger.get(request.id)
    assert run is not None
    assert [one.number for one in run.attempts] == list(range(5, 15))


def test_a_run_whose_workers_keep_dying_is_given_up(ledger: Ledger) -> None:
    """After so many deaths, not counting workers that gave it back; it says so, and its slot waits as a failed one."""
    request = replace(a_run(), attempts=3)
    ledger.open(request)
    for _ in range(3):
        ledger.release(claimed(ledger, request.id))
    for number in range(1, 4):
        lease = claimed(ledger, request.id)
        assert lease.deaths == number - 1
        expire(ledger, request.id)
        (run,) = ledger.reap()
    assert (run.state, run.error, run.attempt) == (
        RunState.FAILED,
        "given up after 3 attempts; the last: its worker stopped answering",
        6,
    )
    assert ledger.open(request) is Opened.WAITS
    assert ledger.open_runs() == []


def test_how_often_a_run_may_die_travels_with_it(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that says nothing may die five times; a slot that is opened again is what its policy says by then."""
    monkeypatch.setattr("shared.ledger.calls.RETRY_FIRST", 0.0)
    monkeypatch.setattr("shared.ledger.ledger.RETRY_FIRST", 0.0)
    usual, once = a_run("web1"), replace(a_run("web2"), attempts=1)
    for request in (usual, once):
        ledger.open(request)
        claimed(ledger, request.id)
        expire(ledger, request.id)
    assert {run.id: run.state for run in ledger.reap()} == {usual.id: RunState.QUEUED, once.id: RunState.FAILED}
    got = [run.request.attempts for request in (usual, once) if (run := ledger.get(request.id))]
    assert got == [ATTEMPTS, 1] == [5, 1]
    assert ledger.client.hget(ledger.keys.run(usual.id), "tries") is None
    for attempts in (2, ATTEMPTS):
        assert ledger.open(replace(once, attempts=attempts)) is Opened.REOPENED
        run = ledger.get(once.id)
        assert run is not None
        assert run.request.attempts == attempts
        ledger.finish(claimed(ledger, once.id), RunState.FAILED)


def test_a_fence_is_noted_until_it_is_dealt_with(ledger: Ledger) -> None:
    """Also that of a claim that found the lease run out; a later fence of the same run stays."""
    request = a_run()
    ledger.open(request)
    claimed(ledger, request.id)
    assert ledger.fenced() == []
    expire(ledger, request.id)
    claimed(ledger, request.id, "another")
    (first,) = ledger.fenced()
    assert (first.run_id, first.pid, 0 <= first.since < 60) == (request.id, 0, True)
    time.sleep(0.002)
    expire(ledger, request.id)
    ledger.reap()
    ledger.unfence(first)
    (later,) = ledger.fenced()
    assert later.at > first.at
    ledger.lock_left(request.id, 4711)
    ledger.unfence(later)
    (killed,) = ledger.fenced()  # that of an engine stands beside
    assert (killed.run_id, killed.pid) == (request.id, 4711)
    ledger.unfence(killed)
    assert ledger.fenced() == []
