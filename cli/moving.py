"""What the commands share that change which site is primary: what would be lost, the question, the answer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli import format as show
from shared.errors import UsageError

if TYPE_CHECKING:
    from cli.app import App
    from shared.topology.lag import Lack
    from shared.topology.moves import Move, What
    from shared.topology.register import Register, View
    from shared.topology.state import State

Command = TypeVar("Command", bound=Callable[..., object])

_SHOWN = 20
WITHOUT = "--without-majority"

to_option = click.option("--to", required=True, metavar="SITE", help="The site that takes its place.")
why_option = click.option("--why", default="", metavar="TEXT", help="For the history: why.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
dry_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
accept_option = click.option("--accept-loss", is_flag=True, help="Go on though the new primary lacks snapshots.")
without_option = click.option(
    WITHOUT,
    "without_majority",
    is_flag=True,
    help="Decide though most members do not answer: if these have decided otherwise meanwhile, one decision is lost.",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """A change that is ready to be made. `sources` will have another primary; `lost`: what that one lacks of them.

    `least`: so many members are enough.
    """

    move: Move
    view: View
    sources: Sequence[str] = ()
    lost: Sequence[Lack] = ()
    notes: Sequence[str] = ()
    least: int = 0
    undo: str = ""
    consequence: str = ""


def primary_after(plan: Plan) -> str:
    """The site that is primary of the sources then; empty where none changes."""
    return plan.move.to or (plan.move.site if plan.sources else "")


def make(app: App, register: Register, plan: Plan, *, dry_run: bool, yes: bool) -> None:
    """Show, ask, do, and say what came of it."""
    from shared.topology.moves import carry_out

    move, before = plan.move, plan.view.state
    after = move(before)  # what it refuses is told before anybody is asked
    if dry_run:
        _tell(app, plan, after, done=False)
        return
    for line in _preview(plan):
        app.say(line)
    require_word(app, yes=yes, consequence=plan.consequence)
    _tell(app, plan, carry_out(register, move, least=plan.least), done=True, missed=_missed(register))


def require_word(app: App, *, yes: bool, consequence: str) -> None:
    """Ask, naming the consequence. Raises UsageError where nobody can be asked, or who was asked says no."""
    if yes:
        return
    if not app.is_interactive or not os.isatty(0):
        raise UsageError(f"{consequence}, and there is no terminal to ask on", hint="With --yes it is done unasked")
    if not click.confirm(f"{consequence}. Go on?", err=True):
        raise UsageError("nothing was done")


def _missed(register: Register) -> list[str]:
    from shared.topology.register import Standing

    return [name for name, how in register.look().standing.items() if how is not Standing.AGREES]


def _preview(plan: Plan) -> list[str]:
    lines = [f"note: {note}" for note in plan.notes]
    now = time.time()
    lines += [f"lacks  {describe_lack(lack, now)}" for lack in plan.lost[:_SHOWN]]
    lines += [f"and {show.count(len(plan.lost) - _SHOWN, 'source')} more"] if len(plan.lost) > _SHOWN else []
    return lines


def describe_lack(lack: Lack, now: float) -> str:
    """One source that would lose something, with ages."""
    from shared.ledger.model import slot_time

    def age(slot: str) -> str:
        return f"from {show.ago(slot_time(slot).timestamp(), now)}"

    newest = "the newest one is not known" if lack.newest is None else f"the newest is {age(lack.newest)}"
    count = f" ({show.count(len(lack.snapshots), 'snapshot')} missing)" if lack.snapshots else ""
    return f"{lack.source}: {newest}, here {age(lack.has) if lack.has else 'there is none'}{count}"


def lack_json(lack: Lack) -> dict[str, Any]:
    """The same for programs."""
    return {
        "source": lack.source,
        "newest": lack.newest,
        "has": lack.has or None,
        "snapshots": list(lack.snapshots),
    }


def _tell(app: App, plan: Plan, state: State, *, done: bool, missed: Sequence[str] = ()) -> None:
    move = plan.move
    number = state.epoch.number
    data = {
        "move": move.what.value,
        "site": move.site,
        "to": primary_after(plan) or None,
        "done": done,
        "epoch": number,
        "claimant": state.epoch.claimant if done else None,
        "members": list(state.members),
        "sources": list(plan.sources),
        "lost": [lack_json(lack) for lack in plan.lost],
        "notes": list(plan.notes),
        "missed": list(missed),
        "undo": plan.undo or None,
    }
    lines = _preview(plan) if not done else []
    would = "" if done else "would be "
    if plan.sources:
        lines.append(f"{show.count(len(plan.sources), 'source')} {would}backed up to {primary_after(plan)}")
    members = ", ".join(state.members)
    lines.append(f"{'epoch' if done else 'nothing was changed; it would be epoch'} {number}; members: {members}")
    lines += [f"not told yet: {', '.join(missed)}; forget and prune wait for that"] if missed else []
    lines += [f"undo: {plan.undo}"] if plan.undo and done else []
    app.result(data, *lines)


def opened(app: App) -> closing[Register]:
    """The register, to be closed by `with`. Raises ConfigError."""
    from shared import topology

    return closing(topology.register(app.fleet))


def look(app: App, register: Register) -> View:
    """Ask all members; where they have never voted, try first whether they can. Raises MoveRefused, StorageError."""
    from shared.topology.voters import require_voters

    view = register.look()
    if not view.voted:
        answering = [name for name in view.standing if name not in _silent(view)]
        for note in require_voters(app.fleet, answering):
            app.warn(note)
    return view


def transfer(app: App, view: View, what: What, *, to: str, site: str, why: str) -> tuple[Move, list[str]]:
    """The change by which `to` takes the place of a site, and the sources that are there now.

    Raises ConfigError; MoveRefused as the topology stands.
    """
    from cli.runs import who_asks
    from shared.topology.moves import Move, at_site, failed_site, new_claim, primaries_of

    app.fleet.site(to)
    primaries, by = primaries_of(app.fleet), who_asks()
    site = site or failed_site(view.state, primaries.values(), to)
    move = Move(what, site, to, by, why, primaries=frozenset(primaries.values()), claim=new_claim(by))
    move(view.state)
    return move, at_site(view.state, primaries, site)


def _silent(view: View) -> set[str]:
    from shared.topology.register import Standing

    return {name for name, how in view.standing.items() if how is Standing.SILENT}


def answers(view: View, site: str) -> bool:
    """Whether a member answered when all were asked."""
    return site in view.standing and site not in _silent(view)


def least_of(app: App, view: View, *, without_majority: bool) -> int:
    """How many members are enough: 1 where a person says so, here or in the configuration of two sites."""
    from shared.topology.moves import enough

    return 1 if without_majority else enough(app.fleet, view.state)


def refuse_loss(app: App, lost: Sequence[Lack], site: str, *, strict: bool, accept: bool = True) -> None:
    """Raise TooFarBehind where a source lacks more than its policy's RPO; `strict`: where any lacks anything."""
    from shared.topology import TooFarBehind

    now = time.time()
    far = []
    for lack in lost:
        policy = app.fleet.policy_for(lack.source)
        if strict or not lack.within(policy.rpo if policy else None, now):
            far.append(lack)
    if far:
        said = "; ".join(describe_lack(lack, now) for lack in far[:3])
        more = f"; and {show.count(len(far) - 3, 'source')} more" if len(far) > 3 else ""
        either = ", or go on without them: --accept-loss" if accept else ", or wait for that: --wait SECONDS"
        raise TooFarBehind(
            f"site {site} lacks snapshots of {show.count(len(far), 'source')}: {said}{more}",
            hint=f"Copy them first (--dry-run lists them all){either}",
        )
