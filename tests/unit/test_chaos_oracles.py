"""The oracles of the chaos run see what they are there to see: each is shown a lie, and the truth beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared.ledger.model import Attempt, Run, RunKind, RunRequest, RunState, run_id_for_slot
from shared.repository.locks import LockInfo
from shared.repository.snapshot import Snapshot, make_tags
from tests.support.chaos import oracles
from tests.support.chaos.everything import resume_times
from tests.support.chaos.evidence import Found, Stored
from tests.support.chaos.people import Asked, Direct, Wishes
from tests.support.chaos.plan import Fault, Planned
from tests.support.chaos.saboteur import Done

SLOT = "2026-03-04T12:00:00Z"
ID = run_id_for_slot("s001", "near", RunKind.FULL, SLOT)
OTHER = run_id_for_slot("s001", "near", RunKind.INCREMENTAL, SLOT)


def snapshot(run: str, number: int = 1) -> Snapshot:
    """One of the slot's."""
    tags = make_tags(
        source="s001", run=run, kind="full", slot=SLOT, last_full=SLOT, unreadable=0, began=1, more=["hf.policy=near"]
    )
    return Snapshot(time=1, tree=bytes(32), paths=[b"/s"], hostname="h", tags=tags, id=f"{number:064x}")


def run(state: RunState, run_id: str = ID, *, error: str = "", kind: RunKind = RunKind.FULL) -> Run:
    """A run of the source; where it ended well, with the first snapshot."""
    result = {"snapshot": f"{1:064x}"} if state is RunState.SUCCEEDED else {}
    return Run(RunRequest(run_id, kind, "s001", "near", SLOT), state, attempt=1, error=error, result=result)


def found(*runs: Run, snapshots: int = 1, of: tuple[str, ...] = (ID,)) -> Found:
    """What was looked at: so many snapshots, of these runs in turn."""
    stored = Stored("s001", [snapshot(of[number % len(of)], number + 1) for number in range(snapshots)])
    stored.journal_names = {ID: "name"}
    return Found(1000.0, {"s001": stored}, list(runs), {}, [], set())


def test_the_truth_passes() -> None:
    """A slot's run with its one snapshot."""
    truth = found(run(RunState.SUCCEEDED))
    assert oracles.all_final(truth) == []
    assert oracles.all_true(truth) == []
    assert oracles.all_explained(truth, Wishes()) == []
    assert oracles.no_reason_but_faults(truth) == []
    assert oracles.one_snapshot_a_slot(truth) == []
    assert oracles.nothing_lost(truth, Wishes(asked=[Asked(ID, RunKind.FULL, "s001", 1.0)]), []) == []
    assert oracles.no_locks(truth, 0, []) == []
    assert oracles.no_files(truth, 0) == []


@pytest.mark.parametrize(
    "lie",
    [
        found(run(RunState.SUCCEEDED), snapshots=0),
        found(run(RunState.SUCCEEDED), snapshots=2),
        found(run(RunState.FAILED, error="why")),
        found(run(RunState.CANCELLED, error="cancelled by a person")),
        found(run(RunState.SUPERSEDED), snapshots=0),
    ],
    ids=["done without", "done twice", "failed with", "cancelled with", "superseded"],
)
def test_an_end_that_is_not_true_is_seen(lie: Found) -> None:
    """Done without its snapshot, or with two; failed or cancelled with one; superseded where nobody forgot."""
    assert len(oracles.all_true(lie)) == 1


def test_what_has_not_ended_or_does_not_say_why_is_seen() -> None:
    """Open; failed without a word or for no fault; cancelled by nobody."""
    assert len(oracles.all_final(found(run(RunState.QUEUED)))) == 1
    assert len(oracles.all_explained(found(run(RunState.FAILED)), Wishes())) == 1
    assert len(oracles.all_explained(found(run(RunState.CANCELLED, error="x")), Wishes())) == 1
    assert oracles.all_explained(found(run(RunState.CANCELLED, error="x")), Wishes(cancelled=[ID])) == []
    assert len(oracles.no_reason_but_faults(found(run(RunState.FAILED, error="TypeError")))) == 1


def test_two_snapshots_of_a_slot_are_seen_and_those_by_hand_are_none() -> None:
    """Of one run, of two runs of the slot; not one of the slot's and one with an id of its own."""
    assert len(oracles.one_snapshot_a_slot(found(snapshots=2))) == 2
    assert len(oracles.one_snapshot_a_slot(found(snapshots=2, of=(ID, OTHER)))) == 1
    assert oracles.one_snapshot_a_slot(found(snapshots=2, of=(ID, "ab" * 16))) == []


def test_what_is_lost_is_seen() -> None:
    """A source without a backup; a wish that Redis was not emptied after; a second backup that did not join."""
    wish = Asked(OTHER, RunKind.INCREMENTAL, "s001", 10.0, first=ID)
    assert len(oracles.nothing_lost(found(snapshots=0), Wishes(), [])) == 1
    assert len(oracles.nothing_lost(found(), Wishes(asked=[wish]), [])) == 1
    assert oracles.nothing_lost(found(), Wishes(asked=[wish]), [11.0]) == []
    first = replace(run(RunState.SUCCEEDED), opened=1.0, ended=20.0)
    second = replace(run(RunState.SUCCEEDED, OTHER), opened=10.0, ended=21.0)
    assert len(oracles.nothing_lost(found(first, second), Wishes(asked=[wish]), [])) == 1
    direct = Direct("s001", 0, f"{2:064x}", "")
    assert len(oracles.nothing_lost(found(), Wishes(direct=[direct]), [])) == 1


def test_what_is_left_is_seen() -> None:
    """A backup's lock that was written since Redis was emptied; a journal of a run that has its snapshot."""
    left = found(run(RunState.SUCCEEDED))
    left.stored["s001"].locks = [LockInfo("c0", f"h/holdfast/{ID}", 1, exclusive=False, age=100.0)]
    left.journals.add("name")
    assert len(oracles.no_locks(left, 5, [])) == 1
    assert len(oracles.no_locks(left, 5, [899.0])) == 1
    assert oracles.no_locks(left, 5, [901.0]) == []
    assert len(oracles.no_files(left, 5)) == 1


def test_the_time_from_a_kill_to_the_next_attempt_is_that_of_its_own_worker() -> None:
    """Told by the supervisor's process or the worker's; a kill of another's counts for nothing."""
    over = Attempt(1, "worker-7@h:70", started=100.0, ended=112.0, error="its worker stopped answering")
    again = replace(run(RunState.SUCCEEDED), attempt=2, started=113.5, attempts=(over,))
    for pids, expected in (((7,), [10.5]), ((99, 70), [10.5]), ((8,), [])):
        done = Done(Planned(1.0, Fault.WORKER_KILLED, 0.0), 103.0, "worker-1", pids)
        assert resume_times([again], [done]) == expected
