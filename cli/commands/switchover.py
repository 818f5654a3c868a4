"""`holdfast switchover`: another site takes a site's place as planned, and nothing is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from cli import format as show
from cli import moving
from cli.app import App, global_options, pass_app
from shared.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.topology.lag import Lack

_AGAIN = 5.0  # seconds between two looks at what is pending


@click.command(
    epilog="""\b
Examples:
  holdfast switchover --to ams --dry-run
  holdfast switchover --to ams --wait 600 --why "fra is moved to another hall\"""",
)
@moving.to_option
@click.option(
    "--site", "named", default="", metavar="SITE", help="The site that it takes over from (else the only one)."
)
@click.option("--wait", default=0.0, metavar="SECONDS", help="So long for the site to have all that it lacks.")
@moving.why_option
@moving.dry_option
@moving.yes_option
@global_options
@pass_app
def command(app: App, to: str, named: str, wait: float, why: str, dry_run: bool, yes: bool) -> None:
    """Let a site take another one's place as planned: only once it has all that the other has.

    Both must answer. A backup that is under way ends where it began; what it commits after the move is named, and is
    for replication to copy.
    """
    from shared.topology.moves import What

    with moving.opened(app) as register:
        view = moving.look(app, register)
        move, sources = moving.transfer(app, view, What.SWITCHOVER, to=to, site=named, why=why)
        if not moving.answers(view, move.site):
            raise StorageError(
                f"site {move.site} does not answer, so what it has can't be known",
                hint=f"If it is gone: holdfast failover --site {move.site} --to {to}",
            )
        lost = _pending(app, move.site, to, sources)
        until = time.monotonic() + wait
        while lost and not dry_run and time.monotonic() < until:
            app.say(f"site {to} lacks snapshots of {show.count(len(lost), 'source')}: waiting")
            time.sleep(min(_AGAIN, max(0.0, until - time.monotonic())))
            lost = _pending(app, move.site, to, sources)
        if not dry_run:
            moving.refuse_loss(app, lost, to, strict=True, accept=False)
        plan = moving.Plan(
            move=move,
            view=view,
            sources=sources,
            lost=lost,
            undo=f"holdfast failback {move.site}",
            consequence=f"{show.count(len(sources), 'source')} of {move.site} will be backed up to {to}",
        )
        moving.make(app, register, plan, dry_run=dry_run, yes=yes)
    late = [] if dry_run else _pending(app, move.site, to, sources)
    if late:
        now = time.time()
        said = "; ".join(moving.describe_lack(lack, now) for lack in late[:3])
        app.warn(f"committed at {move.site} meanwhile, and still to be copied to {to}: {said}")


def _pending(app: App, site: str, to: str, sources: Sequence[str]) -> list[Lack]:
    from shared.topology.lag import lacks, read_site

    return lacks(read_site(app.fleet, site, sources), read_site(app.fleet, to, sources))
