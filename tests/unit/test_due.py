"""What is due, with a fake clock: cron lines across daylight saving, intervals, missed slots, lost evidence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.due import Due, newest_slots
from scheduler.due import due as due_now
from scheduler.timetable import newest_slot
from shared.config.values import Schedule
from shared.evidence import evidence_of
from shared.ledger.model import Evidence, RunKind, run_id_for_slot, slot_text, slot_time
from shared.repository.snapshot import Snapshot

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)  # a Wednesday
WEEKLY = Schedule.parse("0 2 * * 0")
NIGHTLY = Schedule.parse("0 2 * * *")
QUARTER = Schedule.parse("15m")


def due(full: Schedule | None, incremental: Schedule | None, evidence: Evidence | None, now: datetime) -> Due | None:
    """What is due of two schedules."""
    return due_now(newest_slots(full, incremental, now), evidence, now)


def text(*when: int) -> str:
    """A slot of 2026."""
    return slot_text(datetime(2026, *when, tzinfo=UTC))  # type: ignore[misc, arg-type] # month, day, hour, minute


def test_what_was_never_backed_up_is_due_at_once_as_a_full() -> None:
    """No evidence: a full run, now, for the newest slot that has passed of either schedule."""
    assert due(WEEKLY, NIGHTLY, None, NOON) == Due(RunKind.FULL, text(3, 4, 2))


def test_a_policy_without_full_schedule_still_begins_with_a_full() -> None:
    """The first snapshot is a full one, whatever the policy asks for later."""
    assert due(None, QUARTER, None, NOON) == Due(RunKind.FULL, text(3, 4, 12))


def test_a_snapshot_serves_its_slot() -> None:
    """Nothing is due while the newest slots are served."""
    assert due(WEEKLY, NIGHTLY, Evidence(text(3, 4, 2), text(3, 1, 2)), NOON) is None


def test_the_next_incremental_is_due_when_its_slot_comes() -> None:
    """One second before its slot nothing is due, at the slot it is."""
    evidence = Evidence(text(3, 4, 2), text(3, 1, 2))
    slot = datetime(2026, 3, 5, 2, 0, tzinfo=UTC)
    assert due(WEEKLY, NIGHTLY, evidence, slot - timedelta(seconds=1)) is None
    assert due(WEEKLY, NIGHTLY, evidence, slot) == Due(RunKind.INCREMENTAL, slot_text(slot))


def test_several_missed_slots_become_one_run() -> None:
    """After a week without a scheduler one incremental, of the newest slot, serves them all."""
    missed = Evidence(text(3, 4, 2), text(3, 4, 2))
    now = datetime(2026, 3, 7, 9, 0, tzinfo=UTC)
    wanted = due(WEEKLY, NIGHTLY, missed, now)
    assert wanted == Due(RunKind.INCREMENTAL, text(3, 7, 2))
    assert due(WEEKLY, NIGHTLY, Evidence(wanted.slot, missed.last_full), now) is None


def test_a_full_replaces_the_incremental_due_at_the_same_time() -> None:
    """Both are due on Sunday at two: one full run, and then nothing."""
    sunday = datetime(2026, 3, 8, 2, 0, tzinfo=UTC)
    wanted = due(WEEKLY, NIGHTLY, Evidence(text(3, 7, 2), text(3, 1, 2)), sunday)
    assert wanted == Due(RunKind.FULL, text(3, 8, 2))
    assert due(WEEKLY, NIGHTLY, Evidence(wanted.slot, wanted.slot), sunday) is None


def test_a_late_full_serves_the_incremental_that_has_passed_meanwhile() -> None:
    """A full that was missed on Sunday and runs on Wednesday leaves no incremental to be made right after it."""
    wanted = due(WEEKLY, NIGHTLY, Evidence(text(2, 28, 2), text(2, 22, 2)), NOON)
    assert wanted == Due(RunKind.FULL, text(3, 4, 2))
    assert due(WEEKLY, NIGHTLY, Evidence(wanted.slot, wanted.slot), NOON) is None


@pytest.mark.parametrize(
    ("now", "slot"),
    [
        # 29 March 2026, Berlin: 02:30 does not exist; it is run when the clock has jumped, at 03:00 CEST
        ("2026-03-29T00:59:59Z", "2026-03-28T01:30:00Z"),
        ("2026-03-29T01:00:00Z", "2026-03-29T01:00:00Z"),
        # 25 October 2026: 02:30 comes twice, and is run once
        ("2026-10-25T00:30:00Z", "2026-10-25T00:30:00Z"),
        ("2026-10-25T01:30:00Z", "2026-10-25T00:30:00Z"),
    ],
)
def test_a_cron_line_is_read_right_across_daylight_saving(now: str, slot: str) -> None:
    """An hour that is missing is not missed, one that comes twice is not run twice."""
    found = newest_slot(Schedule.parse("30 2 * * *"), slot_time(now), "Europe/Berlin")
    assert found is not None
    assert slot_text(found) == slot


def test_a_cron_line_of_six_fields_counts_seconds() -> None:
    """The first of six fields is the second."""
    found = newest_slot(Schedule.parse("*/20 * * * * *"), datetime(2026, 3, 4, 12, 0, 45, 900_000, tzinfo=UTC))
    assert found == datetime(2026, 3, 4, 12, 0, 40, tzinfo=UTC)


MOMENTS = st.datetimes(datetime(2025, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - naive bounds
SCHEDULES = st.sampled_from([WEEKLY, NIGHTLY, QUARTER, Schedule.parse("*/7 * * * *"), Schedule.parse("36h")])


@given(schedule=SCHEDULES, now=MOMENTS, zone=st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"]))
def test_a_slot_never_lies_ahead_and_stays_until_the_next(schedule: Schedule, now: datetime, zone: str) -> None:
    """Whoever asks, at any moment between two slots, gets the same slot: so a run has one id."""
    slot = newest_slot(schedule, now, zone)
    assert slot is not None
    assert slot <= now
    assert newest_slot(schedule, slot, zone) == slot
    assert newest_slot(schedule, slot + (now - slot) / 2, zone) == slot


@given(full=SCHEDULES, incremental=SCHEDULES, now=MOMENTS)
def test_serving_what_is_due_leaves_nothing_due(full: Schedule, incremental: Schedule, now: datetime) -> None:
    """From no evidence, one run serves all."""
    wanted = due(full, incremental, None, now)
    assert wanted is not None
    assert due(full, incremental, Evidence(wanted.slot, wanted.slot), now) is None


def snapshot(moment: datetime, *tags: str) -> Snapshot:
    """A snapshot of source web1 with these tags."""
    time = int(moment.timestamp()) * 1_000_000_000
    return Snapshot(time=time, tree=bytes(32), paths=[b"/srv"], tags=["hf.source=web1", *tags])


def test_evidence_is_read_from_tags() -> None:
    """The newest slot, and the newest full one, which later snapshots carry on; other sources do not count."""
    snapshots = [
        snapshot(NOON, f"hf.slot={text(3, 4, 2)}", "hf.kind=incremental", f"hf.lastfull={text(3, 1, 2)}"),
        snapshot(NOON, f"hf.slot={text(3, 2, 2)}", "hf.kind=incremental"),
        Snapshot(time=0, tree=bytes(32), paths=[b"/"], tags=["hf.source=other", f"hf.slot={text(9, 9, 9)}"]),
        Snapshot(time=0, tree=bytes(32), paths=[b"/"]),
    ]
    assert evidence_of("web1", snapshots) == Evidence(text(3, 4, 2), text(3, 1, 2))
    assert evidence_of("web2", snapshots) is None


def test_a_snapshot_without_a_slot_counts_from_its_start() -> None:
    """A backup made with --direct has no slot; it serves what had passed when it began."""
    made = snapshot(NOON, "hf.kind=full", "hf.began=2026-03-04T11:58:00Z")
    assert evidence_of("web1", [made]) == Evidence(text(3, 4, 11, 58), text(3, 4, 11, 58))


def test_a_slots_run_has_one_id() -> None:
    """The id is a pure function of source, policy, kind and slot, fixed for ever, and differs in each."""
    one = run_id_for_slot("web1", "all", RunKind.FULL, text(3, 4, 2))
    assert one == run_id_for_slot("web1", "all", RunKind.FULL, text(3, 4, 2))
    assert one == "bdcd439ea613e69ce657f73eea5c24ee"
    others = {
        run_id_for_slot("web2", "all", RunKind.FULL, text(3, 4, 2)),
        run_id_for_slot("web1", "two", RunKind.FULL, text(3, 4, 2)),
        run_id_for_slot("web1", "all", RunKind.INCREMENTAL, text(3, 4, 2)),
        run_id_for_slot("web1", "all", RunKind.FULL, text(3, 5, 2)),
    }
    assert len(others | {one}) == 5
    with pytest.raises(ValueError, match="NUL"):
        run_id_for_slot("web1\0all", "", RunKind.FULL, "")
