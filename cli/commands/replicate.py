"""`holdfast replicate`: snapshots of one site are brought to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli import runs
from cli.app import App, RunFailed, global_options, pass_app
from shared.errors import EXIT_OK, HoldfastError, UsageError

if TYPE_CHECKING:
    from workers.replication.spec import ReplicateReport

_PROBLEMS_SHOWN = 20
_RETURNED_SHOWN = 10


@click.command(
    epilog="""\b
Examples:
  holdfast replicate web1                      # to the sites that its policy's copies name, by a worker
  holdfast replicate web1 --to ams --dry-run   # what is owed to ams
  holdfast replicate web1 --to fra --from ams --direct
  holdfast replicate --all --to new            # fill a new site
  holdfast replicate --all --to fra --both-ways    # fra is back: what only it had is brought here first""",
)
@click.argument("source", required=False, default="")
@click.option("--to", "site", default="", metavar="SITE", help="To this site (else those of the policy's copies).")
@click.option("--from", "origin", default="", metavar="SITE", help="From this site (else the primary).")
@click.option("--all", "everything", is_flag=True, help="All sources, one after the other.")
@click.option("--both-ways", is_flag=True, help="First bring back what only that site has.")
@click.option("--dry-run", is_flag=True, help="Say what is owed, and write nothing.")
@click.option("--direct", is_flag=True, help="In this process, without Redis and workers.")
@global_options
@pass_app
def command(
    app: App, source: str, site: str, origin: str, everything: bool, both_ways: bool, dry_run: bool, direct: bool
) -> int:
    """Bring the snapshots of SOURCE to another site: those that it lacks and that its retention would keep.

    It only adds. What was forgotten at either site stays forgotten; what lies there already is not copied again. With
    `copies` in a policy the scheduler does it after each backup. Exit code 24: something is damaged at the site that it
    comes from; the other snapshots have arrived.
    """
    if everything == bool(source):
        raise UsageError("give one SOURCE, or --all", hint="holdfast sources lists them")
    more = {**({"origin": origin} if origin else {}), **({"both_ways": True} if both_ways else {})}
    places = list(_places(app, list(app.fleet.sources) if everything else [source], site, more))
    if not places:
        raise UsageError(
            "no policy of these sources has copies, so nothing says to which site",
            hint="Name it: --to SITE; or give the policy `copies:` (docs/replication.md)",
        )
    reports, code, lines = [], EXIT_OK, []
    for name, options in places:
        try:
            here = direct or dry_run
            report = _direct(app, name, options, dry_run=dry_run) if here else _ring(app, name, options)
        except HoldfastError as error:
            if not everything:
                raise
            code = error.code if isinstance(error, RunFailed) else error.exit_code
            app.warn(f"{name} to {options['site']}: {error}")
            continue
        code = report.get("exit_code", EXIT_OK) or code
        reports.append(report)
        lines += describe(report)
    app.result({"replications": reports}, *lines)
    return code


def _places(
    app: App, sources: Sequence[str], site: str, more: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each source, and what its run is told. Raises ConfigError."""
    from shared import topology

    now = topology.current(app.fleet)
    for name in sources:
        app.fleet.source(name)
        start = more.get("origin") or now.primary(name)
        for target in [site] if site else topology.copying(app.fleet, now, name):
            if target != start or len(sources) == 1:  # of all, some may lie there already
                yield name, {"site": target, **more}


def _ring(app: App, source: str, options: Mapping[str, Any]) -> dict[str, Any]:
    from shared.ledger.model import RunKind
    from workers.upkeep_specs import replicate_spec

    replicate_spec(app.fleet, source, options, run="")  # what is wrong is told before anybody is rung for
    run = runs.follow(app, runs.ring(app, RunKind.REPLICATE, source, options), f"{source} to {options['site']}")
    return dict(run.result)


def _direct(app: App, source: str, options: Mapping[str, Any], *, dry_run: bool) -> dict[str, Any]:
    from shared.ledger.model import new_run_id
    from workers.replication.run import run_replicate
    from workers.upkeep_specs import replicate_spec

    spec = replicate_spec(app.fleet, source, options, run=new_run_id())
    spec.dry_run = dry_run

    def work(on_event: runs.OnEvent) -> ReplicateReport:
        return run_replicate(spec, on_event)

    return runs.run_direct(app, f"{source} to {spec.site.id}", work).to_json()


def describe(report: Mapping[str, Any]) -> list[str]:
    """What arrived, for people: the worst first."""
    problems = report.get("problems", [])
    lines = [f"error: {one['object']}: {one['message']}" for one in problems[:_PROBLEMS_SHOWN]]
    if report.get("errors", 0) > len(lines):
        lines.append(f"and {show.count(report['errors'] - len(lines), 'more problem')}")
    lines += [f"note: {note}" for note in report.get("notes", [])]
    if returned := report.get("returned"):
        named = ", ".join(one[:8] for one in returned[:_RETURNED_SHOWN])
        more = f" and {len(returned) - _RETURNED_SHOWN:,} more" if len(returned) > _RETURNED_SHOWN else ""
        lines.append(f"only {report.get('site')} had, and {report.get('origin')} has now: {named}{more}")
    if report.get("keys"):
        lines.append(f"{show.count(report['keys'], 'key file')} put or removed, as at the other site")
    place = f"{report.get('source')} from {report.get('origin')} to {report.get('site')}"
    owed, packs = report.get("owed", 0), report.get("packs", 0)
    if report.get("dry_run"):
        return [*lines, f"{place}: {show.count(owed, 'snapshot')} owed"]
    if not owed:
        return [*lines, f"{place}: nothing is owed; {show.duration(report.get('duration', 0.0))}"]
    if report.get("created"):
        lines.append(f"made repository {report.get('repository')} at {report.get('site')}")
    arrived = f"{report.get('snapshots', 0):,} of {show.count(owed, 'snapshot')} arrived"
    copied = f"{show.count(packs, 'pack')} copied ({show.size(report.get('bytes', 0))})"
    there = f", {report['packs_there']:,} lay there" if report.get("packs_there") else ""
    lines.append(f"{place}: {arrived}, {copied}{there}; {show.duration(report.get('duration', 0.0))}")
    return lines
