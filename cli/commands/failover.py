"""`holdfast failover`: another site takes the place of one that is gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from cli import format as show
from cli import moving
from cli.app import App, global_options, pass_app

if TYPE_CHECKING:
    from shared.topology.lag import Lack, Point

_LET = click.option("--although-it-answers", "though", is_flag=True, help="Go on though the failed site answers.")


@click.command(
    epilog="""\b
Examples:
  holdfast failover --to ams --dry-run      # what would be lost
  holdfast failover --to ams --why "fra burnt down"
  holdfast failover --to ams --accept-loss  # though ams lacks more than the RPO allows""",
)
@moving.to_option
@click.option(
    "--site", "named", default="", metavar="SITE", help="The site that is gone (else the only other primary)."
)
@moving.accept_option
@_LET
@moving.without_option
@moving.why_option
@moving.dry_option
@moving.yes_option
@global_options
@pass_app
def command(
    app: App,
    to: str,
    named: str,
    accept_loss: bool,
    though: bool,
    without_majority: bool,
    why: str,
    dry_run: bool,
    yes: bool,
) -> None:
    """Let a site take the place of one that is gone, now, with what it has.

    Backups go there from their next attempt on, and restores come from there. It needs a majority of the members, and
    neither Redis nor the failed site. What is thought lost is listed, and stands in the history; it comes back with
    the site, as nothing is deleted.
    """
    from shared.topology import MoveRefused
    from shared.topology.lag import lacks, read_site
    from shared.topology.moves import What, first_of

    with moving.opened(app) as register:
        view = moving.look(app, register)
        move, sources = moving.transfer(app, view, What.FAILOVER, to=to, site=named, why=why)
        site, there = move.site, moving.answers(view, move.site)
        if there and not though:
            raise MoveRefused(
                f"site {site} answers, so nothing need be lost",
                hint=f"holdfast switchover --site {site} --to {to} loses nothing; else give --although-it-answers",
            )
        ours = read_site(app.fleet, to, sources)
        if there:
            lost, note = lacks(read_site(app.fleet, site, sources), ours), ""
        else:
            lost, note = _by_ledger(app, site, sources, ours)
        if not accept_loss and not dry_run:
            moving.refuse_loss(app, lost, to, strict=False)
        loss = f"; {to} lacks the newest of {show.count(len(lost), 'source')}" if lost else ""
        plan = moving.Plan(
            move=replace(move, behind=first_of([lack.describe() for lack in lost])),
            view=view,
            sources=sources,
            lost=lost,
            notes=[note] if note else [],
            least=moving.least_of(app, view, without_majority=without_majority),
            undo=f"holdfast failback {site}",
            consequence=f"{show.count(len(sources), 'source')} of {site} will be backed up to {to}{loss}",
        )
        moving.make(app, register, plan, dry_run=dry_run, yes=yes)


def _by_ledger(
    app: App, site: str, sources: Sequence[str], ours: Mapping[str, Sequence[Point]]
) -> tuple[list[Lack], str]:
    """What only a site that is gone has, as far as the ledger knows; and what is to be said of that."""
    from shared.messaging.client import ledger_of
    from shared.topology.lag import from_ledger, thought_lost

    known = from_ledger(app.fleet, lambda: ledger_of(app.fleet), site, sources)
    if known is None:
        note = f"Redis is away and {site} does not answer: what only {site} has is not known"
        return thought_lost(sources, {}, ours), note
    return thought_lost(sources, known, ours), ""
