"""`holdfast backup`: one backup of one source, now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from cli import format as show
from cli import runs
from cli.apart import Apart
from cli.app import App, global_options, pass_app
from shared.errors import EXIT_INCOMPLETE, EXIT_OK

_PROBLEMS_SHOWN = 10


@click.command(
    epilog="""\b
Examples:
  holdfast backup web1 --direct           # here and now, in this process
  holdfast backup web1 --follow           # by a worker; waits and shows how far it is
  holdfast backup db/orders --full        # reads every byte, trusts nothing""",
)
@click.argument("source")
@click.option("--full", is_flag=True, help="Read every byte, and check that what is stored is there.")
@click.option("--direct", is_flag=True, help="In this process, without Redis and workers.")
@click.option("--follow", "-f", is_flag=True, help="Wait for the end, and show how far it is.")
@global_options
@pass_app
def command(app: App, source: str, full: bool, direct: bool, follow: bool) -> int:
    """Back up SOURCE now.

    Without --full it is incremental: only what has changed is read. Exit code 3: the snapshot is made, but
    some files could not be read.
    """
    if direct:
        return _direct(app, source, full=full)
    from shared.ledger.model import RunKind

    kind = RunKind.FULL if full else RunKind.INCREMENTAL
    app.fleet.source(source)
    run_id = runs.ring(app, kind, source, {})
    if not follow:
        app.result({"run": run_id, "source": source}, f"run {run_id} is rung for; --follow would wait for its end")
        return EXIT_OK
    run = runs.follow(app, run_id, source)
    _report(app, run.result)
    return runs.exit_code_of(run)


def _direct(app: App, source: str, *, full: bool) -> int:
    with Apart(lambda: _plan(app, source, full=full)) as plan:
        from workers.backup.run import run_backup
        from workers.backup.spec import BackupSpec

        spec = BackupSpec.from_json(plan.result())
    result = runs.run_direct(app, source, lambda on_event: run_backup(spec, on_event))
    _report(app, result.to_json())
    return EXIT_OK if result.complete else EXIT_INCOMPLETE


def _plan(app: App, source: str, *, full: bool) -> dict[str, Any]:
    """What the engine is to do, by the configuration. Raises ConfigError, UsageError."""
    from shared.ledger.model import RunKind, RunRequest, new_run_id
    from workers.specs import spec_for

    runs.require_local(app, source, "Run this")
    kind = RunKind.FULL if full else RunKind.INCREMENTAL
    return spec_for(app.fleet, RunRequest(id=new_run_id(), kind=kind, source=source))


def _report(app: App, result: Mapping[str, Any]) -> None:
    if not app.json:
        for warning in result.get("warnings", []):
            app.warn(f"{warning}; see `holdfast verify`")
        problems = result.get("problems", [])
        for problem in problems[:_PROBLEMS_SHOWN]:
            app.warn(str(problem))
        left = result.get("unreadable", 0) - min(len(problems), _PROBLEMS_SHOWN)
        if left > 0:
            app.warn(f"and {left:,} more")
    app.result(dict(result), *describe(result))


def describe(result: Mapping[str, Any]) -> list[str]:
    """What a backup did, for people."""
    name = str(result.get("snapshot", ""))[:8]
    if result.get("superseded"):
        return [f"snapshot {name} of {result.get('source')} had been made by this run, and was forgotten since"]
    if result.get("existed"):
        return [f"snapshot {name} of {result.get('source')} was there already: this run had been committed"]
    complete = "" if result.get("complete", True) else f", INCOMPLETE: {result.get('unreadable', 0):,} unreadable"
    counts = ", ".join(
        f"{result.get(key, 0):,} {word}"
        for key, word in (
            ("files_new", "new"),
            ("files_changed", "changed"),
            ("files_unmodified", "unchanged"),
            ("files_gone", "gone"),
        )
    )
    read, stored = show.size(result.get("bytes_read", 0)), show.size(result.get("bytes_stored", 0))
    return [
        f"snapshot {name} of {result.get('source')} at {result.get('site')}: {result.get('kind')}{complete}",
        f"files: {counts}; {read} read, {stored} stored; {show.duration(result.get('duration', 0.0))}",
        *(f"note: {note}" for note in result.get("notes", [])),
    ]
