"""`holdfast schedule`: what will run, when and why; and what became of slots that have passed."""

from __future__ import annotations

import click

from cli.app import App, global_options, pass_app

SHOWN = 100  # lines, unless --all


@click.command(
    epilog="""\b
Examples:
  holdfast schedule
  holdfast schedule db/orders --hours 72
  holdfast schedule web1 --dropped
  holdfast schedule --json | jq '.held'""",
)
@click.argument("source", required=False)
@click.option("--hours", type=click.IntRange(1, 24 * 31), default=24, show_default=True, help="How far to look.")
@click.option("--dropped", is_flag=True, help="Look back: which slots of SOURCE no run of their own served, and why.")
@click.option("--all", "every", is_flag=True, help=f"Show more than {SHOWN} lines.")
@global_options
@pass_app
def command(app: App, source: str | None, hours: int, dropped: bool, every: bool) -> None:
    """Show what will run in the next hours, of all sources or of SOURCE: when, and why.

    What is due already and is not begun stands first, with what it waits for. With --dropped: what became of the
    slots of the last hours.
    """
    from cli.planned import gather, lines_of_past, lines_of_plan, look_back
    from cli.runs import with_way_out
    from shared.errors import UsageError

    if source is not None:
        app.fleet.source(source)
    if dropped and source is None:
        raise UsageError("--dropped looks back at one source", hint="holdfast schedule SOURCE --dropped")
    most = None if every else SHOWN
    with with_way_out("`holdfast config show` has the schedules themselves"):
        if dropped and source is not None:
            past = look_back(app.fleet, source, hours)
            app.result(past, *lines_of_past(past, most))
        else:
            plan = gather(app.fleet, source, hours)
            app.result(plan, *lines_of_plan(plan, most))
