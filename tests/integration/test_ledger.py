"""The ledger on a real Valkey: each transition, leases by Redis's clock, slots, wipes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from shared.errors import LedgerError
from shared.ledger import model
from shared.ledger.errors import LedgerAway
from shared.ledger.lease import Lease
from shared.ledger.ledger import Ledger
from shared.ledger.model import Opened, RunKind, RunState, Word
from tests.support.ledgers import a_run, claimed, drawn_table, own_ledger, state_of
from tests.support.tools import ValkeyServer

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


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ledger, ValkeyServer]]:
    """A ledger and the server below it."""
    with own_ledger(str(tmp_path_factory.mktemp("valkey"))) as pair:
        yield pair


def in_state(ledger: Ledger, state: str) -> tuple[str, Lease]:
    """A run that was brought into a state, and the lease that brought it there (or a stranger's)."""
    request = a_run()
    lease = Lease(request.id, "stranger:1", 0.0)
    if state == "(none)":
        return request.id, lease
    ledger.open(request)
    if state == "queued":
        return request.id, lease
    lease = claimed(ledger, request.id)
    if state == "running":
        ledger.renew(lease)
    elif state == "waiting":
        ledger.cut(lease, [a_shard_of(request.id)])
    elif state != "claimed":
        ledger.finish(lease, RunState(state))
        lease = Lease(request.id, "stranger:1", 0.0)
    return request.id, lease


ACTS: dict[str, Callable[[Ledger, str, Lease], str]] = {
    "open": lambda ledger, run_id, _: ledger.open(a_run_of(run_id)).value,
    "claim": lambda ledger, run_id, _: ledger.claim(run_id, "another").word.value,
    "start": lambda ledger, _, lease: ledger.renew(lease)[0].value,
    "renew": lambda ledger, run_id, lease: ledger.renew(lease, running=state_of(ledger, run_id) == "running")[0].value,
    "release": lambda ledger, _, lease: ledger.release(lease).value,
    "cut": lambda ledger, run_id, lease: ledger.cut(lease, [a_shard_of(run_id)]).value,
    "finish": lambda ledger, _, lease: ledger.finish(lease, RunState.SUCCEEDED).value,
    "cancel": lambda ledger, run_id, _: ledger.cancel(run_id, "anna").value,
}


def a_shard_of(run_id: str) -> model.RunRequest:
    """The only shard of a run."""
    return model.RunRequest(model.shard_run_id(run_id, "plan", 0), RunKind.SHARD, "web1", queue="backup", parent=run_id)


def a_run_of(run_id: str) -> model.RunRequest:
    """A request with this id."""
    return model.RunRequest(run_id, RunKind.FULL, "web1", queue="backup")


@pytest.mark.parametrize(("state", "act", "drawn"), [row[:3] for row in drawn_table() if row[1] in ACTS])
def test_each_transition_is_as_it_is_drawn(ledger: Ledger, state: str, act: str, drawn: str) -> None:
    """The table in the documentation of the model is what the scripts do."""
    run_id, lease = in_state(ledger, state)
    answer = ACTS[act](ledger, run_id, lease)
    after = state_of(ledger, run_id)
    if drawn == "-":
        assert (answer, after) == ("unknown", "(none)")
    elif drawn in {"joined", "held", "lost", "done", "waits", "asked"}:
        assert (answer, after) == (drawn, state)
    elif drawn == "final":
        assert (answer, after) == ("finished", "succeeded")
    elif state == "failed":  # drawn as queued, after its pause
        assert (answer, after) == ("waits", "failed")
    else:
        assert after == drawn
        assert answer in {"opened", "claimed", "renewed", "released", "cut", "cancelled"}


def test_a_run_is_claimed_once(ledger: Ledger) -> None:
    """Two rings for one run: the second worker leaves at once."""
    request = a_run()
    assert ledger.open(request) is Opened.OPENED
    lease = claimed(ledger, request.id)
    assert ledger.claim(request.id, "another").word is Word.HELD
    assert ledger.claim(request.id, "me", token=lease.token).lease is not None


def test_a_lease_that_ran_out_goes_to_the_next_and_the_first_can_do_nothing(ledger: Ledger) -> None:
    """The old token is not equal to the new one: renew, release and finish say LOST and change nothing."""
    ledger.lease_seconds = SHORT
    request = a_run()
    ledger.open(request)
    old = claimed(ledger, request.id)
    time.sleep(SHORT + 0.05)
    new = claimed(ledger, request.id, "another")
    assert (old.attempt, new.attempt) == (1, 2)
    assert ledger.renew(old)[0] is Word.LOST
    assert ledger.release(old) is Word.LOST
    assert ledger.finish(old, RunState.FAILED) is Word.LOST
    assert ledger.finish(new, RunState.SUCCEEDED) is Word.FINISHED


def test_finishing_twice_is_finishing_once(ledger: Ledger) -> None:
    """An answer that was lost on the way may be asked for again; another's end is DONE."""
    request = a_run()
    ledger.open(request)
    lease = claimed(ledger, request.id)
    assert ledger.finish(lease, RunState.SUCCEEDED, result={"snapshot": "aa"}) is Word.FINISHED
    assert ledger.finish(lease, RunState.FAILED) is Word.FINISHED
    run = ledger.get(request.id)
    assert run is not None
    assert (run.state, run.result) == (RunState.SUCCEEDED, {"snapshot": "aa"})
    assert [run.id for run in ledger.recent()] == [request.id]
    assert ledger.open_runs() == []


def test_the_holder_trusts_its_lease_for_two_thirds(ledger: Ledger) -> None:
    """Counted from before the call that got it, by the holder's own clock."""
    request = a_run()
    ledger.open(request)
    lease = claimed(ledger, request.id)
    assert lease.held(lease.asked + 9.9)
    assert not lease.held(lease.asked + 10.0)


def test_a_wiped_ledger_has_another_id(ledger: Ledger) -> None:
    """Counters start again after a wipe; the ledger's id keeps an old token from being equal to a new one."""
    request = a_run()
    ledger.open(request)
    old = claimed(ledger, request.id)
    ledger.client.flushall()
    assert ledger.renew(old)[0] is Word.UNKNOWN
    ledger.open(request)
    new = claimed(ledger, request.id)
    assert old.token.split(":")[1] == new.token.split(":")[1] == "1"
    assert old.token != new.token
    assert ledger.renew(old)[0] is Word.LOST


def test_a_backup_joins_the_one_of_its_source_that_is_under_way(ledger: Ledger) -> None:
    """Decided inside Redis, so two that come at once make one; not joined are other sources, and what is over."""
    first = a_run(kind=RunKind.INCREMENTAL)
    assert ledger.open_backup(first) == (Opened.OPENED, first.id)
    assert ledger.open_backup(first) == (Opened.JOINED, first.id)
    assert ledger.open_backup(a_run()) == (Opened.JOINED, first.id)
    full = a_run()
    assert ledger.open_backup(full, joins=RunKind.FULL) == (Opened.OPENED, full.id)
    assert ledger.open_backup(a_run(), joins=RunKind.FULL) == (Opened.JOINED, full.id)
    other = a_run("db1")
    assert ledger.open_backup(other) == (Opened.OPENED, other.id)
    ledger.finish(claimed(ledger, full.id), RunState.SUCCEEDED)
    assert ledger.open_backup(a_run()) == (Opened.JOINED, first.id)
    ledger.finish(claimed(ledger, first.id), RunState.SUCCEEDED)
    later = a_run()
    assert ledger.open_backup(later) == (Opened.OPENED, later.id)
    claimed(ledger, later.id)
    ledger.cancel(later.id, "anna")
    last = a_run()
    assert ledger.open_backup(last) == (Opened.OPENED, last.id)


def test_a_failed_slot_is_opened_again_after_a_pause(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits, then it is queued again under the same id; its attempts are counted on."""
    monkeypatch.setattr("shared.ledger.ledger.RETRY_FIRST", SHORT)
    request = a_run()
    ledger.open(request)
    ledger.finish(claimed(ledger, request.id), RunState.FAILED, error="denied", exit_code=32)
    assert ledger.open(request) is Opened.WAITS
    time.sleep(SHORT + 0.05)
    assert ledger.open(request) is Opened.REOPENED
    assert claimed(ledger, request.id).attempt == 2
    assert ledger.open(request) is Opened.JOINED


def test_redis_that_is_away_is_told_from_one_that_refuses(server: tuple[Ledger, ValkeyServer]) -> None:
    """Away, full and read-only can pass and are LedgerAway; a key of the wrong type is LedgerError."""
    ledger, valkey = server
    ledger.client.set(ledger.keys.open, "what?")
    with pytest.raises(LedgerError, match="refuses") as refused:
        ledger.open(a_run())
    assert not isinstance(refused.value, LedgerAway)
    ledger.client.flushall()
    ledger.client.config_set("maxmemory", "1")
    with pytest.raises(LedgerAway, match="maxmemory"):
        ledger.open(a_run())
    valkey.kill()
    with pytest.raises(LedgerAway, match="does not answer"):
        ledger.open(a_run())
