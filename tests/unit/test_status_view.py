"""How a report of the fleet is shown: cli.status.view."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click
import pytest

from cli import format as show
from cli.status import view
from cli.status.judge import Condition, Finding, Level, Problem, Report, Source, Target, Waiting, judge
from shared.ledger.model import Evidence, Upkept
from shared.ledger.overview import Overview, SourceView

NOW = 1_772_420_000.0


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local time is UTC."""
    monkeypatch.setattr(show, "moment", show.iso)


def fleet() -> Report:
    """One late, one unknown, one good, and a queue that nobody serves."""
    late = Finding(
        "db/orders", Condition.LATE, Target.LATE, "payments", NOW - 18_720, 3600.0, "bad\n login", "8f21" * 8
    )
    new = Finding("new", Condition.UNKNOWN, Target.UNKNOWN, rpo=60.0)
    good = Finding("web1", Condition.GOOD, Target.MET, "it", NOW - 60, 3600.0)
    problem = Problem(Level.WARNING, "no worker serves host.x: 1 source, 1 run waiting", "start one")
    return Report(
        NOW,
        Level.BAD,
        (late, new, good),
        (problem,),
        (Waiting("host.x", 1, NOW - 250, served=False),),
        2,
        3,
        leading=True,
    )


def plain(report: Report, most: int | None) -> list[str]:
    """Its lines without colour, and without blanks at their ends."""
    return [click.unstyle(line).rstrip() for line in view.lines(report, most=most)]


def test_the_worst_is_read_first_with_its_way_out() -> None:
    """Title, targets, runs, services; then what is wrong, each with a command to copy. An error keeps to its line."""
    assert plain(fleet(), 20) == [
        "HOLDFAST  NOT OK   1 needs you          2026-03-02T02:53:20Z",
        "RPO       1 of 3 met    1 late    1 not known yet",
        "RUNS      2 under way    1 waiting (the oldest for 4m 10s)",
        "SERVICES  scheduler runs    3 workers",
        "- no worker serves host.x: 1 source, 1 run waiting\n    try: start one",
        "! db/orders  last good 5h 12m ago, target 1h 00m    bad login",
        "             try: holdfast runs show 8f218f218f21    owner: payments",
        "- new        not known yet: the scheduler will ask the site",
        "             try: holdfast snapshots new",
    ]


def test_what_is_left_out_is_counted() -> None:
    """Ten thousand late sources are no wall of text; --all shows the good ones too."""
    assert plain(fleet(), 1)[-1] == "and 1 source more; --all shows every one"
    assert plain(fleet(), None)[-1].startswith("  web1       last good 1m 00s ago, target 1h 00m")


def test_for_programs() -> None:
    """Times in UTC and in seconds; the good ones only when asked for."""
    got = view.as_json(fleet(), every=False)
    assert (got["level"], got["exit_code"], got["need_you"], got["scheduler"], got["workers"]) == ("bad", 2, 1, True, 3)
    assert got["rpo"] == {"met": 1, "late": 1, "never": 0, "unknown": 1, "none": 0, "sources": 3}
    assert [one["source"] for one in got["sources"]] == ["db/orders", "new"]
    assert got["sources"][0]["age_seconds"] == 18_720
    assert got["sources"][1]["last_good"] is None
    assert len(view.as_json(fleet(), every=True)["sources"]) == 3


def test_what_is_damaged_or_overdue_says_so_with_its_way_out() -> None:
    """And when it was last verified and restored."""
    source, now = Source("db", "backup", rpo=3600.0, verify=3600.0), 1_772_420_000.0
    fresh = SourceView(Evidence("2026-03-02T02:53:20Z"), None, now - 60)
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"verified": Upkept(now, 0.0, 24)}, "; a verification or restore test found DAMAGE", "holdfast verify db"),
        (
            {"verified": Upkept(now - 36_000, now - 36_000), "tested": Upkept(now, now - 60)},
            "; verified 10h 00m ago, test-restored 1m 00s ago",
            "holdfast runs list --source db",
        ),
    ]
    for more, said, command in cases:
        report = judge([source], Overview(now, True, 0, (), (), (replace(fresh, **more),)))
        shown = [click.unstyle(line) for line in view.lines(report, most=20)]
        assert [line for line in shown if said in line] != []
        assert [line for line in shown if command in line] != []
