"""`holdfast rebuild`: an empty Redis is the ledger again, from the sites, the configuration and the key."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli import runs
from cli.app import App, global_options, pass_app
from cli.progress import Reporter
from shared.errors import EXIT_INCOMPLETE, EXIT_OK, HoldfastError, UsageError

if TYPE_CHECKING:
    from scheduler.rebuild import AtSite

_SHOWN = 10


@click.command(
    epilog="""\b
Examples:
  holdfast rebuild                 # from every site
  holdfast rebuild --dry-run       # what there is, and what can't be read
  holdfast rebuild --site ams      # where only that one is left
  holdfast rebuild --connections 128 --json""",
)
@click.option("--site", "sites", multiple=True, metavar="SITE", help="Only this site; may be given again.")
@click.option("--dry-run", is_flag=True, help="Read and say what is there, and write nothing, to Redis or to a site.")
@click.option(
    "--connections",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Repositories that are read at a time, of each site (else 32).",
)
@global_options
@pass_app
def command(app: App, sites: tuple[str, ...], dry_run: bool, connections: int | None) -> int:
    """Fill an empty Redis, so that it is the ledger again: which slots are served, of each source, at each site.

    Every repository at every site is asked what snapshots it has: by its status and a listing; where its status is
    missing or behind, by the snapshots themselves, and then it is written anew. The scheduler does the same by and by
    for what is to be due; this is for all at once, copies too. It changes no snapshot, and never replaces what Redis
    knows by what is older: it may run beside everything else, be broken off, and run again. Past runs, leases and
    queues are not brought back.

    Exit code 3: a site, or a repository, could not be read.
    """
    from scheduler.rebuild import CONNECTIONS, rebuild
    from shared import topology
    from shared.messaging.client import ledger_of

    fleet, began = app.fleet, time.monotonic()
    keeping = [name for name, site in fleet.sites.items() if not site.witness]
    for name in sites:
        if fleet.site(name).id not in keeping:
            raise UsageError(f"site {name} is a witness: it keeps no copies", hint=f"There are: {', '.join(keeping)}")
    fleet.secret.read()  # an agent's file has none, and says so here
    with suppress(HoldfastError):  # who is primary may have changed since this machine saw it; else by what it knows
        topology.follow(fleet)
    pools = None if dry_run else ledger_of(fleet)
    with runs.with_way_out("With --dry-run nothing is asked of Redis"), Reporter(app, "rebuild") as report:
        if pools is not None:
            pools.ping()  # that Redis is there, before the sites are asked
        found = rebuild(
            fleet,
            pools,
            list(dict.fromkeys(sites)) or keeping,
            report,
            connections=connections or CONNECTIONS,
            write=not dry_run,
        )
    seconds = time.monotonic() - began
    app.result(_json(found, dry_run=dry_run, seconds=seconds), *_lines(found, dry_run=dry_run, seconds=seconds))
    return EXIT_OK if all(one.is_whole for one in found) else EXIT_INCOMPLETE


def _json(found: list[AtSite], *, dry_run: bool, seconds: float) -> dict[str, Any]:
    return {
        "dry_run": dry_run,
        "sites": [
            {
                "site": one.site,
                "repositories": one.repositories,
                "read": one.read,
                "found": one.found,
                "snapshots": one.snapshots,
                "sources": one.sources,
                "status_behind": one.behind,
                "status_written": one.written,
                "away": one.away or None,
                "failed": [{"repository": name, "error": why} for name, why in sorted(one.failed.items())],
                "unwritten": [{"repository": name, "error": why} for name, why in sorted(one.unwritten.items())],
            }
            for one in found
        ],
        "duration": seconds,
    }


def _lines(found: list[AtSite], *, dry_run: bool, seconds: float) -> list[str]:
    lines = []
    for one in found:
        lines.append(
            f"{one.site}: {_repositories(one.found)}, {show.count(one.snapshots, 'snapshot')}, "
            f"{show.count(one.sources, 'source')} with one"
        )
        if one.behind:
            done = "would be written" if dry_run else f"{one.written:,} written"
            lines.append(f"  status missing or behind: {one.behind:,}; {done}")
        if one.away:
            lines.append(f"  {_repositories(one.repositories - one.read)} not read: {one.away}")
        lines += _some("could not be read", one.failed)
        lines += _some("has no new status", one.unwritten)
    what = "nothing was written" if dry_run else "Redis knows it"
    whole = all(one.is_whole for one in found)
    rest = (
        "" if whole else "; of what was not read the scheduler asks the sites again, and opens nothing until it knows"
    )
    return [*lines, f"{what}; {show.duration(seconds)}{rest}"]


def _repositories(number: int) -> str:
    return show.count(number, "repository", "repositories")


def _some(what: str, why: dict[str, str]) -> list[str]:
    lines = [f"  repository {name} {what}: {error}" for name, error in sorted(why.items())[:_SHOWN]]
    return lines + ([f"  and {len(why) - _SHOWN:,} more"] if len(why) > _SHOWN else [])
