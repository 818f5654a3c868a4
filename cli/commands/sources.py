"""`holdfast sources`: what the configuration says is backed up, and what its inventory does.

Nothing is asked of any site or Redis.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli.app import App, global_options, pass_app
from cli.browse.names import shown
from cli.groups import GroupWithDefault
from shared.errors import UsageError

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.config.models import Source


@click.group(
    cls=GroupWithDefault,
    epilog="""\b
Examples:
  holdfast sources
  holdfast sources list --label tier=1
  holdfast sources rename web1 shop-web
  holdfast sources refresh
  holdfast sources drop web7""",
)
@global_options
def command() -> None:
    """List the configured sources, rename one, ask the inventory, or drop what left it."""


@command.command(
    "list",
    epilog="""\b
Examples:
  holdfast sources
  holdfast sources --label tier=1
  holdfast sources --policy nightly --json""",
)
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only those that bear it.")
@click.option("--policy", metavar="POLICY", help="Only those that follow it.")
@global_options
@pass_app
def list_sources(app: App, labels: tuple[str, ...], policy: str | None) -> int:
    """List the configured sources: who reads each, its policy, repository and labels."""
    fleet = app.fleet
    wanted = [_pair(label) for label in labels]
    if policy is not None and policy not in fleet.policies:
        there = ", ".join(fleet.policies) or "none"
        raise UsageError(f'there is no policy "{policy}" in {fleet.path}', hint=f"There are: {there}")
    listed = [as_json(fleet, source) for source in fleet.sources.values()]
    found = [
        one
        for one in listed
        if all(one["labels"].get(key) == value for key, value in wanted) and policy in (None, one["policy"])
    ]
    app.result({"sources": found, "inventory": inventory_json(fleet)}, *table(found, len(listed)))
    if fleet.inventory is not None:
        from shared.config.inventory import place_in, trouble

        if said := trouble(place_in(fleet.state_dir).read_state(), fleet.inventory, time.time()):
            app.warn(said)
    return 0


@command.command(
    "refresh",
    epilog="""\b
Examples:
  holdfast sources refresh
  holdfast sources refresh --dry-run
  holdfast sources refresh --accept""",
)
@click.option("--accept", is_flag=True, help="Take the answer even where most sources have left it.")
@click.option("--dry-run", is_flag=True, help="Show what it would change, and change nothing.")
@global_options
@pass_app
def refresh(app: App, accept: bool, dry_run: bool) -> None:
    """Ask the inventory now, and put its answer in force on this machine.

    Otherwise scheduler and workers do so by themselves, each machine for itself. An answer that can't be used leaves
    the one before in force.
    """
    from shared.config.asking import ask

    change = ask(app.config_path, accept=accept, keep=not dry_run)
    parts = {"new": change.new, "changed": change.changed, "left": change.left, "back": change.back}
    said = [f"{word}: {', '.join(names)}" for word, names in parts.items() if names]
    would = "would be" if dry_run else "are"
    last = f"{show.count(change.sources, 'source')} of the inventory {would} in force"
    data = {"sources": change.sources, **{word: list(names) for word, names in parts.items()}, "in_force": not dry_run}
    app.result(data, *(said or ["nothing has changed"]), last)


@command.command(
    "drop",
    epilog="""\b
Examples:
  holdfast sources drop web7
  holdfast sources drop web7 web8""",
)
@click.argument("sources", nargs=-1, required=True)
@global_options
@pass_app
def drop(app: App, sources: tuple[str, ...]) -> None:
    """Lose sight of SOURCES that left the inventory, on this machine. Their snapshots stay where they are.

    Nothing at any site is deleted. A source of that name in the configuration, or in the inventory again, has them all.
    """
    from shared.config import asking

    asking.drop(app.config_path, sources)
    app.result({"dropped": list(sources)}, *(f"dropped: {name}; its snapshots stay" for name in sources))


@command.command(
    "rename",
    epilog="""\b
Examples:
  holdfast sources rename web1 shop-web
  holdfast sources rename web1 shop-web --dry-run""",
)
@click.argument("old")
@click.argument("new")
@click.option("--dry-run", is_flag=True, help="Show the change of the file, and make none.")
@global_options
@pass_app
def rename(app: App, old: str, new: str, dry_run: bool) -> int:
    """Call the source OLD from now on NEW. Its history stays, and no full backup is made for it.

    One line of its file changes, and `formerly:` is added: its repository and what its snapshots say go on under its
    first name. What Redis knows of it moves along. Again after a break it does what is left.
    """
    from cli import renaming

    return renaming.run(app, old, new, dry_run=dry_run)


def inventory_json(fleet: Fleet) -> dict[str, Any] | None:
    """How the asking of the inventory goes, for programs; None where there is none."""
    if fleet.inventory is None:
        return None
    from shared.config.inventory import place_in

    state = place_in(fleet.state_dir).read_state()
    return {
        "asked": show.iso(state.asked) if state.asked else None,
        "answered": show.iso(state.answered) if state.answered else None,
        "error": state.error or None,
        "lost": list(state.lost),
    }


def _pair(label: str) -> tuple[str, str]:
    key, equals, value = label.partition("=")
    if not equals:
        raise UsageError(f'"{label}" is no label', hint="Write it as KEY=VALUE")
    return key, value


def as_json(fleet: Fleet, source: Source) -> dict[str, Any]:
    """One source for programs."""
    policy = fleet.policy_for(source.id)
    return {
        "id": source.id,
        "host": source.host,
        "pool": source.pool,
        "policy": policy.id if policy else None,
        "repository": fleet.repository_of(source.id),
        "labels": dict(source.labels),
        "owner": source.owner,
        "rests": source.rests(time.time()) or None,
        "gone": show.iso(source.left) if source.left else None,
    }


def table(sources: list[dict[str, Any]], of: int) -> list[str]:
    """The listing for people. `of`: how many the configuration has."""
    if not sources:
        return ["no source matches" if of else "no sources are configured yet"]
    rows = [("SOURCE", "READ BY", "POLICY", "REPOSITORY", "LABELS")]
    for one in sources:
        reader = f"host {one['host']}" if one["host"] else f"pool {one['pool']}" if one["pool"] else "any worker"
        labels = " ".join(f"{key}={value}" for key, value in one["labels"].items())
        rests = " (gone)" if one["gone"] else " (rests)" if one["rests"] else ""
        policy = f"{one['policy'] or '-'}{rests}"
        rows.append((one["id"], reader, policy, one["repository"], shown(labels.encode())))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
    ]
    few = f" of {of:,}" if len(sources) < of else ""
    gone = [f"{one['id']}: {one['rests']}" for one in sources if one["gone"]]
    return [*(line.rstrip() for line in lines), show.count(len(sources), "source") + few, *gone]
