"""`holdfast status`: how the fleet stands, worst first."""

from __future__ import annotations

import time

import click

from cli.app import App, global_options, pass_app

SHOWN = 20  # sources, unless --all


@click.command(
    epilog="""\b
Examples:
  holdfast status
  holdfast status --all           # the good ones too
  holdfast status --json | jq '.sources[] | select(.level == "bad")'""",
)
@click.option("--all", "every", is_flag=True, help="Show every source, and not only those that need a look.")
@global_options
@pass_app
def command(app: App, every: bool) -> int:
    """Show how the fleet stands, worst first.

    Exit code 0: all is well. 1: something needs a look. 2: somebody is needed now: a source is late or was never
    backed up, or nothing runs that would back it up. 61: Redis is away, and nothing can be said.
    """
    from cli.runs import with_way_out
    from cli.sites.facts import seen_of_sites
    from cli.status.facts import gather, inventory_trouble
    from cli.status.judge import judge
    from cli.status.kit import kit_problems
    from cli.status.sites import problems, seen_failing
    from cli.status.view import as_json, lines
    from shared.kit.record import last
    from shared.topology import memory

    with with_way_out("`holdfast snapshots SOURCE` asks the site itself"):
        sources, seen = gather(app.fleet)
    seen_sites = memory(app.fleet)
    sites = problems(seen_sites.state, seen_sites.standing, seen_sites.looked, app.fleet.sites, time.time())
    kit = None if app.fleet.agent else last(app.fleet)
    failing = seen_failing(seen_of_sites(app.fleet))
    found = [*sites, *failing, *(kit_problems(kit, time.time()) if kit else ())]
    report = judge(sources, seen, inventory_trouble(app.fleet), found)
    app.result(as_json(report, kit, every=every), *lines(report, kit, most=None if every else SHOWN))
    return int(report.level)
