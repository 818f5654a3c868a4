"""`holdfast retention`: which snapshots stay, which go, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli.app import App, global_options, pass_app
from cli.browse.view import View, which_site
from cli.groups import GroupWithDefault
from shared.errors import EXIT_INCOMPLETE, EXIT_OK

if TYPE_CHECKING:
    from shared.repository.snapshot import Snapshot
    from shared.retention import Verdict


class _Preview(GroupWithDefault):
    """`holdfast retention` alone is a preview."""

    default = "preview"


@click.group(
    cls=_Preview,
    epilog="""\b
Examples:
  holdfast retention preview web1
  holdfast retention preview web1 --site ams --json""",
)
@global_options
def command() -> None:
    """Show which snapshots the policy's retention keeps."""


@command.command(
    "preview",
    epilog="""\b
Examples:
  holdfast retention preview web1
  holdfast retention preview db/orders --site ams""",
)
@click.argument("source")
@which_site
@global_options
@pass_app
def preview(app: App, source: str, site: str) -> int:
    """Show each snapshot of SOURCE, newest last: kept, for all of these reasons, or to be forgotten.

    It reads the configuration, so rules can be tried before they are in force: holdfast -c new.yaml retention preview.
    Exit code 3: a snapshot is damaged and was left out.
    """
    from workers.maintenance.forget import make_plan
    from workers.upkeep_specs import forget_spec

    view = View(app, source, site)
    plan = make_plan(view.repository, forget_spec(app.fleet, source, {"site": view.place}, run=""))
    for problem in plan.damaged:
        app.warn(problem)
    rows = [as_json(plan.snapshots[one.id], one) for one in plan.verdicts]
    kept = sum(one.kept for one in plan.verdicts)
    data = {"source": source, "site": view.place, "kept": kept, "forgotten": len(rows) - kept, "snapshots": rows}
    app.result({**data, "damaged": plan.damaged}, *table(plan.snapshots, plan.verdicts))
    return EXIT_INCOMPLETE if plan.damaged else EXIT_OK


def as_json(snapshot: Snapshot, verdict: Verdict) -> dict[str, Any]:
    """One snapshot for programs."""
    return {
        "id": snapshot.id,
        "time": show.iso(snapshot.time / 1e9),
        "complete": snapshot.complete,
        "kept": verdict.kept,
        "reasons": list(verdict.reasons),
    }


def table(snapshots: dict[str, Snapshot], verdicts: list[Verdict]) -> list[str]:
    """The listing for people."""
    if not verdicts:
        return ["there are no snapshots yet"]
    rows = [("ID", "TIME", "", "WHY")]
    for one in verdicts:
        snapshot = snapshots[one.id]
        why = ", ".join(one.reasons) or ("no rule keeps it" if snapshot.complete else "no rule keeps it; incomplete")
        rows.append((one.id[:8], show.moment(snapshot.time / 1e9), "keep" if one.kept else "forget", why))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row[:3], widths, strict=True)]
        lines.append("  ".join([*cells, row[3]]))
    kept = sum(one.kept for one in verdicts)
    return [*lines, f"{show.count(len(verdicts), 'snapshot')}: {kept:,} kept, {len(verdicts) - kept:,} to be forgotten"]
