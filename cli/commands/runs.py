"""`holdfast runs`: what is to run, runs and ran, wherever it does."""

from __future__ import annotations

import time

import click

from cli.app import App, global_options, pass_app
from cli.groups import GroupWithDefault
from shared.errors import EXIT_OK

_NO_SITE = "Runs lie in Redis; what was backed up is at the site: `holdfast snapshots SOURCE`"


@click.group(
    cls=GroupWithDefault,
    epilog="""\b
Examples:
  holdfast runs                          # the same as: holdfast runs list
  holdfast runs --source db/orders --limit 5
  holdfast runs show 8f21                # the first digits of an id will do
  holdfast runs follow 8f21
  holdfast runs cancel 8f21
  holdfast runs retry 8f21 --follow""",
)
@global_options
def command() -> None:
    """List, show, follow, cancel and retry runs. Without a command: list."""


@command.command(
    "list",
    epilog="""\b
Examples:
  holdfast runs list
  holdfast runs list --open
  holdfast runs list --source web1 --limit 3 --json""",
)
@click.option("--source", default="", metavar="SOURCE", help="Only those of this source.")
@click.option("--open", "open_only", is_flag=True, help="Only those that wait or are under way.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@global_options
@pass_app
def list_runs(app: App, source: str, open_only: bool, limit: int) -> None:
    """List runs: those that are open, then those that ended last."""
    from cli.runs import with_way_out
    from cli.runview import as_json, left_out, table
    from shared.ledger.unread import Unread
    from shared.messaging.client import all_runs

    if source:
        app.fleet.source(source)
    with with_way_out(_NO_SITE):
        unread = Unread()
        runs = all_runs(app.fleet, open_only=open_only, source=source, count=limit, unread=unread)
    homes = {name: facts.host or "" for name, facts in app.fleet.sources.items()}
    counts = unread.counts()
    found = {
        "runs": [as_json(run) for run in runs],
        "unread": [{"host": host or None, "entries": entries} for host, entries in counts.items()],
    }
    app.result(found, *table(runs, time.time(), homes), *left_out(counts))


@command.command(
    "show",
    epilog="""\b
Examples:
  holdfast runs show 8f21
  holdfast runs show 8f21 --json""",
)
@click.argument("run")
@global_options
@pass_app
def show_run(app: App, run: str) -> None:
    """Show all about RUN: attempts and their errors, progress, its shards, times, and what can be done."""
    from cli.runs import with_way_out
    from cli.runview import as_json, details
    from shared.messaging.client import find, with_shards

    with with_way_out(_NO_SITE):
        found, shards = with_shards(*find(app.fleet, run))
    app.result(as_json(found, shards), *details(found, time.time(), shards))


@command.command(
    "follow",
    epilog="""\b
Examples:
  holdfast runs follow 8f21
  holdfast runs follow 8f21 --quiet && echo done""",
)
@click.argument("run")
@global_options
@pass_app
def follow_run(app: App, run: str) -> int:
    """Show how far RUN is until it has ended, and end as it did: with its error and its exit code.

    Ctrl-C stops following, and not the run.
    """
    return _follow(app, run)


@command.command(
    "cancel",
    epilog="""\b
Examples:
  holdfast runs cancel 8f21
  holdfast runs cancel 8f21 --wait""",
)
@click.argument("run")
@click.option("--wait", is_flag=True, help="Come back when it has ended.")
@global_options
@pass_app
def cancel_run(app: App, run: str, wait: bool) -> int:
    """End RUN before its time. What a backup has uploaded is kept, and used by the next one.

    That it has ended already is no error.
    """
    from cli.runs import who_asks, with_way_out
    from cli.runview import ID_SHOWN
    from shared.ledger.model import Word
    from shared.messaging.client import cancel, find, follow

    with with_way_out(_NO_SITE):
        _, found = find(app.fleet, run)
        word = cancel(app.fleet, found.id, who_asks())
        if wait:
            *_, found = follow(app.fleet, found.id)
        else:
            _, found = find(app.fleet, found.id)  # it may have ended since we looked
    name = found.id[:ID_SHOWN]
    told = {
        Word.CANCELLED: f"run {name} is cancelled; no worker had it",
        Word.ASKED: f"the worker {found.owner} is told within seconds; it keeps what it has uploaded",
        Word.DONE: f"run {name} had ended already: {found.state.value}",
    }
    said = f"run {name} has ended: {found.state.value}" if wait and word is Word.ASKED else told[word]
    app.result({"run": found.id, "answer": word.value, "state": found.state.value}, said)
    return EXIT_OK


@command.command(
    "retry",
    epilog="""\b
Examples:
  holdfast runs retry 8f21
  holdfast runs retry 8f21 --follow""",
)
@click.argument("run")
@click.option("--follow", "-f", is_flag=True, help="Wait for the end of the new one, and show how far it is.")
@global_options
@pass_app
def retry_run(app: App, run: str, follow: bool) -> int:
    """Ask again, by hand, for what RUN was to do, once that has ended: the same work in a new run."""
    from cli.runs import with_way_out
    from shared.messaging.client import retry

    with with_way_out(_NO_SITE):
        new = retry(app.fleet, run)
    if follow:
        return _follow(app, new)
    app.result({"run": new, "of": run}, f"run {new} is rung for; --follow would wait for its end")
    return EXIT_OK


def _follow(app: App, run_id: str) -> int:
    from cli import runs
    from cli.runview import as_json, details
    from shared.messaging.client import find

    with runs.with_way_out(_NO_SITE):
        _, found = find(app.fleet, run_id)
    run = runs.follow(app, found.id, f"{found.request.kind.value} {found.request.source}")
    app.result(as_json(run), *details(run, time.time()))
    return runs.exit_code_of(run)
