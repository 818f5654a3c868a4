"""What will run and why, and what became of the slots that have passed. Pure: everything is an argument."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from scheduler.due import Due, due
from scheduler.timetable import slots_since
from shared.ledger.model import Evidence, Run, RunKind, RunState, slot_text, slot_time

if TYPE_CHECKING:
    from scheduler.standing import Scheduled

_COMMITTED = {RunState.SUCCEEDED, RunState.INCOMPLETE}
_SHOWN = 12  # digits of a run's id


@dataclass(frozen=True, slots=True)
class Planned:
    """A run that is to come."""

    source: str
    kind: RunKind
    slot: str
    at: datetime  # when it becomes due, in UTC; not before now
    why: str


@dataclass(frozen=True, slots=True)
class Accounted:
    """A slot that has passed."""

    kind: RunKind
    slot: str
    run: str  # the id of the one that served it; empty: none yet, or none that is remembered
    dropped: str  # why no run of its own did; empty: one did, or it is due


def forecast(row: Scheduled, evidence: Evidence | None, now: datetime, until: datetime) -> list[Planned]:
    """The runs of a source that become due from now on, if each of them ends well and before the next."""
    jitter, policy = timedelta(seconds=row.jitter), row.policy
    moments = {now}
    for schedule in (policy.full, policy.incremental):
        if schedule is not None:
            found = slots_since(schedule, now - jitter, until - jitter, policy.timezone)
            moments.update(slot + jitter for slot in found if slot + jitter > now)
    planned: list[Planned] = []
    known = evidence or Evidence()
    for moment, closed in sorted({(row.timetable.closed_until(one) or one, one) for one in moments}):
        run = due(row.timetable.slots((moment - jitter).timestamp()), known, moment)
        if run is None or moment > until:
            continue
        planned.append(Planned(row.source, run.kind, run.slot, moment, _why(row, run, known, moment, closed)))
        known = Evidence(run.slot, run.slot if run.kind is RunKind.FULL else known.last_full)
    return planned


def _why(row: Scheduled, run: Due, known: Evidence, moment: datetime, slot_due: datetime) -> str:
    policy = row.policy
    schedule = policy.full if run.kind is RunKind.FULL else policy.incremental
    zone = "" if schedule is None or schedule.is_cron is False else f" ({policy.timezone})"
    if not known.last:
        said = ["the first backup"]
    elif run.kind is RunKind.FULL and not known.last_full:
        said = ["no full one is known"]
    else:
        said = [f"{run.kind.value.removeprefix('backup-')}: {schedule}{zone}"]
        if run.kind is RunKind.FULL and row.timetable.slots(moment.timestamp() - row.jitter).incremental > known.last:
            said.append("in place of the incremental")
        if row.jitter and slot_text(slot_due) != run.slot:
            said.append(f"{row.jitter:.0f} s of jitter")
    if moment > slot_due:
        said.append(f"after a blackout, until {moment.astimezone(UTC):%H:%M} UTC")
    return ", ".join(said)


def account(
    row: Scheduled, evidence: Evidence | None, runs: Iterable[Run], now: datetime, since: datetime
) -> list[Accounted]:
    """What became of each slot after `since`, oldest first. `runs`: the source's, those that are open too."""
    backups = sorted((run for run in runs if run.request.kind.is_backup), key=lambda run: run.request.slot)
    jitter, policy = timedelta(seconds=row.jitter), row.policy
    slots: set[tuple[str, RunKind]] = set()
    for schedule, kind in ((policy.full, RunKind.FULL), (policy.incremental, RunKind.INCREMENTAL)):
        if schedule is not None:
            found = slots_since(schedule, since, now - jitter, policy.timezone)
            slots.update((slot_text(slot), kind) for slot in found if slot > since)
    newest = {kind: max(slot for slot, other in slots if other is kind) for _, kind in slots}
    known = evidence or Evidence()
    accounted = []
    for slot, kind in sorted(slots):
        served = known.last_full if kind is RunKind.FULL else known.last
        later = [run for run in backups if run.request.slot >= slot and _serves(run, kind)]
        by = next((run for run in later if run.state in _COMMITTED), None)
        if by is None and served < slot == newest[kind]:
            accounted.append(Accounted(kind, slot, "", ""))  # it is due
            continue
        own = served == slot or (by is not None and by.request.slot == slot)
        reason = "" if own else _reason(row, kind, slot, backups)
        accounted.append(Accounted(kind, slot, by.id if by else "", reason))
    return accounted


def _serves(run: Run, kind: RunKind) -> bool:
    return kind is RunKind.INCREMENTAL or run.request.kind is RunKind.FULL


def _reason(row: Scheduled, kind: RunKind, slot: str, backups: Sequence[Run]) -> str:
    """Why a slot has no run of its own that ended well."""
    moment = slot_time(slot) + timedelta(seconds=row.jitter)
    for run in backups:
        if run.request.slot == slot and _serves(run, kind) and run.is_over and run.state not in _COMMITTED:
            return f"its run {run.id[:_SHOWN]} ended as {run.state.value}: {run.error or 'no reason is known'}"
    closed = row.timetable.closed_until(moment)
    if closed is not None:
        return f"it fell into a blackout, until {closed:%Y-%m-%d %H:%M} UTC"
    for run in backups:
        if run.opened <= moment.timestamp() < (run.ended or moment.timestamp() + 1):
            return f"run {run.id[:_SHOWN]} was not over"
    if not backups or min(run.opened for run in backups) > moment.timestamp():
        return "nothing was begun at its time that is still remembered"
    return "nothing was begun at its time: no scheduler ran, a site was not known, or `scheduling` let no more in"
