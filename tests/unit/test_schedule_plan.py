"""Whose turn it is, what is held, what will run and what became of slots: scheduler.standing, admission, forecast."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from scheduler.admission import Admission
from scheduler.forecast import account, forecast
from scheduler.standing import Scheduled, in_turn, let_in, survey
from scheduler.timetable import Timetable
from shared.config.models import Policy
from shared.config.scheduling import Scheduling
from shared.ledger.model import Evidence, Run, RunKind, RunRequest, RunState, slot_text, slot_time
from shared.ledger.sweep import SourceState

NOON = slot_time("2026-03-04T12:00:00Z")  # a Wednesday
FULL = "2026-03-01T02:00:00Z"
WEEKLY = {"full": "0 2 * * 0", "incremental": "0 2 * * *"}


def row(source: str = "s", host: str = "", site: str = "a", jitter: float = 0.0, **keys: Any) -> Scheduled:
    """A source under a policy of its own."""
    policy = Policy.model_validate(keys or WEEKLY)
    policy.give_id("p")
    return Scheduled(source, host, site, policy, "p", Timetable(policy), jitter)


def ran(slot: str, state: RunState, *, hours: float = 0.5, kind: RunKind = RunKind.INCREMENTAL, error: str = "") -> Run:
    """A backup that was opened at its slot and took so long."""
    opened = slot_time(slot).timestamp()
    return Run(RunRequest(slot, kind, "s", "p", slot), state, opened=opened, ended=opened + 3600 * hours, error=error)


def test_the_most_urgent_goes_first() -> None:
    """By when its RPO is missed, a first one among them; those without one come last, by what they miss."""
    late = "2026-03-03T02:00:00Z"
    rows = [
        (row("plain"), SourceState(late, FULL)),
        (row("older"), SourceState(FULL, FULL)),
        (row("relaxed", **WEEKLY, rpo="3d"), SourceState(late, FULL)),
        (row("urgent", **WEEKLY, rpo="1h"), SourceState(late, FULL)),
        (row("new", **WEEKLY, rpo="1h"), SourceState("", "")),
    ]
    standing = survey(rows, NOON, {"new": None})
    assert [one.row.source for one in in_turn(standing.wanted)] == ["urgent", "new", "relaxed", "older", "plain"]


def test_limits_hold_back_what_does_not_fit() -> None:
    """One of a host, so many to a site and of the fleet; what waits for a host that is away takes only that host's."""
    admission = Admission(Scheduling(runs=3, runs_per_site=2))
    admission.count("h1", "a", away=True)
    places = [
        ("s1", "h1", "a"),
        ("s2", "h2", "a"),
        ("s3", "h2", "a"),
        ("s4", "", "a"),
        ("s5", "", "a"),
        ("s6", "", "b"),
        ("s7", "", "b"),
    ]
    rows = [(row(source, host, site), SourceState(FULL, FULL)) for source, host, site in places]
    turns = let_in(admission, survey(rows, NOON, {}).wanted)
    assert {one.row.source: refusal for one, refusal in turns} == {
        "s1": "host h1 has 1 of 1 runs",
        "s2": "",
        "s3": "host h2 has 1 of 1 runs",
        "s4": "",
        "s5": "site a has 2 of 2 runs",
        "s6": "",
        "s7": "the fleet has 3 of 3 runs",
    }


def test_nothing_of_a_source_is_due_while_a_backup_of_it_is_open() -> None:
    """One that waits for its host for days is the only one."""
    rows = [(row(), SourceState("", "", backups)) for backups in ("open", "waits")]
    standing = survey(rows, NOON, {})
    assert (standing.wanted, standing.unasked, standing.closed) == ([], [], {})


def test_only_the_site_can_say_what_the_ledger_does_not_know() -> None:
    """No full one, nothing at all, or a slot that a wrong clock made; until it answers nothing is due."""
    ahead = slot_text(NOON + timedelta(hours=2))
    rows = [
        (row("wiped"), SourceState("", "")),
        (row("half"), SourceState("2026-03-04T02:00:00Z", "")),
        (row("ahead"), SourceState(ahead, FULL)),
        (row("put-back"), SourceState(slot_text(NOON + timedelta(minutes=59)), FULL)),
    ]
    standing = survey(rows, NOON, {})
    assert ([one.source for one in standing.unasked], standing.wanted) == (["wiped", "half", "ahead"], [])
    answered = survey(rows, NOON, {"wiped": None, "half": Evidence(FULL, FULL), "ahead": Evidence(FULL, FULL)})
    kinds = {one.row.source: one.due.kind for one in answered.wanted}
    assert kinds == {"wiped": RunKind.FULL, "half": RunKind.INCREMENTAL, "ahead": RunKind.INCREMENTAL}


def test_what_is_due_in_a_blackout_waits_for_its_end() -> None:
    """It is known until when."""
    closed = row(full="1d", blackout=[{"hours": "08:00-18:00"}])
    standing = survey([(closed, SourceState(FULL, FULL))], NOON, {})
    assert (standing.wanted, standing.closed) == ([], {"s": slot_time("2026-03-04T18:00:00Z")})


def test_jitter_makes_a_slot_due_later_and_leaves_it_its_time() -> None:
    """A second before, nothing is due."""
    late = row(jitter=1200.0, full="1d")
    states = [(late, SourceState("2026-03-03T00:00:00Z", "2026-03-03T00:00:00Z"))]
    midnight = slot_time("2026-03-04T00:00:00Z")
    assert survey(states, midnight + timedelta(seconds=1199), {}).wanted == []
    (wanted,) = survey(states, midnight + timedelta(seconds=1200), {}).wanted
    assert wanted.due.slot == "2026-03-04T00:00:00Z"


def test_a_forecast_says_when_and_why() -> None:
    """Now what is due, then each slot with its jitter, after its blackout, a full in place of an incremental."""
    planned = forecast(
        row(jitter=600.0, blackout=[{"hours": "02:00-05:00"}], **WEEKLY),
        Evidence("2026-03-06T02:00:00Z", FULL),
        slot_time("2026-03-07T12:00:00Z"),
        slot_time("2026-03-09T12:00:00Z"),
    )
    assert [(slot_text(one.at), one.kind.value, one.slot, one.why) for one in planned] == [
        (
            "2026-03-07T12:00:00Z",
            "backup-incremental",
            "2026-03-07T02:00:00Z",
            "incremental: 0 2 * * * (UTC), 600 s of jitter",
        ),
        (
            "2026-03-08T05:00:00Z",
            "backup-full",
            "2026-03-08T02:00:00Z",
            "full: 0 2 * * 0 (UTC), in place of the incremental, 600 s of jitter, after a blackout, until 05:00 UTC",
        ),
        (
            "2026-03-09T05:00:00Z",
            "backup-incremental",
            "2026-03-09T02:00:00Z",
            "incremental: 0 2 * * * (UTC), 600 s of jitter, after a blackout, until 05:00 UTC",
        ),
    ]


def test_a_first_backup_is_forecast_for_now() -> None:
    """And then the schedule goes on."""
    planned = forecast(row(full="1d"), None, NOON, NOON + timedelta(days=1))
    assert [(one.kind, one.why) for one in planned] == [
        (RunKind.FULL, "the first backup"),
        (RunKind.FULL, "full: 1d"),
    ]


def test_each_slot_that_has_passed_is_accounted_for() -> None:
    """Its own run, or why there is none and which run served it, or that it is due."""
    runs = [
        ran("2026-03-04T00:00:00Z", RunState.SUCCEEDED, hours=3.5, kind=RunKind.FULL),
        ran("2026-03-04T04:00:00Z", RunState.CANCELLED, error="cancelled by anna"),
        ran("2026-03-04T08:00:00Z", RunState.SUCCEEDED),
    ]
    every = row(incremental="1h", blackout=[{"hours": "05:30-06:30"}])
    evidence = Evidence("2026-03-04T08:00:00Z", "2026-03-04T00:00:00Z")
    until = slot_time("2026-03-04T10:10:00Z")
    found = account(every, evidence, runs, until, slot_time("2026-03-03T23:30:00Z"))
    nothing = "nothing was begun at its time: no scheduler ran, a site was not known, or `scheduling` let no more in"
    busy = "run 2026-03-04T0 was not over"
    assert [(one.slot[11:13], one.run[11:13], one.dropped) for one in found] == [
        ("00", "00", ""),
        ("01", "08", busy),
        ("02", "08", busy),
        ("03", "08", busy),
        ("04", "08", "its run 2026-03-04T0 ended as cancelled: cancelled by anna"),
        ("05", "08", nothing),
        ("06", "08", "it fell into a blackout, until 2026-03-04 06:30 UTC"),
        ("07", "08", nothing),
        ("08", "08", ""),
        ("09", "", nothing),
        ("10", "", ""),
    ]
