"""`holdfast up`: everything on this machine, until Ctrl-C."""

from __future__ import annotations

import click

from cli.app import App, global_options, pass_app


@click.command(
    epilog="""\b
Examples:
  holdfast up
  holdfast -c /etc/holdfast/holdfast.yaml up""",
)
@click.option("--concurrency", type=click.IntRange(min=1), default=2, show_default=True, help="Runs at once.")
@global_options
@pass_app
def command(app: App, concurrency: int) -> int:
    """Run everything on this machine: scheduler, worker and, unless the configuration names one, Redis.

    What dies is started again. Ctrl-C or SIGTERM stops all of it cleanly: a backup under way keeps what it
    has uploaded and goes on with the next start.
    """
    from workers.up import run_up

    for note in app.fleet.not_done():
        app.warn(note)
    return run_up(app.fleet, concurrency=concurrency)
