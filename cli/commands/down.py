"""`holdfast down`: stop what `holdfast up` runs on this machine."""

from __future__ import annotations

import time

import click

from cli import format as show
from cli.app import App, global_options, pass_app


@click.command(
    epilog="""\b
Examples:
  holdfast down
  holdfast -c /etc/holdfast/holdfast.yaml down""",
)
@global_options
@pass_app
def command(app: App) -> None:
    """Stop what `holdfast up` runs here, and wait until all of it has ended.

    A backup under way keeps what it has uploaded and goes on with the next start. That nothing is up is no error.
    """
    from workers import standing

    state_dir = app.fleet.state_dir
    if standing.look(state_dir) is not None:
        app.say("stopping: runs under way are given back, which may take half a minute")
    began = time.monotonic()
    stopped = standing.stop(state_dir)
    if stopped is None:
        app.result({"stopped": []}, "nothing was up here")
        return
    names = [member.name for member in stopped.members if member.process]
    seconds = time.monotonic() - began
    ran = f"; it was up for {show.duration(time.time() - stopped.since)}" if stopped.since else ""
    app.result(
        {"stopped": names, "seconds": round(seconds, 1)},
        f"stopped {', '.join(names) or 'all'} in {show.duration(seconds)}{ran}; nothing is left running",
    )
