"""`holdfast find`: in which snapshots something is, and the command that brings it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli.app import App, global_options, pass_app
from cli.browse.view import View, which_site
from shared.errors import UsageError

if TYPE_CHECKING:
    from cli.browse.versions import Found, Version
    from shared.repository.snapshot import Snapshot


@click.command(
    epilog="""\b
Examples:
  holdfast find web1 '*/invoice-0412.pdf'
  holdfast find web1 '*.conf' '*.ini' --newest
  holdfast find web1 '/srv/www/*.php' --before "2026-03-01"
  holdfast find db/orders 'orders-*' --snapshot latest --json""",
)
@click.argument("source")
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True)
@click.option("--snapshot", "snapshots", multiple=True, metavar="ID", help="Only in this one; may be given again.")
@click.option("--before", "before", metavar="TIME", help="Only in snapshots that are not later.")
@click.option("--newest", is_flag=True, help="Only the newest version of each path.")
@click.option("--ignore-case", "-i", is_flag=True, help="Take a for A.")
@which_site
@global_options
@pass_app
def command(
    app: App,
    source: str,
    patterns: tuple[str, ...],
    snapshots: tuple[str, ...],
    before: str | None,
    newest: bool,
    ignore_case: bool,
    site: str,
) -> int:
    """Find files in all snapshots of SOURCE, each version once, with the snapshots in which it stands.

    A PATTERN without a slash is matched with names, one with a slash with whole paths; `*` stands for anything,
    slashes too. Quote it, so that the shell leaves it alone. Exit code 3: something could not be read.
    """
    from cli.browse.listing import Listing
    from cli.browse.names import absolute, shown
    from cli.browse.patterns import Patterns
    from cli.browse.versions import walk_versions

    wanted = Patterns(patterns, ignore_case=ignore_case)
    view = View(app, source, site)
    chosen = _snapshots(view, snapshots, before)
    listing = Listing(app, {"source": source, "snapshots": len(chosen)}, "found")
    last: tuple[bytes, Snapshot] | None = None
    paths = versions = 0
    for found in walk_versions(view.trees, [one.tree for one in chosen], wanted.match, wanted.may_hold):
        if newest:
            found.versions = [max(found.versions, key=lambda version: version.seen)]
        paths += 1
        versions += len(found.versions)
        newest_one = max(found.versions, key=lambda version: version.seen)
        last = found.path, chosen[newest_one.seen.bit_length() - 1]
        lines = [] if app.json else [shown(absolute(found.path))]
        for one in found.versions if lines else ():
            lines += lines_of(one, chosen)
        listing.add(_as_json(found, chosen) if app.json else {}, *lines)
    restore = view.restore_command(*last) if last else ""
    said = [f"to restore the last: {restore}"] if last else []
    if not app.quiet:
        amount = f"{show.count(versions, 'version')} of {show.count(paths, 'path')}" if paths else "nothing found"
        said.insert(0, f"{amount} in {show.count(len(chosen), 'snapshot')}")
    return listing.end(view.problems, {"restore": restore or None}, *said)


def _snapshots(view: View, wanted: tuple[str, ...], before: str | None) -> list[Snapshot]:
    """Those to look in, oldest first."""
    from datetime import UTC, datetime

    from cli.when import parse_when

    if wanted and before:
        raise UsageError("--snapshot and --before exclude each other")
    if wanted:
        chosen = {one.id: one for one in map(view.choose, wanted)}
        return sorted(chosen.values(), key=lambda one: (one.time, one.id))
    limit = parse_when(before, datetime.now(UTC)).timestamp() * 1e9 if before else None
    return [one for one in view.snapshots if limit is None or one.time <= limit]


def lines_of(version: Version, snapshots: list[Snapshot]) -> list[str]:
    """One version for people."""
    from cli.browse.nodes import when
    from cli.browse.versions import ranges

    node, runs = version.node, ranges(version.seen)
    first, last = snapshots[runs[0][0]], snapshots[runs[-1][1]]
    size = show.size(node.size) if node.type == "file" else node.type
    number = version.seen.bit_count()
    where = f"in {first.id[:8]} of {show.moment(first.time / 1e9)}"
    if number > 1:
        where = f"in {number:,} from {where.removeprefix('in ')} to {last.id[:8]} of {show.moment(last.time / 1e9)}"
    gaps = ", with gaps" if len(runs) > 1 else ""
    return [f"  {size:>8}  changed {when(node.mtime)}", f"            {where}{gaps}"]


def _as_json(found: Found, snapshots: list[Snapshot]) -> dict[str, Any]:
    from cli.browse.names import absolute, json_name
    from cli.browse.nodes import as_json
    from cli.browse.versions import ranges

    def named(number: int) -> dict[str, str]:
        return {"id": snapshots[number].id, "time": show.iso(snapshots[number].time / 1e9)}

    versions = []
    for version in found.versions:
        node = as_json(version.node, found.path)
        for key in ("path", "path_base64"):
            node.pop(key, None)
        runs = [{"first": named(first), "last": named(last)} for first, last in ranges(version.seen)]
        versions.append({**node, "snapshots": version.seen.bit_count(), "ranges": runs})
    return {**json_name(absolute(found.path)), "versions": versions}
