"""`holdfast diff`: what differs between two snapshots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli.app import App, global_options, pass_app
from cli.browse.view import NotStored, View, which_site
from shared.errors import UsageError

if TYPE_CHECKING:
    from cli.browse.compare import Change, Totals


@click.command(
    epilog="""\b
Examples:
  holdfast diff web1 latest~1 latest                 # what the last backup changed
  holdfast diff web1 3f9a12cd 8b1c2d3e /etc
  holdfast diff web1 latest~7 latest --json""",
)
@click.argument("source")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.argument("path", required=False)
@which_site
@global_options
@pass_app
def command(app: App, source: str, a: str, b: str, path: str | None, site: str) -> int:
    """Show what differs in snapshot B from snapshot A of SOURCE, or from PATH down.

    A and B are beginnings of ids, `latest`, or `latest~1` for the one before. The first letter of a line: + added,
    - removed, M content changed, U only metadata changed (owner, mode, time, attributes), T of another type now.
    Exit code 3: a directory could not be read, and may differ.
    """
    from cli.browse.compare import Totals, compare
    from cli.browse.listing import Listing
    from cli.browse.names import absolute, path_of, shown
    from cli.browse.nodes import label
    from cli.commands.snapshots import as_json as snapshot_json

    at = path_of(path, source) if path else b""
    view = View(app, source, site)
    old, new = view.choose(a), view.choose(b)
    try:
        before, after = view.node(old, at), view.node(new, at)
    except NotStored as error:
        raise NotStored(str(error.args[0]), hint="`holdfast history` looks in all snapshots") from None
    if before.type != "dir" or after.type != "dir":
        raise UsageError(
            f"{shown(absolute(at))} is no directory in both snapshots", hint="`holdfast history` compares a file"
        )
    listing = Listing(app, {"source": source, "a": snapshot_json(old), "b": snapshot_json(new)}, "changes")
    totals = Totals()
    for change in compare(view.trees, before, after, at):
        totals.count(change)
        node = change.new or change.old
        line = "" if app.json or node is None else f"{change.kind}    {label(node, change.path)}"
        listing.add(_as_json(change) if app.json else {}, line)
    said = [] if app.quiet else summary(totals)
    return listing.end(view.problems, {"summary": _totals_json(totals)}, *said)


def summary(totals: Totals) -> list[str]:
    """The lines at the end, for people."""
    parts = [
        f"{show.count(totals.added, 'file')} added ({show.size(totals.bytes_added)})" if totals.added else "",
        f"{show.count(totals.removed, 'file')} removed ({show.size(totals.bytes_removed)})" if totals.removed else "",
        f"{show.count(totals.changed, 'file')} changed"
        f" ({show.size(totals.bytes_before)} -> {show.size(totals.bytes_after)})"
        if totals.changed
        else "",
        f"{totals.metadata:,} with other metadata" if totals.metadata else "",
        f"{show.count(totals.directories_added, 'directory', 'directories')} added" if totals.directories_added else "",
        f"{show.count(totals.directories_removed, 'directory', 'directories')} removed"
        if totals.directories_removed
        else "",
    ]
    return ["; ".join(part for part in parts if part) or "no difference"]


def _as_json(change: Change) -> dict[str, Any]:
    from cli.browse.names import absolute, json_name
    from cli.browse.nodes import as_json

    data: dict[str, Any] = {"change": change.kind, **json_name(absolute(change.path))}
    for key, node in (("old", change.old), ("new", change.new)):
        if node is not None:
            data[key] = {
                name: value for name, value in as_json(node, change.path).items() if not name.startswith("path")
            }
    return data


def _totals_json(totals: Totals) -> dict[str, int]:
    from dataclasses import asdict

    return asdict(totals)
