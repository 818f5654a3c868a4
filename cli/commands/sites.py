"""`holdfast sites`: the members, how they stand, what would be lost; members come and go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli import moving
from cli.app import App, global_options, pass_app
from cli.groups import GroupWithDefault
from cli.sites.orders import COMMANDS
from shared.errors import EXIT_INCOMPLETE, EXIT_OK, UsageError

if TYPE_CHECKING:
    from shared.topology.state import Change


@click.group(
    cls=GroupWithDefault,
    epilog="""\b
Examples:
  holdfast sites                       # who votes, who is primary, what would be lost
  holdfast sites history
  holdfast sites add ams
  holdfast sites remove --lost fra     # it will not come back
  holdfast sites settle                # tell those that missed something
  holdfast sites pause                 # no failover by itself, until resume
  holdfast sites maintenance fra --for 2h""",
)
@global_options
def command() -> None:
    """Show the sites and how they stand; let them join, leave, and know what was decided."""


@command.command(
    "list",
    epilog="""\b
Examples:
  holdfast sites
  holdfast sites --look --json         # ask the sites themselves for every source""",
)
@click.option("--look", "ask_all", is_flag=True, help="Ask the sites for every source, and not the ledger first.")
@global_options
@pass_app
def list_sites(app: App, ask_all: bool) -> int:
    """Show each site: how it stands to what was decided, what it is primary for, what would be lost if it died now.

    Exit code 3: a member does not answer, or does not agree.
    """
    from cli.sites import orders
    from cli.sites.facts import gather
    from cli.sites.view import as_json, lines

    with moving.opened(app) as register:
        view = register.look()
        report = gather(app.fleet, view, ask_all=ask_all)
    noted = orders.as_json(view.state), orders.notable(view.state, time.time())
    app.result(as_json(report) | noted[0], *lines(report), *noted[1])
    return EXIT_OK if report.is_well else EXIT_INCOMPLETE


@command.command(
    "history",
    epilog="""\b
Examples:
  holdfast sites history
  holdfast sites history --json""",
)
@global_options
@pass_app
def history(app: App) -> None:
    """Show every change of the topology that is remembered, the newest first."""
    with moving.opened(app) as register:
        changes = register.look().state.history[::-1]
    app.result({"changes": [_change(one) for one in changes]}, *([_line(one) for one in changes] or ["no change yet"]))


def _change(one: Change) -> dict[str, Any]:
    return {
        "epoch": one.epoch.number,
        "claimant": one.epoch.claimant,
        "time": show.iso(one.at),
        "what": one.what,
        "why": one.why or None,
        "by": one.by,
        "behind": one.behind or None,
    }


def _line(one: Change) -> str:
    why = f": {one.why}" if one.why else ""
    behind = f"\n      behind: {one.behind}" if one.behind else ""
    return f"{one.epoch.number:>4}  {show.moment(one.at)}  {one.what}, by {one.by}{why}{behind}"


@command.command(
    "add",
    epilog="""\b
Examples:
  holdfast sites add ams --dry-run
  holdfast sites add w --witness""",
)
@click.argument("site")
@click.option("--witness", is_flag=True, help="It votes and keeps no copies, as the configuration has to say, too.")
@moving.why_option
@moving.dry_option
@moving.yes_option
@global_options
@pass_app
def add(app: App, site: str, witness: bool, why: str, dry_run: bool, yes: bool) -> None:
    """Let SITE, which the configuration names, vote. Its store is tried first: it needs conditional writes."""
    from cli.runs import who_asks
    from shared.topology.moves import Move, What, new_claim
    from shared.topology.voters import require_voters

    if witness and not app.fleet.site(site).witness:
        raise UsageError(f"the configuration says that {site} keeps copies", hint=f"Give {site} `witness: true` there")
    witness, by = app.fleet.site(site).witness, who_asks()
    with moving.opened(app) as register:
        view = register.look()
        move = Move(What.ADD, site, by=by, why=why, witness=witness, claim=new_claim(by))
        move(view.state)
        notes = require_voters(app.fleet, [site])
        plan = moving.Plan(
            move=move,
            view=view,
            notes=notes,
            undo=f"holdfast sites remove {site}",
            consequence=f"site {site} will vote, and nothing will be deleted anywhere while it does not answer",
        )
        moving.make(app, register, plan, dry_run=dry_run, yes=yes)


@command.command(
    "remove",
    epilog="""\b
Examples:
  holdfast sites remove ams --why "the contract ends"
  holdfast sites remove --lost fra     # burnt down: the others decide without it""",
)
@click.argument("site")
@click.option("--lost", is_flag=True, help="It is gone for good; else every member must agree.")
@moving.without_option
@moving.why_option
@moving.dry_option
@moving.yes_option
@global_options
@pass_app
def remove(app: App, site: str, lost: bool, without_majority: bool, why: str, dry_run: bool, yes: bool) -> None:
    """Let SITE vote no more. What it keeps stays there; a lost one that returns is added anew.

    Forget and prune need every member, so they wait for a site that is gone until it is removed as lost.
    """
    from cli.runs import who_asks
    from shared.topology.moves import Move, What, new_claim, primaries_of

    if without_majority and not lost:
        raise UsageError(f"{moving.WITHOUT} goes with --lost: a planned removal needs every member")
    by = who_asks()
    with moving.opened(app) as register:
        view = moving.look(app, register)
        move = Move(
            What.REMOVE_LOST if lost else What.REMOVE,
            site,
            by=by,
            why=why,
            primaries=frozenset(primaries_of(app.fleet).values()),
            agreed=None if lost else register.every().epoch,
            claim=new_claim(by),
        )
        plan = moving.Plan(
            move=move,
            view=view,
            least=moving.least_of(app, view, without_majority=without_majority) if without_majority else 0,
            undo=f"holdfast sites add {site}",
            consequence=f"site {site} will not be asked any more: the others decide, and delete, without it",
        )
        moving.make(app, register, plan, dry_run=dry_run, yes=yes)


@command.command(
    "settle",
    epilog="""\b
Examples:
  holdfast sites settle                # after a site has come back; and once, for the first vote""",
)
@global_options
@pass_app
def settle(app: App) -> int:
    """Tell what was decided to members that missed it, or have forgotten; have them vote for the first time.

    Exit code 3: some member could not be told.
    """
    from shared.topology.register import Standing

    with moving.opened(app) as register:
        moving.look(app, register)
        state = register.settle()
        view = register.look()
    missed = sorted(name for name, how in view.standing.items() if how is not Standing.AGREES)
    data = {
        "epoch": state.epoch.number,
        "members": [
            {"site": name, "standing": how.value, "error": _error(view.errors.get(name))}
            for name, how in view.standing.items()
        ],
    }
    lines = [f"epoch {state.epoch.number}"]
    lines += [f"{name}: {how}{_because(view.errors.get(name))}" for name, how in view.standing.items()]
    app.result(data, *lines)
    return EXIT_INCOMPLETE if missed else EXIT_OK


def _error(error: Exception | None) -> str | None:
    return str(error.args[0]) if error else None


def _because(error: Exception | None) -> str:
    return f" ({error.args[0]})" if error else ""


for _one in COMMANDS:
    command.add_command(_one)
