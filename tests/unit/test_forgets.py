"""When a forget is due: once a day, spread over the fleet, also after an outage and with all evidence lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.forgets import forget_due

START = datetime(2026, 3, 4, tzinfo=UTC)
SOURCES = [f"web{number}" for number in range(2000)]
MINUTE = timedelta(minutes=1)


def days_work(source: str, done: str, start: datetime, minutes: int) -> list[tuple[datetime, str]]:
    """The forgets of so many minutes, each done at once: when and for which slot."""
    found = []
    for number in range(minutes):
        now = start + number * MINUTE
        slot = forget_due(source, done, now.timestamp())
        if slot:
            found.append((now, slot))
            done = slot
    return found


def test_once_a_day_at_a_time_of_its_own() -> None:
    """Of three days each has one, at the same time; sources differ."""
    times = set()
    for source in SOURCES[:20]:
        (first, *rest) = days_work(source, "2026-03-03T23:59:59Z", START, 3 * 1440)
        assert [when - first[0] for when, _ in rest] == [timedelta(days=1), timedelta(days=2)]
        times.add(first[0])
    assert len(times) > 15


@settings(max_examples=25)
@given(st.sampled_from(SOURCES), st.integers(0, 86400 * 365))
def test_what_was_done_is_not_due(source: str, seconds: int) -> None:
    """Whenever one looks: for a slot there is one forget."""
    now = START + timedelta(seconds=seconds)
    slot = next(slot for minute in range(1440) if (slot := forget_due(source, "", (now + minute * MINUTE).timestamp())))
    later = [forget_due(source, slot, (now + minute * MINUTE).timestamp()) for minute in range(1440)]
    assert slot not in later


def test_one_that_fails_is_due_for_an_hour_and_then_every_six() -> None:
    """A lock in its way, or a site that is away: from its time on for an hour, then one minute in six hours."""
    due = [
        minute
        for minute in range(1440)
        if forget_due("web1", "2026-03-02T00:00:00Z", (START + minute * MINUTE).timestamp())
    ]
    late = [minute for minute in due if minute - 1 not in due and minute + 1 not in due]
    first = [minute for minute in due if minute not in late]
    assert first == list(range(first[0], first[0] + 60))
    assert {minute % 360 for minute in late} == {late[0] % 360}
    assert len(late) >= 3


def test_with_all_evidence_lost_there_is_no_storm() -> None:
    """Redis was emptied: no minute but the first has more than a few, and within six hours all have been done."""
    done: dict[str, str] = {}
    per_minute = []
    for minute in range(361):
        now = START + minute * MINUTE
        fresh = {
            source: slot for source in SOURCES if (slot := forget_due(source, done.get(source, ""), now.timestamp()))
        }
        done |= fresh
        per_minute.append(len(fresh))
    assert per_minute[0] < len(SOURCES) / 15  # those whose hour it is
    assert max(per_minute[1:]) < len(SOURCES) / 60
    assert len(done) == len(SOURCES)


def test_a_machine_that_is_on_from_nine_to_five_comes_to_it() -> None:
    """Whatever the source's own time of the day is."""
    for source in SOURCES[:50]:
        assert days_work(source, "", START + timedelta(hours=9), 8 * 60) != []
