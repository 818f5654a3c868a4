"""A report of the fleet for people and for programs. Pure."""

from __future__ import annotations

from typing import Any

from cli import format as show
from cli.status.judge import Condition, Finding, Level, Problem, Report, Target
from cli.status.kit import kit_json, kit_line
from cli.terminal import style
from shared.kit.record import LastKit

TITLES = {Level.OK: "OK", Level.WARNING: "WARNING", Level.BAD: "NOT OK"}
_COLORS = {Level.OK: "green", Level.WARNING: "yellow", Level.BAD: "red"}
_MARKS = {Level.OK: " ", Level.WARNING: "-", Level.BAD: "!"}
_ERROR_AT_MOST = 160  # characters
_ID_SHOWN = 12
_TARGETS = (
    (Target.LATE, "late"),
    (Target.NEVER, "never backed up"),
    (Target.UNKNOWN, "not known yet"),
    (Target.NONE, "without a target"),
)


def lines(report: Report, kit: LastKit | None = None, *, most: int | None) -> list[str]:
    """The report, worst first; of the sources at most so many that need a look, or (None) all there are."""
    listed = [one for one in report.findings if most is None or one.condition.level or one.condition is Condition.FIRST]
    shown = listed[:most]
    width = max((len(one.source) for one in shown), default=0)
    head = [*_head(report), *([kit_line(kit, report.now)] if kit else [])]
    found = [*head, *(_problem(problem) for problem in report.problems)]
    for one in shown:
        found += _finding(one, report.now, width)
    if len(listed) > len(shown):
        found.append(f"and {show.count(len(listed) - len(shown), 'source')} more; --all shows every one")
    return found


def as_json(report: Report, kit: LastKit | None = None, *, every: bool) -> dict[str, Any]:
    """The same for programs; `sources` are those that are not good, or every one."""
    return {
        "level": report.level.name.lower(),
        "exit_code": int(report.level),
        "time": show.iso(report.now),
        "need_you": report.need_you,
        "rpo": {target.value: report.count(target) for target in Target} | {"sources": len(report.findings)},
        "scheduler": report.leading,
        "workers": report.workers,
        "running": report.running,
        "kit": kit_json(kit, report.now) if kit else None,
        "queues": [
            {"queue": one.queue, "runs": one.runs, "oldest": show.iso(one.oldest), "served": one.served}
            for one in report.waiting
        ],
        "problems": [
            {"level": one.level.name.lower(), "text": one.text, "try": one.command or None} for one in report.problems
        ],
        "sources": [
            {
                "source": one.source,
                "condition": one.condition.value,
                "level": one.condition.level.name.lower(),
                "rpo": one.target.value,
                "rpo_seconds": one.rpo,
                "last_good": show.iso(one.last_good) if one.last_good else None,
                "age_seconds": round(report.now - one.last_good) if one.last_good else None,
                "error": one.error or None,
                "run": one.run or None,
                "running": one.running,
                "owner": one.owner or None,
                "verified": show.iso(one.verified) if one.verified else None,
                "tested": show.iso(one.tested) if one.tested else None,
                "restore_rate": one.restore_rate or None,
                "rests": one.rests or None,
            }
            for one in report.findings
            if every or one.condition is not Condition.GOOD
        ],
    }


def _head(report: Report) -> list[str]:
    need = f"{report.need_you:,} need{'s' if report.need_you == 1 else ''} you" if report.need_you else ""
    title = style(f"{TITLES[report.level]:<8}", fg=_COLORS[report.level], bold=True)
    with_target = len(report.findings) - report.count(Target.NONE)
    counts = [f"{report.count(Target.MET):,} of {with_target:,} met"] if with_target else []
    counts += [f"{report.count(target):,} {word}" for target, word in _TARGETS if report.count(target)]
    waiting = sum(one.runs for one in report.waiting)
    runs = f"{report.running:,} under way    {waiting:,} waiting"
    if report.waiting:
        runs += f" (the oldest for {show.duration(max(0.0, report.now - min(one.oldest for one in report.waiting)))})"
    return [
        f"HOLDFAST  {title} {need:<20} {show.moment(report.now)}",
        f"RPO       {'    '.join(counts) or 'there are no sources'}",
        f"RUNS      {runs}",
        f"SERVICES  scheduler {'runs' if report.leading else 'GONE'}    {show.count(report.workers, 'worker')}",
    ]


def _problem(problem: Problem) -> str:
    way_out = f"\n    try: {problem.command}" if problem.command else ""
    return f"{_mark(problem.level)} {problem.text}{way_out}"


def _finding(one: Finding, now: float, width: int) -> list[str]:
    running = "    a backup is under way" if one.running and one.condition is not Condition.FIRST else ""
    error = " ".join(one.error.split())[:_ERROR_AT_MOST]
    first = f"{_mark(one.condition.level)} {one.source:<{width}}  {_said(one, now)}"
    notes = [f"try: {command}"] if (command := _command(one)) else []
    notes += [f"owner: {one.owner}"] if one.owner and one.condition.level else []
    lines = [f"{first}{'    ' + error if error else ''}{running}"]
    return [*lines, f"  {'':<{width}}  {'    '.join(notes)}"] if notes else lines


def _said(one: Finding, now: float) -> str:
    if one.condition is Condition.UNKNOWN:
        return "not known yet: the scheduler will ask the site"
    if one.condition is Condition.FIRST:
        return "its first backup is under way"
    if one.condition is Condition.NEVER:
        return "never backed up"
    if one.condition in {Condition.UNPLANNED, Condition.RESTING, Condition.GONE}:
        words = one.rests or "no policy backs it up"
        return f"{words}; last good {show.ago(one.last_good, now)}" if one.last_good else words
    good = f"last good {show.ago(one.last_good, now)}" if one.last_good else "no good backup known yet"
    target = f", target {show.duration(one.rpo)}" if one.rpo is not None else ""
    words = {
        Condition.FAILING: ", the last try failed",
        Condition.INCOMPLETE: ", without some files that could not be read",
        Condition.UNSERVED: ", and no worker serves it",
        Condition.DAMAGED: "; a verification or restore test found DAMAGE",
        Condition.OVERDUE: f"; {_last_checks(one, now)}",
    }.get(one.condition, "")
    return f"{good}{target}{words}"


def _last_checks(one: Finding, now: float) -> str:
    """When it was verified and test-restored last; one of them is overdue."""
    verified = f"verified {show.ago(one.verified, now)}" if one.verified else "not verified"
    return f"{verified}, {f'test-restored {show.ago(one.tested, now)}' if one.tested else 'not test-restored'}"


def _command(one: Finding) -> str:
    if one.condition.level is Level.OK or one.condition is Condition.UNSERVED:
        return ""  # nothing is wrong; or it is said once for the queue
    if one.condition is Condition.GONE:
        return f"holdfast sources drop {one.source}, where that is meant"
    if one.condition is Condition.DAMAGED:
        return f"holdfast verify {one.source}"
    if one.condition is Condition.OVERDUE:
        return f"holdfast runs list --source {one.source}"
    if one.run:
        return f"holdfast runs show {one.run[:_ID_SHOWN]}"
    if one.condition in {Condition.LATE, Condition.UNPLANNED}:
        return f"holdfast backup {one.source} --follow"
    if one.condition is Condition.UNKNOWN:
        return f"holdfast snapshots {one.source}"
    return ""


def _mark(level: Level) -> str:
    return style(_MARKS[level], fg=_COLORS[level], bold=True)
