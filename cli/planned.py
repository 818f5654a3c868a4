"""What `holdfast schedule` shows: the scheduler's own functions, asked about the hours to come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cli import format as show
from scheduler.due import due
from scheduler.forecast import account, forecast
from scheduler.standing import admission_of, in_turn, let_in, survey, table_of
from shared.ledger import sweep
from shared.ledger.model import Evidence, RunKind
from shared.messaging.client import all_runs, ledger_of

if TYPE_CHECKING:
    from scheduler.standing import Scheduled
    from shared.config.fleet import Fleet
    from shared.ledger.sweep import SourceState

_REMEMBERED = 100  # runs of a source


def gather(fleet: Fleet, source: str | None, hours: int) -> dict[str, Any]:
    """What is to come, as JSON. Raises LedgerAway."""
    table = table_of(fleet)
    states = sweep.states(ledger_of(fleet), table.places)
    now = datetime.now(UTC)
    until = now + timedelta(hours=hours)
    rows = list(zip(table.rows, states, strict=True))
    standing = survey(rows, now, {})
    held = {one.source: f"the ledger does not know it: site {one.site} is asked" for one in standing.unasked}
    held |= {name: f"blackout until {end:%Y-%m-%d %H:%M} UTC" for name, end in standing.closed.items()}
    turns = let_in(admission_of(fleet, table, states), in_turn(standing.wanted))
    held |= {one.row.source: refusal or "the next tick opens it" for one, refusal in turns}
    held |= {row.source: _open_now(state) for row, state in rows if state.busy}
    held |= {name: str(error) for name, error in table.unknown.items()}
    unknown = {one.source for one in standing.unasked}
    runs = [
        {
            "source": one.source,
            "kind": one.kind.value,
            "slot": one.slot,
            "at": show.iso(one.at.timestamp()),
            "why": one.why,
        }
        for row, state in rows
        if source in (None, row.source) and row.source not in unknown
        for one in forecast(row, _known(row, state, now), now, until)
    ]
    runs.sort(key=lambda one: (one["at"], one["source"]))
    waiting = [{"source": name, "why": why} for name, why in sorted(held.items()) if source in (None, name)]
    return {"from": show.iso(now.timestamp()), "until": show.iso(until.timestamp()), "held": waiting, "runs": runs}


def look_back(fleet: Fleet, source: str, hours: int) -> dict[str, Any]:
    """What became of the slots of a source, as JSON. Raises LedgerAway."""
    table = table_of(fleet)
    now = datetime.now(UTC)
    since = now - timedelta(hours=hours)
    slots: list[dict[str, Any]] = []
    for row in (one for one in table.rows if one.source == source):
        (state,) = sweep.states(ledger_of(fleet), ((row.host, row.source, row.site),))
        runs = all_runs(fleet, open_only=False, source=source, count=_REMEMBERED)
        runs = [run for run in runs if run.host == row.host]  # no host speaks for another's source
        slots += [
            {"kind": one.kind.value, "slot": one.slot, "run": one.run or None, "reason": one.dropped}
            for one in account(row, state.evidence, runs, now, since)
            if one.dropped
        ]
    return {"source": source, "from": show.iso(since.timestamp()), "until": show.iso(now.timestamp()), "dropped": slots}


def _open_now(state: SourceState) -> str:
    return "a backup of it waits for a worker" if state.waits else "a backup of it is queued or under way"


def _known(row: Scheduled, state: SourceState, now: datetime) -> Evidence | None:
    """What the ledger knows; of a backup that is open, that it will have served what is due."""
    evidence = state.evidence
    if not state.busy:
        return evidence
    run = due(row.timetable.slots(now.timestamp() - row.jitter), evidence, now)
    if run is None:
        return evidence
    return Evidence(run.slot, run.slot if run.kind is RunKind.FULL or evidence is None else evidence.last_full)


def lines_of_plan(plan: dict[str, Any], most: int | None) -> list[str]:
    """The same for people, in local time."""
    waiting = [f"{'now':<16}  {one['source']}  {one['why']}" for one in plan["held"]]
    lines = waiting + [
        f"{_local(one['at']):<16}  {one['source']}  {one['kind'].removeprefix('backup-')}  {one['why']}"
        for one in plan["runs"]
    ]
    return _cut(lines, most) or [f"nothing until {_local(plan['until'])}"]


def lines_of_past(past: dict[str, Any], most: int | None) -> list[str]:
    """The same of slots that have passed."""
    lines = [
        f"{_local(one['slot']):<16}  {one['kind'].removeprefix('backup-')}  {one['reason']}"
        + (f"; served by run {one['run'][:12]}" if one["run"] else "; served by a later run, or to be")
        for one in past["dropped"]
    ]
    return _cut(lines, most) or [f"since {_local(past['from'])} each slot was served by a run of its own, or is due"]


def _cut(lines: list[str], most: int | None) -> list[str]:
    if most is None or len(lines) <= most:
        return lines
    return [*lines[:most], f"and {len(lines) - most} more: --all"]


def _local(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")
