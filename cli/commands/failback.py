"""`holdfast failback`: a site that came back is primary again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from cli import format as show
from cli import moving
from cli.app import App, global_options, pass_app

if TYPE_CHECKING:
    from shared.topology.register import View


@click.command(
    epilog="""\b
Examples:
  holdfast failback fra --dry-run     # what fra lacks of what was backed up meanwhile
  holdfast failback fra""",
)
@click.argument("site")
@moving.accept_option
@moving.why_option
@moving.dry_option
@moving.yes_option
@global_options
@pass_app
def command(app: App, site: str, accept_loss: bool, why: str, dry_run: bool, yes: bool) -> None:
    """Let SITE take its own place again, once it has what the site that stands in for it has."""
    from cli.runs import who_asks
    from shared.topology.lag import lacks, read_site
    from shared.topology.moves import Move, What, first_of, new_claim, primaries_of, returning

    app.fleet.site(site)
    with moving.opened(app) as register:
        view = moving.look(app, register)
        primaries, by = primaries_of(app.fleet), who_asks()
        move = Move(What.FAILBACK, site, by=by, why=why, claim=new_claim(by))
        move(view.state)
        _require_agreed(view, site)
        stand_in = view.state.primary(site)
        sources = returning(view.state, primaries, site)
        lost = lacks(read_site(app.fleet, stand_in, sources), read_site(app.fleet, site, sources))
        if not accept_loss and not dry_run:
            moving.refuse_loss(app, lost, site, strict=True)
        loss = (
            f"; {site} lacks the newest of {show.count(len(lost), 'source')}, which stay at {stand_in}" if lost else ""
        )
        plan = moving.Plan(
            move=replace(move, behind=first_of([lack.describe() for lack in lost])),
            view=view,
            sources=sources,
            lost=lost,
            undo=f"holdfast switchover --site {site} --to {stand_in}",
            consequence=f"{show.count(len(sources), 'source')} will be backed up to {site} again{loss}",
        )
        moving.make(app, register, plan, dry_run=dry_run, yes=yes)


def _require_agreed(view: View, site: str) -> None:
    """Raise MoveRefused unless the site knows what was decided while it was away."""
    from shared.topology import MoveRefused
    from shared.topology.register import Standing

    how = view.standing.get(site, Standing.SILENT)
    if how is not Standing.AGREES:
        error = view.errors.get(site)
        raise MoveRefused(
            f"site {site} does not know yet what was decided ({how}{f': {error.args[0]}' if error else ''})",
            hint="`holdfast sites settle` tells it, once it answers",
        )
