"""A source that is paused, or retired: nothing of it becomes due, nobody waits for it, its snapshots stay."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.status.judge import Condition, Level, Source, judge
from scheduler.standing import survey, table_of
from shared.config.fleet import Fleet
from shared.errors import ConfigError
from shared.ledger.model import RunKind
from shared.ledger.overview import Overview, SourceView
from shared.ledger.sweep import SourceState
from tests.support.fleets import SmallFleet
from workers import upkeep_specs

DAY = timedelta(days=1)
FULL = "2026-03-04T00:00:00Z"
KEPT = "full: 1d, verify: 1d, restore_test: 1d, retention: {keep_last: 1}"


def fleet_with(base: Path, keys: str) -> Fleet:
    """A fleet whose one source says this besides."""
    small = SmallFleet(str(base), policy="full: 1d, retention: {keep_last: 1}")
    small.change("web1: {", f"web1: {{{keys}, ")
    return small.fleet


def due(fleet: Fleet, now: datetime) -> list[str]:
    """The sources of which something is due, where the ledger knows nothing and the site has nothing."""
    rows = table_of(fleet).rows
    standing = survey([(row, SourceState("", "")) for row in rows], now, {row.source: None for row in rows})
    return [one.row.source for one in standing.wanted]


@pytest.mark.parametrize(
    "written", ["2027-01-31", '"2027-01-31"', "2027-01-31T00:00:00Z", '"2027-01-31T01:00:00+01:00"']
)
def test_a_paused_source_is_due_when_its_pause_is_over(tmp_path: Path, written: str) -> None:
    """However the day is written: as a day or a time, in quotes or not, in a zone or in UTC."""
    fleet = fleet_with(tmp_path, f"paused_until: {written}")
    end = datetime(2027, 1, 31, tzinfo=UTC)
    assert due(fleet, end - timedelta(seconds=1)) == []
    assert due(fleet, end) == ["web1"]
    source = fleet.source("web1")
    assert source.rests((end - DAY).timestamp()) == "paused until 2027-01-31 00:00 UTC"
    assert source.rests(end.timestamp()) == ""


def test_what_is_stored_of_a_paused_source_is_looked_after(tmp_path: Path) -> None:
    """It is verified, test-restored and pruned as ever; but nothing of it is forgotten."""
    fleet = SmallFleet(
        str(tmp_path / "more"), policy="full: 1d, verify: 1d, restore_test: 1d, retention: {keep_last: 1}"
    )
    fleet.change("web1: {", "web1: {paused_until: 2030-01-31, ")
    (row,) = table_of(fleet.fleet).rows
    start = datetime(2026, 3, 4, tzinfo=UTC)
    kinds = {
        one.due.kind
        for minute in range(7 * 1440)
        for one in survey([(row, SourceState(FULL, FULL))], start + timedelta(minutes=minute), {}).upkeep
    }
    assert kinds == {RunKind.PRUNE, RunKind.VERIFY, RunKind.RESTORE_TEST}


def test_a_retired_source_is_never_due(tmp_path: Path) -> None:
    """Not after its day either: from then on rules may forget, and nothing else changes."""
    fleet = fleet_with(tmp_path, "retired: 2027-01-31")
    assert due(fleet, datetime(2030, 1, 1, tzinfo=UTC)) == []
    assert "retired; its snapshots are kept until 2027-01-31" in fleet.source("web1").rests(time.time())


def test_rules_forget_nothing_of_a_retired_source_before_its_day(tmp_path: Path) -> None:
    """Somebody who names the snapshots still may, and after that day the policy's rules hold."""
    kept = fleet_with(tmp_path, f"retired: {datetime.now(UTC) + DAY:%Y-%m-%d}")
    with pytest.raises(ConfigError, match="web1 is retired; its snapshots are kept until"):
        upkeep_specs.forget_spec(kept, "web1", {}, run="ab" * 16)
    assert upkeep_specs.forget_spec(kept, "web1", {"snapshots": ["ab" * 32]}, run="ab" * 16).snapshots == ["ab" * 32]
    (tmp_path / "past").mkdir()
    past = fleet_with(tmp_path / "past", f"retired: {datetime.now(UTC) - DAY:%Y-%m-%d}")
    assert upkeep_specs.forget_spec(past, "web1", {}, run="ab" * 16).rules is not None


def test_nobody_waits_for_it(tmp_path: Path) -> None:
    """However old its last backup is, `status` is content; what is damaged is said all the same."""
    source = Source("web1", "backup", scheduled=False, rests="paused until 2027-01-31 00:00 UTC")
    report = judge([source], Overview(time.time(), True, 0, (), (), (SourceView(),)))
    assert (report.findings[0].condition, report.level) == (Condition.RESTING, Level.OK)


@pytest.mark.parametrize("written", ["soon", "7", "7.5", "true", "2027-13-01"])
def test_a_day_that_is_none_is_named(tmp_path: Path, written: str) -> None:
    """With what was expected."""
    with pytest.raises(ConfigError, match=r"paused_until.*expected a day or a time, such as 2027-01-31"):
        fleet_with(tmp_path, f"paused_until: {written}")
