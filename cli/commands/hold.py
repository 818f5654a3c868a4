"""`holdfast hold`: pins snapshots, so that nothing forgets them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli.app import App, global_options, pass_app
from cli.browse.view import View, which_site
from cli.groups import GroupWithDefault
from cli.when import parse_when
from shared.errors import UsageError

if TYPE_CHECKING:
    from shared.repository.holds import Hold

_HERE = click.argument("snapshots", nargs=-1, metavar="[SNAPSHOT]...")
_ALL = click.option("--all", "everything", is_flag=True, help="Every snapshot that there is now.")


@click.group(
    cls=GroupWithDefault,
    epilog="""\b
Examples:
  holdfast hold add web1 latest --reason INC-77
  holdfast hold add web1 --all --reason audit --until 2027-01-01
  holdfast hold list web1
  holdfast hold remove web1 --all""",
)
@global_options
def command() -> None:
    """Hold snapshots, so that nothing forgets them; list holds, or let go."""


@command.command(
    "list",
    epilog="""\b
Examples:
  holdfast hold list web1
  holdfast hold list web1 --site ams --json""",
)
@click.argument("source")
@which_site
@global_options
@pass_app
def list_holds(app: App, source: str, site: str) -> None:
    """List the holds of SOURCE, those that have run out too."""
    from shared.repository.holds import read_holds

    view = View(app, source, site)
    repository, first = view.repository, app.fleet.source(source).first_name
    mine = {one.id for one in view.snapshots}
    holds = [one for one in read_holds(repository).values() if one.source == first or one.snapshot in mine]
    now = repository.store.clock() if holds else 0.0
    holds.sort(key=lambda one: (one.time, one.snapshot))
    data = {"source": source, "site": view.place, "holds": [as_json(one, now) for one in holds]}
    app.result(data, *([describe(one, now) for one in holds] or ["there are no holds"]))


@command.command(
    "add",
    epilog="""\b
Examples:
  holdfast hold add web1 4f1c09ab --reason INC-77
  holdfast hold add web1 latest latest~1 --reason "before the migration" --until 2027-01-01
  holdfast hold add web1 --all --reason INC-77""",
)
@click.argument("source")
@_HERE
@_ALL
@click.option("--reason", required=True, metavar="TEXT", help="Why, for whoever wonders later.")
@click.option("--until", metavar="TIME", help='Until then, as "2027-01-01" (else until it is removed).')
@which_site
@global_options
@pass_app
def add(
    app: App, source: str, snapshots: tuple[str, ...], everything: bool, reason: str, until: str | None, site: str
) -> None:
    """Hold snapshots of SOURCE: beginnings of ids, latest, latest~1, or --all that there are now.

    One that is held already gets the new reason and end. At other sites nothing is held by it.
    """
    from shared.repository.holds import add_hold

    if not reason.strip():
        raise UsageError("a hold needs a reason")
    end = parse_when(until, datetime.now(UTC)) if until else None
    if end is not None and end <= datetime.now(UTC):
        raise UsageError(f'"{until}" is past: such a hold would hold nothing', hint='Write a day as "2027-01-01"')
    view = View(app, source, site)
    chosen = _chosen(view, snapshots, everything=everything)
    nanoseconds = int(end.timestamp()) * 10**9 if end else None
    first = app.fleet.source(source).first_name
    held = [add_hold(view.repository, name, first, reason, nanoseconds) for name in chosen]
    data = {"source": source, "site": view.place, "holds": [as_json(one, 0.0) for one in held]}
    what = "--all" if everything else " ".join(name[:8] for name in chosen)
    undo = f"undo: holdfast hold remove {source} {what}{f' --site {site}' if site else ''}"
    app.result(data, *(describe(one, 0.0) for one in held), undo if held else "there are no snapshots yet")


@command.command(
    "remove",
    epilog="""\b
Examples:
  holdfast hold remove web1 4f1c09ab
  holdfast hold remove web1 --all""",
)
@click.argument("source")
@_HERE
@_ALL
@which_site
@global_options
@pass_app
def remove(app: App, source: str, snapshots: tuple[str, ...], everything: bool, site: str) -> None:
    """Let go of snapshots of SOURCE. What no rule keeps is forgotten with the next forget."""
    from shared.repository.holds import read_holds, remove_hold

    view = View(app, source, site)
    chosen = set(_chosen(view, snapshots, everything=everything))
    held, first = read_holds(view.repository), app.fleet.source(source).first_name
    going = [name for name, hold in held.items() if name in chosen or (everything and hold.source == first)]
    for name in going:
        remove_hold(view.repository, name)
    lines = [f"let go: {name[:8]}" for name in going] or ["none of these is held"]
    app.result({"source": source, "site": view.place, "removed": going}, *lines)


def _chosen(view: View, snapshots: tuple[str, ...], *, everything: bool) -> list[str]:
    """The ids that are meant. Raises UsageError, NotStored."""
    if everything == bool(snapshots):
        raise UsageError("name snapshots, or give --all", hint=f"`holdfast snapshots {view.source}` lists them")
    found = view.snapshots if everything else [view.choose(wanted) for wanted in snapshots]
    return list(dict.fromkeys(one.id for one in found))


def describe(hold: Hold, now: float) -> str:
    """A hold for people. `now` in seconds, by the store's clock."""
    by = f" by {hold.username}@{hold.hostname}, {show.moment(hold.time / 1e9)}" if hold.hostname else ""
    over = "" if hold.counts(now) else " (has run out, and holds no more)"
    return f"{hold.snapshot[:8]}  {hold.why}{by}{over}"


def as_json(hold: Hold, now: float) -> dict[str, Any]:
    """A hold for programs."""
    return {
        "snapshot": hold.snapshot,
        "source": hold.source or None,
        "reason": hold.reason,
        "time": show.iso(hold.time / 1e9) if hold.time else None,
        "until": show.iso(hold.until / 1e9) if hold.until is not None else None,
        "by": f"{hold.username}@{hold.hostname}" if hold.hostname else None,
        "counts": hold.counts(now),
        "problem": hold.problem or None,
    }
