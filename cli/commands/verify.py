"""`holdfast verify`: whether what is stored can be restored."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import click

from cli import format as show
from cli import runs
from cli.apart import Apart
from cli.app import App, global_options, pass_app
from shared.errors import UsageError

_PROBLEMS_SHOWN = 20
_PATHS_SHOWN = 3
_DAY = 86400


def _percent(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """Per cent of "5%", "5", "0.5%"."""
    if value is None:
        return None
    try:
        share = float(value.removesuffix("%"))
    except ValueError:
        share = 0.0
    if not 0 < share <= 100:
        raise click.BadParameter(f'expected a share from above 0% to 100%, found "{value}"')
    return share


@click.command(
    epilog="""\b
Examples:
  holdfast verify web1 --direct                 # structure: snapshots, trees, index, packs
  holdfast verify web1 --data                   # and every byte
  holdfast verify web1 --data-share 5%          # a twentieth of it, another one each day
  holdfast verify web1 --data --heal            # and mend what is damaged, from other sites
  holdfast verify web1 --heal --dry-run         # what could be mended""",
)
@click.argument("source")
@click.option("--data", is_flag=True, help="Read every byte of every pack, too.")
@click.option("--data-share", callback=_percent, metavar="SHARE", help="Read a share of the packs; each day another.")
@click.option("--site", default="", metavar="SITE", help="The site to look at (else the primary).")
@click.option("--direct", is_flag=True, help="In this process, without Redis and workers.")
@click.option("--heal", is_flag=True, help="Mend what is damaged, from other sites; implies --direct.")
@click.option("--from", "origin", default="", metavar="SITE", help="With --heal: take it from this site alone.")
@click.option("--dry-run", is_flag=True, help="With --heal: say what could be mended, and change nothing.")
@global_options
@pass_app
def command(
    app: App,
    source: str,
    data: bool,
    data_share: float | None,
    site: str,
    direct: bool,
    heal: bool,
    origin: str,
    dry_run: bool,
) -> int:
    """Check that what is stored of SOURCE can be restored.

    Its whole repository is looked at, and but for --heal nothing is changed. Exit code 24: something is damaged, and
    with --heal is so still; the report names the files that suffer.
    """
    if data and data_share is not None:
        raise UsageError("--data and --data-share exclude each other")
    if (origin or dry_run) and not heal:
        raise UsageError("--from and --dry-run are for --heal")
    options: dict[str, Any] = {"share": 100.0 if data else data_share or 0.0, "rotation": int(time.time()) // _DAY}
    if site:
        options["site"] = site
    if direct or heal:
        return _direct(app, source, {**options, **_healing(origin, dry_run=dry_run)} if heal else options)
    from shared.ledger.model import RunKind

    app.fleet.source(source)
    run = runs.follow(app, runs.ring(app, RunKind.VERIFY, source, options), source)
    _report(app, run.result)
    return runs.exit_code_of(run)


def _healing(origin: str, *, dry_run: bool) -> dict[str, Any]:
    return {"heal": True, "dry_run": dry_run, **({"origin": origin} if origin else {})}


def _direct(app: App, source: str, options: dict[str, Any]) -> int:
    with Apart(lambda: _plan(app, source, options)) as plan:
        from workers.healing.run import run_healing
        from workers.maintenance.spec import VerifySpec
        from workers.maintenance.verify import run_verify

        spec = VerifySpec.from_json(plan.result())
    work = run_healing if spec.heal else run_verify
    report = runs.run_direct(app, source, lambda on_event: work(spec, on_event))
    _report(app, report.to_json())
    return report.exit_code


def _plan(app: App, source: str, options: dict[str, Any]) -> dict[str, Any]:
    """What the engine is to do, by the configuration. Raises ConfigError."""
    from workers.upkeep_specs import verify_spec

    app.fleet.source(source)
    return verify_spec(app.fleet, source, options).to_json()


def _report(app: App, report: Mapping[str, Any]) -> None:
    app.result(dict(report), *describe(report))


def describe(report: Mapping[str, Any]) -> list[str]:
    """What was found, for people: the worst first, the verdict last."""
    lines = _healed(report)
    lines += [f"note: {note}" for note in report.get("notes", [])]
    problems = report.get("problems", [])
    for problem in problems[:_PROBLEMS_SHOWN]:
        lines.append(f"{problem['severity']}: {problem['object']}: {problem['message']}")
        paths, affected = problem.get("paths", []), problem.get("affected", 0)
        lines += [f"    needed by {path}" for path in paths[:_PATHS_SHOWN]]
        if affected > min(len(paths), _PATHS_SHOWN):
            lines.append(f"    and {affected - min(len(paths), _PATHS_SHOWN):,} more")
    found = report.get("errors", 0) + report.get("warnings", 0)
    if found > min(len(problems), _PROBLEMS_SHOWN):
        lines.append(f"and {show.count(found - min(len(problems), _PROBLEMS_SHOWN), 'more problem')}")
    looked = ", ".join(
        show.count(report.get(key, 0), one)
        for key, one in (("snapshots", "snapshot"), ("files", "file"), ("packs", "pack"))
    )
    read = f"{report.get('packs_read', 0):,} of them read ({show.size(report.get('bytes_read', 0))})"
    place = f"repository {report.get('repository')} at {report.get('site')}"
    lines.append(f"{place}: {looked}, {read}; {show.duration(report.get('duration', 0.0))}")
    harmed = len(report.get("affected_snapshots", []))
    if report.get("errors"):
        errors = show.count(report["errors"], "error")
        lines.append(f"DAMAGED: {errors}; {show.count(harmed, 'snapshot')} can't be restored whole")
    elif report.get("warnings"):
        lines.append(f"whole; {show.count(report['warnings'], 'warning')} about what does no harm")
    else:
        lines.append("whole: no errors were found")
    return lines


def _healed(report: Mapping[str, Any]) -> list[str]:
    """What came of healing, where it was asked for."""
    would_be = "could be healed" if report.get("dry_run") else "healed"
    healed = report.get("healed", [])
    lines = [f"{would_be}: {key}" for key in healed[:_PROBLEMS_SHOWN]]
    objects, blobs = report.get("healed_objects", 0), report.get("blobs_healed", 0)
    if objects > min(len(healed), _PROBLEMS_SHOWN):
        lines.append(f"and {objects - min(len(healed), _PROBLEMS_SHOWN):,} more")
    lost = report.get("lost", [])
    lines += [f"not healed: {one}" for one in lost[:_PROBLEMS_SHOWN]]
    if len(lost) > _PROBLEMS_SHOWN:
        lines.append(f"and {len(lost) - _PROBLEMS_SHOWN:,} more")
    if objects or blobs:
        by = ", ".join(f"{count:,} by {how}" for how, count in report.get("healed_from", {}).items())
        new = f"{show.count(blobs, 'blob')} in new packs" if blobs else ""
        what = ", ".join(part for part in (by, new) if part)
        lines.append(f"{would_be}: {show.count(objects, 'object')} ({what}); {show.size(report['bytes_healed'])}")
    return lines
