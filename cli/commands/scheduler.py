"""`holdfast scheduler`: the scheduler alone, for a machine where each part is a service of its own."""

from __future__ import annotations

import click

from cli.app import App, global_options, pass_app


@click.command(
    epilog="""\b
Examples:
  holdfast scheduler                                     # under systemd: Type=exec
  holdfast -c /etc/holdfast/holdfast.yaml scheduler""",
)
@global_options
@pass_app
def command(app: App) -> int:
    """Run the scheduler alone, until Ctrl-C or SIGTERM: it opens runs that are due, and rings again for lost ones.

    Two processes, started again when they die, that log to standard error. Any number of schedulers may run on any
    machines: one leads, and another takes over when it is gone. It needs Redis and, once, the sites; no source's files.
    """
    from workers.services import run_scheduler

    return run_scheduler(app.fleet)
