"""Runs of the ledger for people and for programs. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cli import format as show
from cli.commands import backup, forget, replicate, restore_test
from cli.progress import describe
from cli.terminal import style

if TYPE_CHECKING:
    from shared.ledger.model import Run

ID_SHOWN = 12  # digits of an id that the lists show; any that are enough to tell it will do
_ERROR_AT_MOST = 70  # characters of an error in a list
_COLORS = {"failed": "red", "incomplete": "yellow", "cancelled": "yellow", "running": "cyan", "succeeded": "green"}
_HIDDEN = frozenset({"problems", "warnings", "notes"})  # of a result, shown apart


def as_json(run: Run, shards: Sequence[Run] = ()) -> dict[str, Any]:
    """One run for programs: all that the ledger has of it. `shards`: what it was cut in."""
    request = run.request
    more = {"shards": [as_json(shard) for shard in shards]} if shards else {}
    return {
        "id": run.id,
        "state": run.state.value,
        "kind": request.kind.value,
        "source": request.source,
        "host": run.host or None,
        "policy": request.policy or None,
        "slot": request.slot or None,
        "queue": request.queue,
        "parent": request.parent or None,
        "options": dict(request.options),
        "opened": _time(run.opened),
        "started": _time(run.started),
        "ended": _time(run.ended),
        "owner": run.owner or None,
        "attempt": run.attempt,
        "attempts": [
            {
                "number": one.number,
                "owner": one.owner,
                "started": _time(one.started),
                "ended": _time(one.ended),
                "error": one.error or None,
            }
            for one in run.attempts
        ],
        "progress": dict(run.progress),
        "result": dict(run.result),
        "error": run.error or None,
        "exit_code": run.exit_code,
        "cancelled_by": run.cancel_by or None,
        **more,
    }


def left_out(unread: Mapping[str, int]) -> list[str]:
    """What could not be read, by host (empty: the pools)."""
    return [
        f"{show.count(entries, 'entry', 'entries')} of {f'host {host}' if host else 'the pools'} "
        "can't be read, and left out: docs/agents.md"
        for host, entries in unread.items()
    ]


def table(runs: Sequence[Run], now: float, homes: Mapping[str, str] | None = None) -> list[str]:
    """A list of runs, as they come. `homes`: by source, the host that speaks for it: who else does is named."""
    if not runs:
        return ["there are no such runs"]
    rows = [("ID", "STATE", "KIND", "SOURCE", "WHEN", "TOOK", "")]
    rows += [
        (
            run.id[:ID_SHOWN],
            run.state.value,
            run.request.kind.value,
            _whose(run, homes or {}),
            show.ago(run.ended or run.started or run.opened, now),
            show.duration(max(0.0, (run.ended or now) - run.since)) if run.started else "-",
            _remark(run),
        )
        for run in runs
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = []
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row[:6], widths, strict=True)]
        cells[1] = style(cells[1], fg=_COLORS.get(row[1]))
        lines.append("  ".join([*cells, row[6]]).rstrip())
    return lines


def _whose(run: Run, homes: Mapping[str, str]) -> str:
    source = show.plain(run.request.source)
    strange = run.host and homes.get(run.request.source, run.host) != run.host
    return f"{source} on {run.host}" if strange else source


def details(run: Run, now: float, shards: Sequence[Run] = ()) -> list[str]:
    """All about one run, and what can be done about it. `shards`: what it was cut in."""
    request = run.request
    state = style(run.state.value, fg=_COLORS.get(run.state.value), bold=True)
    lines = [
        f"run      {run.id}",
        f"state    {state}{_since(run, now)}",
        f"what     {request.kind.value} of {request.source}{f' by policy {request.policy}' if request.policy else ''}",
        f"slot     {request.slot or 'none: asked for by hand'}",
        f"queue    {request.queue}",
    ]
    lines += [f"host     {run.host}, whose agent tells all of this"] if run.host else []
    lines += [f"part of  run {request.parent}"] if request.parent else []
    lines += [f"option   {name}: {_plain(value)}" for name, value in sorted(_shown(request.options).items())]
    lines.append(f"opened   {show.moment(run.opened)}, {show.ago(run.opened, now)}")
    if run.started:
        lines.append(f"started  {show.moment(run.started)}, by {run.owner}, attempt {run.attempt}")
    if run.ended:
        took = f", after {show.duration(max(0.0, run.ended - run.since))}" if run.started else ""
        lines.append(f"ended    {show.moment(run.ended)}, {show.ago(run.ended, now)}{took}")
    if run.cancel_by and not run.state.is_final:
        lines.append(f"cancel   asked for by {run.cancel_by}; its worker is told within seconds")
    lines += _progress(run, now)
    lines += [_shard(shard, now) for shard in shards]
    for one in run.attempts:
        given = "cut in shards, or given back" if run.began else "given back"
        said = one.error or ("ended well" if run.state.is_final and one is run.attempts[-1] else given)
        took = show.duration(max(0.0, one.ended - one.started))
        lines.append(f"attempt  {one.number} by {one.owner}, {show.moment(one.started)}, {took}: {said}")
    lines += _said(run)
    if run.error:
        lines.append(f"error    {run.error} (exit code {run.exit_code})" if run.exit_code else f"error    {run.error}")
    lines = [line.replace("\n", f"\n{'':<9}") for line in lines]  # what somebody wrote stays in its column
    return [*lines, *(f"try      {show.plain(command)}" for command in ways_out(run))]


def ways_out(run: Run) -> list[str]:
    """The commands that a person may want next."""
    name = run.id[:ID_SHOWN]
    source = run.request.source
    if not run.state.is_final:
        waits = ["holdfast status   # does a worker serve its queue?"] if run.state.value == "queued" else []
        return [f"holdfast runs follow {name}", *waits, f"holdfast runs cancel {name}"]
    if run.state.value in {"failed", "cancelled"}:
        return [f"holdfast runs retry {name} --follow"]
    if run.request.kind.is_backup:
        return [f"holdfast snapshots {source}"]
    return []


def _since(run: Run, now: float) -> str:
    if run.state.is_final:
        return ""
    if run.state.value == "queued":
        rung = f", rung for {show.count(run.rings, 'time')}" if run.rings else ""
        return f" for {show.duration(max(0.0, now - run.opened))}{rung}; no worker has it"
    return f" for {show.duration(max(0.0, now - run.since))}"


def _shown(options: Mapping[str, object]) -> dict[str, object]:
    """A shard counts from 0 for programs, from 1 for people; its plan is for programs alone."""
    shown = {name: value for name, value in options.items() if name not in {"plan", "shard", "of"}}
    number = options.get("shard")
    return {**shown, "shard": f"{number + 1} of {options.get('of')}"} if isinstance(number, int) else shown


def _shard(shard: Run, now: float) -> str:
    state = style(shard.state.value, fg=_COLORS.get(shard.state.value))
    took = f", {show.duration(max(0.0, (shard.ended or now) - shard.started))}" if shard.started else ""
    by = f" by {shard.owner}" if shard.owner else ""
    said = shard.error or describe(shard.progress)
    if shard.is_over and not shard.error:
        result = shard.result
        said = f"{show.size(_number(result, 'bytes_read'))} read, {show.size(_number(result, 'bytes_stored'))} stored"
    return f"shard    {shard.id[:ID_SHOWN]}: {state}{by}{took}{f': {said}' if said else ''}"


def _progress(run: Run, now: float) -> list[str]:
    if run.state.is_final or not run.progress:
        return []
    said = describe(run.progress)
    seconds = max(0.1, now - run.since)
    count, total = _number(run.progress, "bytes"), _number(run.progress, "bytes_total")
    if count:
        said += f", {show.rate(count, seconds)}"
    if count and total > count:
        said += f", {show.duration((total - count) * seconds / count)} left"
    current = str(run.progress.get("current", ""))
    return [f"so far   {said}{f': {current}' if current else ''}"]


def _said(run: Run) -> list[str]:
    if run.request.kind.is_backup:
        return _backup(run)
    if run.request.kind.value == "forget" and "forgotten" in run.result:
        return [f"result   {line}" for line in forget.describe(run.result)]
    if run.request.kind.value == "replicate" and "owed" in run.result:
        return [f"result   {line}" for line in replicate.describe(run.result)]
    if run.request.kind.value == "restore-test" and "snapshot_time" in run.result:
        return [f"result   {line}" for line in restore_test.describe(run.result)]
    return _result(run.result)


def _backup(run: Run) -> list[str]:
    if "snapshot" not in run.result:
        return []
    more = {name: value for name, value in run.result.items() if name != "notes"}  # which `describe` tells
    return [f"result   {line}" for line in backup.describe(run.result)] + _several(more)


def _result(result: Mapping[str, object]) -> list[str]:
    plain = {name: value for name, value in result.items() if name not in _HIDDEN and value not in ("", None, [], {})}
    lines = [f"result   {', '.join(f'{name} {_plain(value)}' for name, value in plain.items())}"] if plain else []
    return lines + _several(result)


def _several(result: Mapping[str, object]) -> list[str]:
    lines = []
    for name in sorted(_HIDDEN):
        found = result.get(name)
        if isinstance(found, list):
            lines += [f"{name[:-1]:<8} {one}" for one in found[:10]]
            lines += [f"{'':<8} and {len(found) - 10:,} more"] if len(found) > 10 else []
    return lines


def _remark(run: Run) -> str:
    if run.error:
        error = " ".join(run.error.split())
        return error if len(error) <= _ERROR_AT_MOST else f"{error[: _ERROR_AT_MOST - 3]}..."
    if run.cancel_by and not run.state.is_final:
        return f"{run.cancel_by} asked for its end"
    if not run.state.is_final:
        return describe(run.progress)
    snapshot = run.result.get("snapshot")
    return f"snapshot {str(snapshot)[:8]}" if snapshot else ""


def _plain(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(progress: Mapping[str, object], name: str) -> float:
    value = progress.get(name, 0)
    return float(value) if isinstance(value, int | float) else 0.0


def _time(seconds: float) -> str | None:
    return show.iso(seconds) if seconds else None
