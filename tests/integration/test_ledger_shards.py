"""Runs that are cut, on a real Valkey: opened, waited for, woken, cancelled and given up in one step each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from shared.ledger import sweep
from shared.ledger.lease import Lease
from shared.ledger.ledger import Ledger
from shared.ledger.model import Opened, RunKind, RunRequest, RunState, Word, shard_run_id
from shared.messaging.client import with_shards
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


def shards_of(run: RunRequest, count: int = 3, plan: str = "p") -> list[RunRequest]:
    """The shards of a run."""
    return [
        RunRequest(
            shard_run_id(run.id, plan, number),
            RunKind.SHARD,
            run.source,
            queue="backup",
            options={"shard": number, "of": count, "plan": plan},
            parent=run.id,
        )
        for number in range(count)
    ]


def cut(ledger: Ledger, count: int = 3) -> tuple[RunRequest, list[RunRequest]]:
    """A run that was cut, and its shards."""
    run = a_run()
    ledger.open(run)
    shards = shards_of(run, count)
    assert ledger.cut(claimed(ledger, run.id), shards) is Word.CUT
    return run, shards


def finish(ledger: Ledger, shard: RunRequest, state: RunState = RunState.SUCCEEDED) -> None:
    """Do a shard."""
    assert ledger.finish(claimed(ledger, shard.id), state, result={"tree": "aa"}, error="") is Word.FINISHED


def states(ledger: Ledger, runs: Sequence[RunRequest]) -> list[str]:
    """The states of runs."""
    return [state_of(ledger, run.id) for run in runs]


def test_the_end_of_the_last_shard_queues_the_run(ledger: Ledger) -> None:
    """Not that of one before; then it can be claimed, and goes on as any. A second word of the end changes nothing."""
    run, shards = cut(ledger)
    assert states(ledger, [run, *shards]) == ["waiting", "queued", "queued", "queued"]
    assert ledger.claim(run.id, "me").word is Word.HELD
    for shard in shards[:2]:
        finish(ledger, shard)
    assert state_of(ledger, run.id) == "waiting"
    lease = claimed(ledger, shards[2].id)
    for _ in range(2):
        assert ledger.finish(lease, RunState.INCOMPLETE) is Word.FINISHED
    assert state_of(ledger, run.id) == "queued"
    last = claimed(ledger, run.id)
    assert last.attempt == 2
    ledger.finish(last, RunState.SUCCEEDED)
    assert state_of(ledger, run.id) == "succeeded"


def test_shards_are_told_of_with_their_run_alone(ledger: Ledger) -> None:
    """Neither in the history of the source nor in counts; a backup that comes meanwhile joins the run."""
    run, shards = cut(ledger)
    assert ledger.open_backup(a_run()) == (Opened.JOINED, run.id)
    for shard in shards:
        finish(ledger, shard)
    assert (ledger.recent(), ledger.history("web1")) == ([], [])
    assert ledger.client.hgetall(ledger.keys.counts) == {}
    ledger.finish(claimed(ledger, run.id), RunState.SUCCEEDED, result={"bytes_stored": 7})
    assert [one.id for one in ledger.history("web1")] == [run.id]
    assert ledger.client.hgetall(ledger.keys.counts) == {"ended|backup-full|succeeded": "1", "uploaded|web1": "7"}
    assert {one.id for one in ledger.children(run.id)} == {shard.id for shard in shards}


def test_cutting_again_does_only_what_is_named_anew(ledger: Ledger) -> None:
    """What is done stays done, what is open stays open; what was lost is queued again without its old result."""
    run, shards = cut(ledger)
    for shard in shards:
        finish(ledger, shard)
    lease = claimed(ledger, run.id)
    assert ledger.cut(lease, shards, {shards[1].id}) is Word.CUT
    assert states(ledger, [run, *shards]) == ["waiting", "succeeded", "queued", "succeeded"]
    again = ledger.get(shards[1].id)
    assert again is not None
    assert (again.result, again.error, again.ended, again.attempt, again.lost) == ({}, "", 0.0, 1, 1)
    assert ledger.cut(lease, shards) is Word.LOST
    finish(ledger, shards[1])
    assert state_of(ledger, run.id) == "queued"


def test_a_run_that_is_cut_anew_gives_up_the_shards_of_the_old_plan(ledger: Ledger) -> None:
    """One that waits is over, one that is under way is told; neither is the run's any more."""
    run, old = cut(ledger)
    busy = claimed(ledger, old[1].id)
    finish(ledger, old[2])
    ledger.client.hset(ledger.keys.run(run.id), "state", "queued")  # as the reaper does where a shard was forgotten
    new = shards_of(run, 2, "q")
    assert ledger.cut(claimed(ledger, run.id), new) is Word.CUT
    assert states(ledger, old) == ["cancelled", "claimed", "succeeded"]
    assert ledger.renew(busy)[0] is Word.CANCEL
    assert {one.id for one in ledger.children(run.id)} == {shard.id for shard in new}
    ledger.release(busy)
    assert state_of(ledger, run.id) == "waiting"


def test_cancelling_a_run_that_waits_ends_it_and_its_shards(ledger: Ledger) -> None:
    """In one step: those that are queued are over, who works on one is told; the run is not woken by their ends."""
    run, shards = cut(ledger)
    busy = claimed(ledger, shards[0].id)
    finish(ledger, shards[1])
    assert ledger.cancel(run.id, "anna") is Word.CANCELLED
    assert states(ledger, [run, *shards]) == ["cancelled", "claimed", "succeeded", "cancelled"]
    assert ledger.renew(busy)[0] is Word.CANCEL
    ledger.finish(busy, RunState.CANCELLED)
    assert state_of(ledger, run.id) == "cancelled"
    assert ledger.open_runs() == []


def test_a_run_that_was_to_be_cancelled_is_not_cut(ledger: Ledger) -> None:
    """Nothing is opened."""
    run = a_run()
    ledger.open(run)
    lease = claimed(ledger, run.id)
    ledger.cancel(run.id, "anna")
    assert ledger.cut(lease, shards_of(run)) is Word.CANCELLED
    assert (state_of(ledger, run.id), ledger.children(run.id)) == ("cancelled", [])


def test_a_shard_whose_run_is_over_is_cancelled_by_who_claims_it(ledger: Ledger) -> None:
    """As where its run was ended by hand, or by a release that knows no shards."""
    run, shards = cut(ledger)
    ledger.client.hset(ledger.keys.run(run.id), "state", "failed")
    assert ledger.claim(shards[0].id, "me").word is Word.DONE
    ended = ledger.get(shards[0].id)
    assert ended is not None
    assert (ended.state, ended.error) == (RunState.CANCELLED, "cancelled by the end of its run")


def test_a_dead_shard_is_rung_again_and_given_up_as_any_run(ledger: Ledger) -> None:
    """After as many deaths as it may die it has failed, and wakes its run."""
    run, shards = cut(ledger, 2)
    finish(ledger, shards[0])
    for death in range(5):
        assert state_of(ledger, run.id) == "waiting", death
        claimed(ledger, shards[1].id)
        expire(ledger, shards[1].id)
        reaped = ledger.reap()
        assert shards[1].id in {one.id for one in reaped}
    assert states(ledger, [run, *shards]) == ["queued", "succeeded", "failed"]


def test_the_reaper_wakes_a_run_whose_shards_are_gone(ledger: Ledger) -> None:
    """Forgotten or over: nothing waits for ever for an end that was missed. While one is open it goes on waiting."""
    run, shards = cut(ledger, 2)
    finish(ledger, shards[0])
    ledger.client.zadd(ledger.keys.open, {run.id: 0})
    assert ledger.reap() == []
    assert state_of(ledger, run.id) == "waiting"
    ledger.client.delete(ledger.keys.run(shards[1].id))
    ledger.client.zadd(ledger.keys.open, {run.id: 0})
    assert [one.id for one in ledger.reap()] == [run.id]
    assert state_of(ledger, run.id) == "queued"


def test_a_wiped_ledger_gets_a_shard_back_before_its_run(ledger: Ledger) -> None:
    """Its holder opens it again; once the slot's run is opened it is that one's child, and is not done twice."""
    run, shards = cut(ledger)
    claimed(ledger, shards[0].id)
    ledger.client.flushall()
    ledger.open(shards[0])
    lease = claimed(ledger, shards[0].id)
    assert ledger.open(run) is Opened.OPENED
    assert ledger.cut(claimed(ledger, run.id), shards) is Word.CUT
    assert states(ledger, [run, *shards]) == ["waiting", "claimed", "queued", "queued"]
    assert ledger.finish(lease, RunState.SUCCEEDED) is Word.FINISHED


def test_a_run_that_waits_tells_of_its_shards(ledger: Ledger) -> None:
    """Its progress is theirs: of those under way what they say, of those that are done what they did."""
    run, shards = cut(ledger)
    ledger.finish(claimed(ledger, shards[0].id), RunState.SUCCEEDED, result={"files_new": 2, "bytes_processed": 10})
    ledger.renew(claimed(ledger, shards[1].id), {"files": 3, "bytes": 5})
    found = ledger.get(run.id)
    assert found is not None
    view, listed = with_shards(ledger, found)
    assert [one.id for one in listed] == [shard.id for shard in shards]
    wanted = {"shards": 3, "shards_done": 1, "files": 5, "bytes": 15}
    assert {name: view.progress[name] for name in wanted} == wanted


def test_its_work_began_with_its_first_attempt(ledger: Ledger) -> None:
    """However often it is claimed after it was cut: what the RPO counts from."""
    run, shards = cut(ledger, 1)
    first = ledger.get(run.id)
    finish(ledger, shards[0])
    lease: Lease = claimed(ledger, run.id)
    later = ledger.get(run.id)
    assert first is not None
    assert later is not None
    assert later.since == first.started
    ledger.finish(lease, RunState.SUCCEEDED)
    (head,) = sweep.heads(ledger, [""])
    assert head.newest == run.id


def test_kept_locks_are_looked_at_when_it_is_time(ledger: Ledger) -> None:
    """From the cut on; then when it was said; never again once it is gone."""
    run, _ = cut(ledger)
    assert ledger.cut_runs() == [run.id]
    ledger.keep_lock(run.id, 60)
    assert ledger.cut_runs() == []
    ledger.keep_lock(run.id, 0)
    assert ledger.client.exists(ledger.keys.cut) == 0
