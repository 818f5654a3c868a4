"""`holdfast sources`: what the configuration says is backed up. Nothing is asked of any site or Redis."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli.app import App, global_options, pass_app
from cli.browse.names import shown
from shared.errors import UsageError

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.config.models import Source


@click.command(
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
def command(app: App, labels: tuple[str, ...], policy: str | None) -> int:
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
    app.result({"sources": found}, *table(found, len(listed)))
    return 0


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
    }


def table(sources: list[dict[str, Any]], of: int) -> list[str]:
    """The listing for people. `of`: how many the configuration has."""
    if not sources:
        return ["no source matches" if of else "no sources are configured yet"]
    rows = [("SOURCE", "READ BY", "POLICY", "REPOSITORY", "LABELS")]
    for one in sources:
        reader = f"host {one['host']}" if one["host"] else f"pool {one['pool']}" if one["pool"] else "any worker"
        labels = " ".join(f"{key}={value}" for key, value in one["labels"].items())
        policy = f"{one['policy'] or '-'} (rests)" if one["rests"] else one["policy"] or "-"
        rows.append((one["id"], reader, policy, one["repository"], shown(labels.encode())))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
    ]
    few = f" of {of:,}" if len(sources) < of else ""
    return [*(line.rstrip() for line in lines), show.count(len(sources), "source") + few]
