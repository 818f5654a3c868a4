"""`holdfast forget`: snapshots that no rule keeps, or that are named, go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli import runs
from cli.app import App, global_options, pass_app
from shared.errors import EXIT_OK

if TYPE_CHECKING:
    from workers.maintenance.forget_spec import ForgetReport

_SHOWN = 20


@click.command(
    epilog="""\b
Examples:
  holdfast forget web1 --dry-run          # what the policy's retention would let go
  holdfast forget web1                    # by a worker, as the scheduler does it once a day
  holdfast forget web1 4f1c09ab --direct  # this one, whatever the rules say""",
)
@click.argument("source")
@click.argument("snapshots", nargs=-1, metavar="[SNAPSHOT]...")
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@click.option("--site", default="", metavar="SITE", help="The site to work at (else the primary).")
@click.option("--direct", is_flag=True, help="In this process, without Redis and workers.")
@global_options
@pass_app
def command(app: App, source: str, snapshots: tuple[str, ...], dry_run: bool, site: str, direct: bool) -> int:
    """Forget the snapshots of SOURCE that its policy's retention does not keep; or those that are named, alone.

    Never the last good snapshot, nor one that is under a hold. What is forgotten can't be brought back; its space is
    given back by a prune. `holdfast retention preview` says why each one stays or goes.
    """
    options: dict[str, Any] = {"snapshots": list(snapshots)} if snapshots else {}
    if site:
        options["site"] = site
    if direct or dry_run:
        report = _direct(app, source, options, dry_run=dry_run)
        app.result(report, *describe(report))
        return EXIT_OK
    from shared.ledger.model import RunKind
    from workers.upkeep_specs import forget_spec

    forget_spec(app.fleet, source, options, run="")  # what the configuration lacks is told before anybody is rung for
    run = runs.follow(app, runs.ring(app, RunKind.FORGET, source, options), source)
    app.result(dict(run.result), *describe(run.result))
    return runs.exit_code_of(run)


def _direct(app: App, source: str, options: Mapping[str, Any], *, dry_run: bool) -> dict[str, Any]:
    from shared.ledger.model import new_run_id
    from shared.topology import Epoch, guard
    from workers.maintenance.forget import run_forget
    from workers.upkeep_specs import forget_spec

    spec = forget_spec(app.fleet, source, options, run=new_run_id())
    spec.dry_run = dry_run
    epoch = Epoch(*spec.epoch)

    def work(on_event: runs.OnEvent) -> ForgetReport:
        return run_forget(spec, on_event, lambda: guard(app.fleet, spec.repository, epoch))

    return runs.run_direct(app, source, work).to_json()


def describe(report: Mapping[str, Any]) -> list[str]:
    """What was forgotten, for people."""
    ids, count = report.get("snapshots", []), report.get("forgotten", 0)
    dry = bool(report.get("dry_run"))
    lines = [f"{'would forget' if dry else 'forgot'} snapshot {name[:8]}" for name in ids[:_SHOWN]]
    lines += [f"and {count - _SHOWN:,} more"] if count > _SHOWN else []
    lines += [f"note: {note}" for note in report.get("notes", [])]
    if report.get("finished"):
        lines.append(f"finished what a forget that was broken off had left: {show.count(report['finished'], 'run')}")
    if report.get("cleared"):
        word = "would go" if dry else "gone"
        lines.append(f"{word}, as no site needs them any more: {show.count(report['cleared'], 'tombstone')}")
    place = f"{report.get('source')} at {report.get('site')}"
    gone = f"{show.count(count, 'snapshot')} {'would be ' if dry else ''}forgotten"
    lines.append(f"{place}: {gone}, {report.get('kept', 0):,} kept; {show.duration(report.get('duration', 0.0))}")
    return lines
