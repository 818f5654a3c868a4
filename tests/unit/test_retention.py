"""What is kept, and the reasons that are given. That stock restic keeps the same: tests/property/test_retention.py."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from shared.retention import Point, Rules, decide, span

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC).timestamp()


def point(*when: int, complete: bool = True) -> Point:
    """A snapshot of 2026, called by its month, day and hour."""
    at = datetime(2026, *when, tzinfo=UTC)  # type: ignore[misc, arg-type] # month, day, hour
    return Point(f"{at:%m-%d %H}", int(at.timestamp()) * 10**9, complete)


def reasons(rules: Rules | None, *points: Point, **more: object) -> dict[str, tuple[str, ...]]:
    """The reasons for each, oldest first."""
    holds = more.get("holds", {})
    assert isinstance(holds, dict)
    zone = ZoneInfo(str(more.get("zone", "UTC")))
    return {one.id: one.reasons for one in decide(points, rules, holds, NOW, zone)}


def test_all_reasons_are_given() -> None:
    """Each rule that keeps it, and what no rule decides."""
    found = reasons(
        Rules(last=1, hourly=1, daily=2, weekly=1, monthly=2, yearly=1, within=86400.0 * 2),
        *(point(2, 1, 3), point(2, 27, 3), point(3, 8, 4), point(3, 9, 3), point(3, 10, 3)),
        holds={"03-08 04": "INC-77"},
    )
    assert found == {
        "02-01 03": (),
        "02-27 03": ("monthly 2026-02",),
        "03-08 04": ("within 2d", "hold: INC-77"),
        "03-09 03": ("daily 2026-03-09", "within 2d"),
        "03-10 03": (
            "hourly 2026-03-10 03h",
            "daily 2026-03-10",
            "weekly 2026-W11",
            "monthly 2026-03",
            "yearly 2026",
            "last 1",
            "within 2d",
            "last good snapshot",
        ),
    }


def test_with_fewer_periods_than_wanted_the_oldest_stays() -> None:
    """As stock restic has it: history begins where it began."""
    found = reasons(Rules(daily=7), point(3, 9, 1), point(3, 9, 2), point(3, 9, 3), point(3, 10, 3))
    assert found["03-09 01"] == ("oldest, daily 2026-03-09",)
    assert found["03-09 02"] == ()


def test_an_incomplete_one_counts_for_nothing_beside_a_complete_one_of_its_period() -> None:
    """Newer though it is."""
    found = reasons(Rules(daily=2), point(3, 9, 1), point(3, 9, 2, complete=False), point(3, 10, 3))
    assert found == {
        "03-09 01": ("daily 2026-03-09",),
        "03-09 02": (),
        "03-10 03": ("daily 2026-03-10", "last good snapshot"),
    }


def test_a_week_of_incomplete_ones_leaves_the_complete_ones_before_it() -> None:
    """They stand for their own days, and use up none of the complete ones' places."""
    bad = [point(3, day, 3, complete=False) for day in range(3, 10)]
    good = [point(2, day, 3) for day in (24, 25, 26)]
    found = reasons(Rules(daily=2), *good, *bad)
    assert [name for name, why in found.items() if why] == ["02-25 03", "02-26 03", "03-08 03", "03-09 03"]
    assert found["02-26 03"] == ("daily 2026-02-26", "last good snapshot")
    assert found["03-09 03"] == ("daily 2026-03-09", "newest snapshot")


def test_within_counts_from_the_newest_and_not_from_now() -> None:
    """A source that is no longer backed up loses nothing by that; what is of the future moves nothing."""
    found = reasons(Rules(within=86400.0), point(1, 1, 1), point(1, 2, 3), point(1, 3, 1), point(4, 1, 1))
    assert {name: bool(why) for name, why in found.items()} == {
        "01-01 01": False,
        "01-02 03": True,
        "01-03 01": True,
        "04-01 01": True,
    }


def test_days_are_those_of_the_policys_zone() -> None:
    """Half past eleven at night in Berlin is the same day as an hour before, and not as an hour later."""
    late, later = point(3, 9, 22), point(3, 9, 23)  # 23:00 and 00:00 in Berlin
    assert reasons(Rules(daily=2), late, later, zone="Europe/Berlin")["03-09 22"] == ("daily 2026-03-09",)
    assert reasons(Rules(daily=1), late, later)["03-09 22"] == ()


def test_without_rules_all_is_kept() -> None:
    """A site that has none forgets nothing."""
    assert reasons(None, point(3, 9, 1), point(3, 9, 2)) == {
        "03-09 01": ("no rules",),
        "03-09 02": ("no rules", "last good snapshot"),
    }


def test_nothing_is_decided_of_nothing() -> None:
    """A source that was never backed up."""
    assert decide([], Rules(daily=1), {}, NOW, UTC) == []


@pytest.mark.parametrize("time", [-(2**62), 0, 2**63])
def test_a_time_that_no_calendar_knows_is_no_error(time: int) -> None:
    """A snapshot with a mad time is kept or not, as any other."""
    (found,) = decide([Point("mad", time)], Rules(yearly=1), {}, NOW, ZoneInfo("Asia/Tokyo"))
    assert found.kept


def test_a_span_is_said_as_a_person_writes_it() -> None:
    """Thirty days are no four weeks and two days."""
    assert [span(seconds) for seconds in (86400 * 30, 86400 * 14, 5400, 0.5, 694861)] == [
        "30d",
        "2w",
        "1h30m",
        "0.5s",
        "1w1d1h1m1s",
    ]
