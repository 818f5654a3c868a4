"""When upkeep is due: once a period, spread over the fleet, also after an outage and with all evidence lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.due import Due
from scheduler.upkeep import upkeep, upkeep_due
from shared.ledger.model import UPKEEP, RunKind

START = datetime(2026, 3, 4, tzinfo=UTC)
SOURCES = [f"web{number}" for number in range(2000)]
MINUTE = timedelta(minutes=1)
DAILY = {source: upkeep(RunKind.FORGET, source, 86400) for source in SOURCES}


def forget_due(source: str, done: str, now: float) -> str:
    """The slot of the source's daily forget that is due, empty for none."""
    return next((one.slot for one in upkeep_due([DAILY[source]], known(RunKind.FORGET, done), now)), "")


def known(kind: RunKind, slot: str) -> str:
    """The ledger's note of one kind of upkeep."""
    return " ".join(slot if one is kind else "" for one in UPKEEP)


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


def verifications(within: float, days: list[int]) -> list[Due]:
    """A daily one that reads all within so many days, on these days, each done at once."""
    wanted = upkeep(RunKind.VERIFY, "web", 86400, within=within * 86400)
    done, found = "", []
    for day in days:
        (task,) = upkeep_due([wanted], done, wanted.slot((START + timedelta(days=day)).timestamp()))
        found.append(task)
        done = known(RunKind.VERIFY, task.slot)
    return found


def shares_read(runs: list[Due], shares: int) -> list[int]:
    """Which shares these read, one after the other."""
    return [
        (int(str(run.options["rotation"])) + turn) % shares
        for run in runs
        for turn in range(int(str(run.options["turns"])))
    ]


def test_every_share_of_the_packs_is_read_within_the_time() -> None:
    """In as many days as there are shares each is read once."""
    runs = verifications(30, list(range(30)))
    assert sorted(shares_read(runs, 30)) == list(range(30))
    assert {run.options["share"] for run in runs} == {100 / 30}


def test_shares_of_days_that_were_missed_are_read_the_next_time() -> None:
    """Six days off: seven shares at once; off for longer than it takes to read all: all, and no more."""
    runs = verifications(30, [0, 7, 8])
    assert [run.options["turns"] for run in runs] == [1, 7, 1]
    assert len(set(shares_read(runs, 30))) == 9
    assert verifications(30, [0, 90])[1].options["turns"] == 30


def test_without_a_time_for_data_none_is_read() -> None:
    """The structure alone."""
    assert [run.options for run in verifications(0, [0, 1])] == [{}, {}]


def test_a_verification_is_told_to_heal_where_its_policy_says_so() -> None:
    """With its shares, and without any."""
    for within in (0.0, 30 * 86400.0):
        wanted = upkeep(RunKind.VERIFY, "web", 86400, within=within, heals=True)
        (task,) = upkeep_due([wanted], "", wanted.slot(START.timestamp()))
        assert (task.options["heal"], "share" in task.options) == (True, within > 0)
    assert "heal" not in verifications(30, [0])[0].options
