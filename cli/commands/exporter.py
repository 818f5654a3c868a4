"""`holdfast exporter`: the fleet's metrics for Prometheus."""

from __future__ import annotations

import click

from cli.app import App, global_options, pass_app


@click.command(
    epilog="""\b
Examples:
  holdfast exporter
  holdfast exporter --listen 10.0.0.5:9321
  holdfast -c /etc/holdfast/holdfast.yaml exporter --listen '[::1]:9321'""",
)
@click.option("--listen", metavar="HOST:PORT", help="Where to serve /metrics, in place of what `exporter:` says.")
@global_options
@pass_app
def command(app: App, listen: str | None) -> int:
    """Serve the fleet's metrics at /metrics, until Ctrl-C or SIGTERM.

    Each scrape reads the ledger in Redis. Any number of exporters may run, on any machines. It needs the configuration
    and Redis; while Redis is away it goes on, and says so in holdfast_ledger_up. Between scrapes it asks the sites
    whether they have what the ledger claims, unless `exporter: {ask_sites: false}`. The metrics name sources, owners
    and sites, and ask for no password: let only Prometheus reach the address.

    docs/metrics.md has all metrics, deploy/prometheus the alerts.
    """
    from scheduler.exporter import serve
    from shared.observability import logs

    logs.set_up()
    return serve(app.config_path, listen or "", ready=lambda url: app.result({"url": url}, url))
