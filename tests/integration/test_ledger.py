"""The ledger on a real Valkey: each transition, leases by Redis's clock, the reaper, wipes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from shared.errors import LedgerError
from shared.ledger import model
from shared.ledger.errors import LedgerAway
from shared.ledger.keys import Keys
from shared.ledger.lease import Lease
from shared.ledger.ledger import Ledger
from shared.ledger.model import Evidence, Opened, RunKind, RunState, Word
from shared.ledger.roll import Roll
from tests.support.ledgers import a_run, drawn_table, own_ledger
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
    elif state != "claimed":
        ledger.finish(lease, RunState(state))
        lease = Lease(request.id, "stranger:1", 0.0)
    return request.id, lease


def claimed(ledger: Ledger, run_id: str, owner: str = "me", token: str = "") -> Lease:
    """The lease of a run that can be claimed."""
    claim = ledger.claim(run_id, owner, token=token)
    assert claim.lease is not None, claim.word
    return claim.lease


def state_of(ledger: Ledger, run_id: str) -> str:
    """The state of a run."""
    run = ledger.get(run_id)
    return run.state.value if run else "(none)"


ACTS: dict[str, Callable[[Ledger, str, Lease], str]] = {
    "open": lambda ledger, run_id, _: ledger.open(a_run_of(run_id)).value,
    "claim": lambda ledger, run_id, _: ledger.claim(run_id, "another").word.value,
    "start": lambda ledger, _, lease: ledger.renew(lease)[0].value,
    "renew": lambda ledger, run_id, lease: ledger.renew(lease, running=state_of(ledger, run_id) == "running")[0].value,
    "release": lambda ledger, _, lease: ledger.release(lease).value,
    "finish": lambda ledger, _, lease: ledger.finish(lease, RunState.SUCCEEDED).value,
    "cancel": lambda ledger, run_id, _: ledger.cancel(run_id, "anna").value,
}


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
        assert answer in {"opened", "claimed", "renewed", "released", "cancelled"}


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


def expire(ledger: Ledger, run_id: str) -> None:
    """As if nobody had renewed the lease for long."""
    ledger.client.hset(ledger.keys.run(run_id), "lease", 0)
    ledger.client.zadd(ledger.keys.open, {run_id: 0})


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
    request = a_run()
    ledger.open(request)
    for _ in range(3):
        ledger.release(claimed(ledger, request.id))
    for number in range(1, 4):
        lease = claimed(ledger, request.id)
        assert lease.deaths == number - 1
        expire(ledger, request.id)
        (run,) = ledger.reap(attempts=3)
    assert (run.state, run.error, run.attempt) == (
        RunState.FAILED,
        "given up after 3 attempts; the last: its worker stopped answering",
        6,
    )
    assert ledger.open(request) is Opened.WAITS
    assert ledger.open_runs() == []


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


def test_a_fence_is_noted_until_it_is_dealt_with(ledger: Ledger) -> None:
    """Also that of a claim that found the lease run out; a later fence of the same run stays."""
    request = a_run()
    ledger.open(request)
    claimed(ledger, request.id)
    assert ledger.fenced() == []
    expire(ledger, request.id)
    claimed(ledger, request.id, "another")
    ((run_id, at, age),) = ledger.fenced()
    assert (run_id, 0 <= age < 60) == (request.id, True)
    time.sleep(0.002)
    expire(ledger, request.id)
    ledger.reap()
    ledger.unfence(request.id, at)
    ((_, later, _),) = ledger.fenced()
    assert later > at
    ledger.unfence(request.id, later)
    assert ledger.fenced() == []


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


def test_redis_that_is_away_is_told_from_one_that_refuses(server: tuple[Ledger, ValkeyServer]) -> None:
    """Away, full and read-only can pass and are LedgerAway; a key of the wrong type is LedgerError."""
    ledger, valkey = server
    ledger.client.set(ledger.keys.open, "what?")
    with pytest.raises(LedgerError, match="refuses") as refused:
        ledger.open_runs()
    assert not isinstance(refused.value, LedgerAway)
    ledger.client.flushall()
    ledger.client.config_set("maxmemory", "1")
    with pytest.raises(LedgerAway, match="maxmemory"):
        ledger.open(a_run())
    valkey.kill()
    with pytest.raises(LedgerAway, match="does not answer"):
        ledger.open(a_run())
