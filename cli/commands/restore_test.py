"""`holdfast restore-test`: whether what is stored comes back, tried and timed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from cli import format as show
from cli import runs
from cli.apart import Apart
from cli.app import App, global_options, pass_app
from shared.repository.gojson import parse_time

_PROBLEMS_SHOWN, _PACKS_SHOWN = 20, 10


@click.command(
    epilog="""\b
Examples:
  holdfast restore-test web1                     # a sample of its newest snapshot, by a worker
  holdfast restore-test web1 --files 1000 --direct
  holdfast restore-test web1 --whole             # all of it: how long a recovery takes""",
)
@click.argument("source")
@click.option("--files", type=click.IntRange(min=1), metavar="N", help="Draw N files at most (else 100).")
@click.option("--whole", is_flag=True, help="Restore all of it, not a sample.")
@click.option("--snapshot", default="", metavar="ID", help="Which (else the newest complete one).")
@click.option("--site", default="", metavar="SITE", help="The site to restore from (else the primary).")
@click.option("--direct", is_flag=True, help="In this process, without Redis and workers.")
@global_options
@pass_app
def command(app: App, source: str, files: int | None, whole: bool, snapshot: str, site: str, direct: bool) -> int:
    """Restore files of SOURCE to a scratch folder, compare them, and time it.

    They are drawn anew each time, at most 1 GiB of them, and removed afterwards. No server's own files are touched.
    Exit code 24: what is stored is damaged. Exit code 3: something could not be restored.
    """
    given = {"files": files, "whole": whole, "snapshot": snapshot, "site": site}
    options = {name: value for name, value in given.items() if value}
    if direct:
        report = _direct(app, source, options)
        app.result(report, *describe(report))
        code: int = report["exit_code"]
        return code
    from shared.ledger.model import RunKind

    app.fleet.source(source)
    run = runs.follow(app, runs.ring(app, RunKind.RESTORE_TEST, source, options), source)
    app.result(dict(run.result), *describe(run.result))
    return runs.exit_code_of(run)


def _direct(app: App, source: str, options: dict[str, Any]) -> dict[str, Any]:
    with Apart(lambda: _plan(app, source, options)) as plan:
        from workers.maintenance.restore_test import run_restore_test
        from workers.maintenance.restore_test_spec import RestoreTestSpec

        spec = RestoreTestSpec.from_json(plan.result())
    return runs.run_direct(app, source, lambda on_event: run_restore_test(spec, on_event)).to_json()


def _plan(app: App, source: str, options: dict[str, Any]) -> dict[str, Any]:
    """What the engine is to do, by the configuration. Raises ConfigError."""
    from shared.ledger.model import new_run_id
    from workers.upkeep_specs import restore_test_spec

    app.fleet.source(source)
    return restore_test_spec(app.fleet, source, options, run=new_run_id()).to_json()


def describe(report: Mapping[str, Any]) -> list[str]:
    """What came back, for people: the worst first, the verdict last."""
    lines = [f"note: {note}" for note in report.get("notes", [])]
    problems = report.get("problems", [])[:_PROBLEMS_SHOWN]
    lines += [f"{problem['path']}: {problem['message']}" for problem in problems]
    errors, size = report.get("errors", 0), report.get("bytes", 0)
    if errors > len(problems):
        lines.append(f"and {show.count(errors - len(problems), 'more problem')}")
    files, took = report.get("files", 0), report.get("duration", 0.0)
    as_of = show.moment(parse_time(report["snapshot_time"]) / 1e9)
    lines.append(
        f"restored {files:,} of {show.count(report.get('files_total', 0), 'file')}, {show.size(size)}, of "
        f"{report.get('source')} at {report.get('site')} as it was {as_of}"
    )
    if files:
        lines.append(f"in {show.duration(took)}, {show.rate(size, took)}{_all_of_it(report)}")
    packs = report.get("damaged_packs", [])
    lines += [f"damaged pack {pack}" for pack in packs[:_PACKS_SHOWN]]
    if len(packs) > _PACKS_SHOWN:
        lines.append(f"and {show.count(len(packs) - _PACKS_SHOWN, 'more pack')}")
    if packs or report.get("damaged_snapshots"):
        lines.append(f"DAMAGED: {show.count(errors, 'error')}; see `holdfast verify {report.get('source')} --data`")
    elif errors:
        lines.append(f"NOT RESTORED: {show.count(errors, 'error')}")
    elif report.get("server"):
        said = f": {report['said']}" if report.get("said") else ""
        lines.append(f"a scratch server has taken all of it, and its check passed{said}")
    elif files:
        lines.append("compared: all of it is as it was backed up")
    return lines


def _all_of_it(report: Mapping[str, Any]) -> str:
    """How long the whole source would take: in a sample, opening and looking around weigh more."""
    rate, total = report.get("rate", 0.0), report.get("bytes_total", 0)
    if report.get("whole") or rate <= 0 or total <= report.get("bytes", 0):
        return ""
    return f"; at this rate all of it, {show.size(total)}, takes at most about {show.duration(total / rate)}"
