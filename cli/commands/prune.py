"""`holdfast prune`: the space of what no snapshot needs is given back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli import runs
from cli.app import App, global_options, pass_app
from shared.errors import EXIT_OK

if TYPE_CHECKING:
    from workers.maintenance.prune_spec import PruneReport


@click.command(
    epilog="""\b
Examples:
  holdfast prune web1 --dry-run    # how much is unused, and what would be done
  holdfast prune web1              # by a worker
  holdfast prune web1 --direct     # in this process""",
)
@click.argument("source")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option("--site", default="", metavar="SITE", help="The site to work at (else the primary).")
@click.option("--direct", is_flag=True, help="In this process, without Redis and workers.")
@global_options
@pass_app
def command(app: App, source: str, dry_run: bool, site: str, direct: bool) -> int:
    """Give back the space of what no snapshot needs, in the whole repository of SOURCE.

    In two steps: packs that nobody needs leave the index and are noted as doomed; a later prune deletes them, when the
    grace period is over (`prune.grace`, a day). So two prunes a day apart give space back.
    """
    options: dict[str, Any] = {"site": site} if site else {}
    if direct or dry_run:
        report = _direct(app, source, options, dry_run=dry_run)
        app.result(report, *describe(report))
        return EXIT_OK
    from shared.ledger.model import RunKind

    app.fleet.source(source)
    run = runs.follow(app, runs.ring(app, RunKind.PRUNE, source, options), source)
    app.result(dict(run.result), *describe(run.result))
    return runs.exit_code_of(run)


def _direct(app: App, source: str, options: Mapping[str, Any], *, dry_run: bool) -> dict[str, Any]:
    from shared.ledger.model import new_run_id
    from shared.topology import Epoch, guard
    from workers.maintenance.prune import run_prune
    from workers.upkeep_specs import prune_spec

    app.fleet.source(source)
    spec = prune_spec(app.fleet, source, options, run=new_run_id())
    spec.dry_run = dry_run
    epoch = Epoch(*spec.epoch)

    def work(on_event: runs.OnEvent) -> PruneReport:
        return run_prune(spec, on_event, lambda: guard(app.fleet, spec.repository, epoch))

    return runs.run_direct(app, source, work).to_json()


def describe(report: Mapping[str, Any]) -> list[str]:
    """What was done, for people."""
    dry = bool(report.get("dry_run"))

    def packs(name: str) -> str:
        return f"{show.count(report.get(f'packs_{name}', 0), 'pack')}, {show.size(report.get(f'bytes_{name}', 0))}"

    would = "would be " if dry else ""
    lines = [f"note: {note}" for note in report.get("notes", [])]
    total, unused = report.get("bytes", 0), report.get("bytes_unused", 0)
    share = 100 * unused / total if total else 0.0
    lines.append(f"unused      {show.size(unused)} of {show.size(total)} ({share:.1f}%)")
    if report.get("packs_repacked"):
        lines.append(f"repacked    {packs('repacked')} {would}copied to new packs")
    lines.append(f"doomed      {packs('doomed')} {would}left out of the index, to be deleted later")
    if report.get("packs_saved"):
        lines.append(f"saved       {show.count(report['packs_saved'], 'pack')} needed again")
    lines.append(f"deleted     {packs('deleted')} {would}gone")
    if report.get("packs_waiting"):
        lines.append(f"waiting     {packs('waiting')}: the grace period is not over")
    if not report.get("done", True):
        lines.append("more is left to do: the next prune goes on")
    place = f"repository {report.get('repository')} at {report.get('site')}"
    lines.append(f"{place}: {show.count(report.get('snapshots', 0), 'snapshot')}, {packs_of(report)}")
    return lines


def packs_of(report: Mapping[str, Any]) -> str:
    """How many packs there were, and how long it took."""
    return f"{show.count(report.get('packs', 0), 'pack')}; {show.duration(report.get('duration', 0.0))}"
