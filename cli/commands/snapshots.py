"""`holdfast snapshots`: what there is to restore of a source."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli.app import App, global_options, pass_app
from shared.errors import EXIT_INCOMPLETE, EXIT_OK

if TYPE_CHECKING:
    from shared.repository.repository import Repository
    from shared.repository.snapshot import Snapshot


@click.command(
    epilog="""\b
Examples:
  holdfast snapshots web1
  holdfast snapshots db/orders --last 5
  holdfast snapshots web1 --site ams --json""",
)
@click.argument("source")
@click.option("--site", default="", metavar="SITE", help="The site to look at (else the primary).")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the newest N.")
@global_options
@pass_app
def command(app: App, source: str, site: str, last: int | None) -> int:
    """List the snapshots of SOURCE, newest last.

    Times are shown in local time and UTC. An incomplete snapshot lacks files that could not be read.
    Exit code 3: a snapshot is damaged and was left out.
    """
    from cli.opened import open_source

    fleet = app.fleet
    repository = open_source(fleet, source, site).repository
    shared = any(
        other != source and fleet.repository_of(other) == fleet.repository_of(source) for other in fleet.sources
    )
    found, damaged = read_snapshots(repository)
    # What stock restic wrote bears no source: in a repository of its own it can only be this one's.
    tag = fleet.source(source).first_name
    wanted = {tag} if shared else {tag, ""}
    mine = [snapshot for snapshot in found if snapshot.source in wanted][-last if last else None :]
    for problem in damaged:
        app.warn(problem)
    now = time.time()
    app.result({"source": source, "snapshots": [as_json(one) for one in mine], "damaged": damaged}, *table(mine, now))
    return EXIT_INCOMPLETE if damaged else EXIT_OK


def read_snapshots(repository: Repository) -> tuple[list[Snapshot], list[str]]:
    """All snapshots that can be read, oldest first, and what is wrong with the others. Raises StorageError."""
    damaged: list[str] = []
    found = list(repository.snapshots(lambda _, error: damaged.append(str(error))))
    return sorted(found, key=lambda snapshot: (snapshot.time, snapshot.id)), damaged


def as_json(snapshot: Snapshot) -> dict[str, Any]:
    """One snapshot for programs."""
    return {
        "id": snapshot.id,
        "time": show.iso(snapshot.time / 1e9),
        "kind": snapshot.tag("kind") or None,
        "complete": snapshot.complete,
        "unreadable": snapshot.unreadable,
        "run": snapshot.tag("run") or None,
        "slot": snapshot.tag("slot") or None,
        "host": snapshot.hostname,
        "paths": [path.decode(errors="backslashreplace") for path in snapshot.paths],
        "files": snapshot.summary.get("total_files_processed"),
        "bytes": snapshot.summary.get("total_bytes_processed"),
        "bytes_added": snapshot.summary.get("data_added"),
    }


def table(snapshots: list[Snapshot], now: float) -> list[str]:
    """The listing for people."""
    if not snapshots:
        return ["there are no snapshots yet"]
    rows = [("ID", "TIME", "KIND", "FILES", "SIZE", "")]
    for one in snapshots:
        files, size = one.summary.get("total_files_processed"), one.summary.get("total_bytes_processed")
        rows.append(
            (
                one.id[:8],
                show.moment(one.time / 1e9),
                one.tag("kind") or "-",
                "-" if files is None else f"{files:,}",
                "-" if size is None else show.size(size),
                "" if one.complete else f"incomplete: {one.unreadable} unreadable",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}  "
        f"{row[3]:>{widths[3]}}  {row[4]:>{widths[4]}}  {row[5]}".rstrip()
        for row in rows
    ]
    newest = snapshots[-1].time / 1e9
    return [*lines, f"{show.count(len(snapshots), 'snapshot')}, the newest from {show.ago(newest, now)}"]
