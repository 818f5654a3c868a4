"""How the fleet is judged: cli.status.judge, with a clock of the test's own."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cli.status.judge import Condition, Level, Report, Source, Target, judge, start_command
from shared.ledger.model import Evidence, RunKind, RunState, Upkept, slot_text
from shared.ledger.overview import Ended, OpenRun, Overview, SourceView, Worker

NOW = 1_772_420_000.0
HOUR = 3600.0
SLOT = "2026-03-02T00:00:00Z"
WORKER = Worker("worker-1@web", ("backup", "restore", "maintenance"))


def known(age: float, *, newest: Ended | None = None, good: float = 0.0) -> SourceView:
    """A source whose newest snapshot has a slot of this age in seconds."""
    return SourceView(Evidence(slot_text(datetime.fromtimestamp(NOW - age, UTC))), newest, good)


def ended(state: RunState, *, slot: str = SLOT, kind: RunKind = RunKind.FULL) -> Ended:
    """The newest backup that is over."""
    error = "pg_dump: authentication failed" if state is RunState.FAILED else ""
    return Ended("8f21" * 8, state, kind, NOW - 60, error, slot)


def run(
    state: RunState, *, error: str = "", slot: str = SLOT, kind: RunKind = RunKind.FULL, queue: str = "backup"
) -> OpenRun:
    """A run of the source that is not over."""
    return OpenRun("3c0d" * 8, state, kind, "db", queue, NOW - 90, error=error, slot=slot)


def report(
    view: SourceView | None = None,
    *runs: OpenRun,
    rpo: float | None = HOUR,
    scheduled: bool = True,
    workers: tuple[Worker, ...] = (WORKER,),
    leading: bool = True,
    ticks: int = 0,
    queue: str = "backup",
    verify: float | None = None,
) -> Report:
    """The judgement of a fleet of one source, or of none."""
    sources = [] if view is None else [Source("db", queue, "payments", rpo, scheduled=scheduled, verify=verify)]
    views = () if view is None else (view,)
    return judge(sources, Overview(NOW, leading, ticks, runs, workers, views))


@pytest.mark.parametrize(
    ("age", "rpo", "condition", "target", "level"),
    [
        (HOUR, HOUR, Condition.GOOD, Target.MET, Level.OK),
        (HOUR + 1, HOUR, Condition.LATE, Target.LATE, Level.BAD),
        (1000 * HOUR, None, Condition.GOOD, Target.NONE, Level.OK),
        (-5.0, HOUR, Condition.GOOD, Target.MET, Level.OK),
    ],
    ids=["on the target", "a second over it", "no target", "a slot ahead of the clock"],
)
def test_a_source_is_late_when_its_newest_backup_is_older_than_its_target(
    age: float, rpo: float | None, condition: Condition, target: Target, level: Level
) -> None:
    """To the second, by Redis's clock; a source without a target is never late."""
    got = report(known(age), rpo=rpo)
    assert [(one.condition, one.target) for one in got.findings] == [(condition, target)]
    assert got.level is level


def test_a_backup_counts_from_when_it_began_where_that_is_known() -> None:
    """A slot that was served hours late holds what was there hours later."""
    assert report(known(5 * HOUR, good=NOW - 60)).findings[0].target is Target.MET


def test_an_incomplete_backup_does_not_count_for_the_target() -> None:
    """It serves its slot; but what it could not read is as old as the last whole one."""
    got = report(known(60, newest=ended(RunState.INCOMPLETE), good=NOW - 2 * HOUR)).findings[0]
    assert (got.condition, got.target, got.last_good) == (Condition.LATE, Target.LATE, NOW - 2 * HOUR)


NEVER = (Condition.NEVER, Target.NEVER, Level.BAD)
UNKNOWN = (Condition.UNKNOWN, Target.UNKNOWN, Level.WARNING)


@pytest.mark.parametrize(
    ("view", "runs", "expected"),
    [
        (SourceView(), [], UNKNOWN),
        (SourceView(newest=ended(RunState.FAILED)), [], NEVER),
        (SourceView(), [run(RunState.QUEUED)], NEVER),
        (SourceView(), [run(RunState.QUEUED, slot="")], UNKNOWN),
        (SourceView(), [run(RunState.QUEUED, kind=RunKind.INCREMENTAL)], UNKNOWN),
        (SourceView(), [run(RunState.RUNNING)], (Condition.FIRST, Target.UNKNOWN, Level.OK)),
        (SourceView(newest=ended(RunState.FAILED, slot="")), [], (Condition.FAILING, Target.UNKNOWN, Level.WARNING)),
    ],
    ids=["nothing", "failed", "queued", "queued by hand", "incremental", "running", "failed by hand"],
)
def test_never_backed_up_is_said_only_where_it_is_certain(
    view: SourceView, runs: list[OpenRun], expected: tuple[Condition, Target, Level]
) -> None:
    """A wiped ledger knows nothing; but the schedule's first full is opened only after a look at the site."""
    got = report(view, *runs)
    assert (got.findings[0].condition, got.findings[0].target, got.level) == expected


@pytest.mark.parametrize(
    ("view", "runs", "condition"),
    [
        (known(60, newest=ended(RunState.FAILED)), [], Condition.FAILING),
        (known(60), [run(RunState.QUEUED, error="its worker stopped answering")], Condition.FAILING),
        (known(60, newest=ended(RunState.INCOMPLETE)), [], Condition.INCOMPLETE),
        (known(60, newest=ended(RunState.CANCELLED)), [], Condition.GOOD),
        (known(2 * HOUR, newest=ended(RunState.FAILED)), [], Condition.LATE),
    ],
    ids=["failed", "tried again", "incomplete", "cancelled", "late and failed"],
)
def test_the_worst_that_is_true_is_said(view: SourceView, runs: list[OpenRun], condition: Condition) -> None:
    """A failure is a warning for as long as the target is met; what a person cancelled is no failure."""
    assert report(view, *runs).findings[0].condition is condition


def test_a_finding_names_the_run_and_the_error_to_look_at() -> None:
    """So that the next command can be copied."""
    one = report(known(2 * HOUR, newest=ended(RunState.FAILED))).findings[0]
    assert (one.run, one.error, one.owner) == ("8f21" * 8, "pg_dump: authentication failed", "payments")


def test_a_source_without_a_policy_is_a_warning() -> None:
    """Nothing would ever back it up by itself."""
    got = report(known(60), rpo=None, scheduled=False, leading=False, workers=())
    assert (got.findings[0].condition, got.level, got.problems) == (Condition.UNPLANNED, Level.WARNING, ())


@pytest.mark.parametrize(
    ("services", "said", "level"),
    [
        ({"leading": False}, "no scheduler runs", Level.BAD),
        ({"ticks": 11}, "does not take its ticks: 11 wait", Level.BAD),
        ({"workers": ()}, "no worker runs", Level.BAD),
        ({"queue": "host.web1"}, "no worker serves host.web1: 1 source, 0 runs waiting", Level.WARNING),
        ({"workers": (Worker("w", ("backup",), drained=True),)}, "no worker serves backup", Level.WARNING),
    ],
    ids=["no scheduler", "ticks wait", "no worker", "unserved queue", "drained"],
)
def test_what_runs_the_backups_is_judged_too(services: dict[str, object], said: str, level: Level) -> None:
    """A target that is still met will not be for long."""
    got = report(known(60), **services)  # type: ignore[arg-type] # one test, several settings
    assert (len(got.problems), got.level) == (1, level)
    assert said in got.problems[0].text


def test_an_empty_fleet_is_well() -> None:
    """Nothing is wanted, and nothing is missing."""
    got = report(leading=False, workers=())
    assert (got.level, got.findings, got.problems) == (Level.OK, (), ())


def test_the_worst_stands_first() -> None:
    """By condition, then by how many times over its target a source is, then by name."""
    names = ["good", "late", "later", "never", "failing", "b", "a"]
    views = (
        known(60),
        known(2 * HOUR),
        known(5 * HOUR),
        SourceView(newest=ended(RunState.FAILED)),
        known(60, newest=ended(RunState.FAILED)),
        SourceView(),
        SourceView(),
    )
    sources = [Source(name, "backup", rpo=HOUR) for name in names]
    got = judge(sources, Overview(NOW, leading=True, ticks=0, runs=(), workers=(WORKER,), sources=views))
    assert [one.source for one in got.findings] == ["never", "later", "late", "failing", "a", "b", "good"]
    assert (got.need_you, got.count(Target.MET), got.count(Target.LATE)) == (3, 2, 2)


def test_what_waits_is_counted_by_queue_with_its_age() -> None:
    """What nobody serves stands first."""
    runs = [run(RunState.QUEUED, queue="host.web1"), run(RunState.QUEUED), run(RunState.QUEUED), run(RunState.RUNNING)]
    got = report(known(60), *runs)
    waiting = [(one.queue, one.runs, NOW - one.oldest, one.served) for one in got.waiting]
    assert waiting == [("host.web1", 1, 90.0, False), ("backup", 2, 90.0, True)]
    assert got.running == 1


@pytest.mark.parametrize(
    ("queue", "command"),
    [
        ("backup", "holdfast worker start"),
        ("pool.dc1.restore", "holdfast worker start --pool dc1"),
        ("host.web1", "on that host: holdfast worker start --host web1"),
        ("host.web1.restore", "on that host: holdfast worker start --host web1"),
    ],
)
def test_the_way_out_of_a_queue_that_nobody_serves(queue: str, command: str) -> None:
    """Each kind of queue has its worker."""
    assert start_command(queue) == command


@pytest.mark.parametrize("what", ["verified", "tested"])
def test_damage_comes_first(what: str) -> None:
    """Whoever found it, and however fresh the backups are: somebody is needed. Found well again, it is over."""
    for code, condition, level in ((24, Condition.DAMAGED, Level.BAD), (0, Condition.GOOD, Level.OK)):
        view = replace(known(60), **{what: Upkept(NOW - 60, NOW - 86400, code)})
        got = report(view)
        assert (got.findings[0].condition, got.level) == (condition, level)


@pytest.mark.parametrize(
    ("age", "verify", "condition"),
    [
        (15 * HOUR, 10 * HOUR, Condition.GOOD),
        (17 * HOUR, 10 * HOUR, Condition.OVERDUE),  # what was missed comes within six hours
        (149 * HOUR, 100 * HOUR, Condition.GOOD),
        (151 * HOUR, 100 * HOUR, Condition.OVERDUE),
        (151 * HOUR, None, Condition.GOOD),
    ],
)
def test_a_verification_that_is_overdue(age: float, verify: float | None, condition: Condition) -> None:
    """By half as long again as the policy says; one that never was may be new."""
    got = report(replace(known(60), verified=Upkept(NOW - 60, NOW - age, 25)), verify=verify)
    assert got.findings[0].condition is condition
    assert report(known(60), verify=verify).findings[0].condition is Condition.GOOD
