"""`holdfast failover-worker`: the failover worker alone, for a machine where each part is a service of its own."""

from __future__ import annotations

import click

from cli.app import App, global_options, pass_app


@click.command(
    epilog="""\b
Examples:
  holdfast failover-worker                                     # under systemd: Type=exec
  holdfast -c /etc/holdfast/holdfast.yaml failover-worker""",
)
@global_options
@pass_app
def command(app: App) -> int:
    """Watch the sites until Ctrl-C or SIGTERM, and have another take the place of a primary that is gone.

    Any number may run, best one in each region: they agree through the sites, and whoever is killed leaves nothing
    half done. It needs the configuration and the sites, and no Redis. `failover:` in the configuration says how it
    decides; docs/failover.md explains it.
    """
    from workers.services import run_failover

    return run_failover(app.fleet)
