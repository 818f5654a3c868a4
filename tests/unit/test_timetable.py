"""Slots, jitter and blackouts, with a fake clock: scheduler.timetable."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.timetable import Timetable, blackout_end, jitter_of, newest_slot, slots_since
from shared.config.models import Policy
from shared.config.values import Schedule
from shared.ledger.model import slot_text, slot_time

NIGHTLY = Schedule.parse("30 2 * * *")
HOURLY = Schedule.parse("0 * * * *")
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"]
MOMENTS = st.datetimes(datetime(2025, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - naive bounds
LINES = ["30 2 * * *", "*/7 * * * *", "0 2 * * 0", "15m", "36h", "0 0 1 * *"]


def policy(**keys: Any) -> Policy:
    """A policy, named p."""
    made = Policy.model_validate(keys)
    made.give_id("p")
    return made


@pytest.mark.parametrize("zone", ZONES)
def test_a_year_has_one_nightly_slot_for_each_day(zone: str) -> None:
    """With both changes of the clocks in it: no day without, none with two, whatever hour is skipped or repeated."""
    found = slots_since(NIGHTLY, slot_time("2026-01-01T12:00:00Z"), slot_time("2027-01-01T12:00:00Z"), zone)
    assert len(found) == 366  # the one before, too
    gaps = {(later - one).total_seconds() / 3600 for one, later in pairwise(found)}
    assert {round(gap) for gap in gaps} <= {23, 24, 25}


@pytest.mark.parametrize("zone", ZONES)
def test_an_hourly_slot_comes_each_hour_of_the_year(zone: str) -> None:
    """Also in the hour that the wall shows twice."""
    found = slots_since(HOURLY, slot_time("2026-01-01T00:30:00Z"), slot_time("2026-12-31T23:30:00Z"), zone)
    gaps = {(later - one) for one, later in pairwise(found)}
    assert gaps <= {timedelta(minutes=30), timedelta(hours=1), timedelta(hours=1, minutes=30)}
    if zone != "Australia/Lord_Howe":  # whose clocks are moved by half an hour
        assert gaps == {timedelta(hours=1)}


@given(line=st.sampled_from(LINES), zone=st.sampled_from(ZONES), start=MOMENTS, hours=st.integers(0, 72))
def test_slots_are_in_order_and_each_is_the_newest_of_its_time(
    line: str, zone: str, start: datetime, hours: int
) -> None:
    """A list of slots is what asking at each moment would give."""
    schedule = Schedule.parse(line)
    found = slots_since(schedule, start, start + timedelta(hours=hours), zone)
    assert found == sorted(set(found))
    assert found[0] == newest_slot(schedule, start, zone)
    assert [newest_slot(schedule, slot, zone) for slot in found[-5:]] == found[-5:]


@given(
    line=st.sampled_from(LINES),
    zone=st.sampled_from(ZONES),
    start=MOMENTS,
    steps=st.lists(st.integers(-7200, 200_000), max_size=12),
)
def test_what_a_timetable_keeps_changes_no_answer(line: str, zone: str, start: datetime, steps: list[int]) -> None:
    """Asked in any order, also by a clock that is put back."""
    kept = Timetable(policy(full=line, timezone=zone))
    moment = start.replace(microsecond=0)
    for step in steps:
        moment += timedelta(seconds=step)
        slot = newest_slot(Schedule.parse(line), moment, zone)
        assert kept.slots(moment.timestamp()).full == (slot_text(slot) if slot else "")


def test_jitter_is_spread_over_its_window_and_stays() -> None:
    """A hash of source and policy: whole seconds, below the window, and about as many in each part of it."""
    found = [jitter_of(f"s{number}", "p", 1800.0) for number in range(6000)]
    assert found[0] == jitter_of("s0", "p", 1800.0) == 662.0
    assert found[0] != jitter_of("s0", "q", 1800.0)
    assert all(one == int(one) and 0 <= one < 1800 for one in found)
    parts = [sum(one // 300 == part for one in found) for part in range(6)]
    assert min(parts) > 850


@pytest.mark.parametrize(
    ("blackout", "now", "end"),
    [
        ({"hours": "08:00-18:00"}, "2026-03-04T06:59:59Z", None),
        ({"hours": "08:00-18:00"}, "2026-03-04T07:00:00Z", "2026-03-04T17:00:00Z"),
        ({"hours": "08:00-18:00"}, "2026-03-04T17:00:00Z", None),
        ({"hours": "08:00-18:00", "days": "mon-fri"}, "2026-03-07T11:00:00Z", None),
        ({"days": "sat, sun"}, "2026-03-06T23:30:00Z", "2026-03-08T23:00:00Z"),
        ({"hours": "22:00-06:00", "days": "fri"}, "2026-03-07T03:00:00Z", "2026-03-07T05:00:00Z"),
        ({"hours": "22:00-06:00", "days": "fri"}, "2026-03-06T03:00:00Z", None),
        # the nights in which Berlin's clocks change: 29 March at 02:00, 25 October at 03:00
        ({"hours": "22:00-06:00"}, "2026-03-28T23:00:00Z", "2026-03-29T04:00:00Z"),
        ({"hours": "22:00-06:00"}, "2026-10-24T22:00:00Z", "2026-10-25T05:00:00Z"),
        ({"hours": "01:00-02:30"}, "2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z"),
        ({"hours": "02:00-02:30"}, "2026-10-25T00:10:00Z", "2026-10-25T00:30:00Z"),
        ({"hours": "02:00-02:30"}, "2026-10-25T01:10:00Z", "2026-10-25T01:30:00Z"),
    ],
)
def test_a_blackout_goes_by_the_clock_on_the_wall(blackout: dict[str, str], now: str, end: str | None) -> None:
    """Over midnight, over the week's end, and over the hours that are skipped or come twice."""
    found = blackout_end(policy(full="1d", blackout=[blackout]).blackout, slot_time(now), "Europe/Berlin")
    assert (slot_text(found) if found else None) == end


@given(now=MOMENTS, zone=st.sampled_from(ZONES), hours=st.sampled_from(["08:00-18:00", "22:00-06:00", "01:30-03:10"]))
def test_a_blackout_is_over_at_its_end_and_not_before(now: datetime, zone: str, hours: str) -> None:
    """A minute before it is still on."""
    blackouts = policy(full="1d", blackout=[{"hours": hours, "days": "fri-mon"}]).blackout
    end = blackout_end(blackouts, now, zone)
    if end is not None:
        assert end > now
        assert blackout_end(blackouts, end, zone) is None
        assert blackout_end(blackouts, max(now, end - timedelta(minutes=1)), zone) == end
