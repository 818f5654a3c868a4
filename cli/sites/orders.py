"""What people tell the failover's machine: to pause, to go on, that a site is worked on, that they say yes.

Each is one change of the register's notes, which raises no epoch: nothing about the sites themselves is changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli import moving
from cli.app import App, global_options, pass_app
from shared.errors import UsageError

if TYPE_CHECKING:
    from shared.topology.notes import Note
    from shared.topology.state import State

Change = Callable[["State"], "State"]


def _order(app: App, change: Change) -> None:
    """Have a majority note it, and say what is noted then. Raises MoveRefused, NoMajority."""
    with moving.opened(app) as register:
        moving.look(app, register)
        state = register.change(change)
    said = notable(state, time.time())
    app.result(as_json(state), *(said or ["nothing is noted: all sites are healthy, and failover by itself is on"]))


@click.command(
    epilog="""\b
Examples:
  holdfast sites pause --why "moving racks"    # no failover and no failback by itself, until resume
  holdfast sites resume"""
)
@moving.why_option
@global_options
@pass_app
def pause(app: App, why: str) -> None:
    """Let nothing be failed over or failed back by itself, anywhere, until `sites resume`. By hand all goes on."""
    from cli.runs import who_asks
    from shared.topology.notes import orders_of, with_orders

    by = f"{who_asks()}{f': {why}' if why else ''}"

    def change(state: State) -> State:
        orders = orders_of(state)
        return with_orders(state, replace(orders, paused_by=by, turn=orders.turn + 1))

    _order(app, change)


@click.command(
    epilog="""\b
Examples:
  holdfast sites resume"""
)
@global_options
@pass_app
def resume(app: App) -> None:
    """Let sites be failed over by themselves again."""
    from shared.topology.notes import orders_of, with_orders

    def change(state: State) -> State:
        orders = orders_of(state)
        return with_orders(state, replace(orders, paused_by="", turn=orders.turn + 1))

    _order(app, change)


@click.command(
    epilog="""\b
Examples:
  holdfast sites acknowledge           # what was changed so far needs no cool-down any more"""
)
@global_options
@pass_app
def acknowledge(app: App) -> None:
    """Say that you have seen what was changed so far: the next failover need not wait for the cool-down."""
    from shared.topology.notes import orders_of, with_orders

    def change(state: State) -> State:
        orders = orders_of(state)
        return with_orders(state, replace(orders, acknowledged=state.epoch.number, turn=orders.turn + 1))

    _order(app, change)


@click.command(
    epilog="""\b
Examples:
  holdfast sites maintenance fra --for 2h    # it will be down, and that is planned
  holdfast sites maintenance fra --end"""
)
@click.argument("site")
@click.option("--for", "length", default="", metavar="TIME", help="For how long: 30m, 2h, 1d.")
@click.option("--end", is_flag=True, help="It is over.")
@global_options
@pass_app
def maintenance(app: App, site: str, length: str, end: bool) -> None:
    """Say that SITE is worked on: nothing is failed over from it or to it by itself meanwhile."""
    from shared.config.values import parse_duration

    if end == bool(length):
        raise UsageError("give --for TIME, or --end", hint=f"holdfast sites maintenance {site} --for 2h")
    seconds = 0.0 if end else parse_duration(length)
    if seconds is None or (not end and seconds <= 0):
        raise UsageError(f'"{length}" is no length of time', hint="For example 30m, 2h, 1d")
    until = 0.0 if end else time.time() + seconds

    def change(state: State) -> State:
        return _noted(state, site, maintenance_until=until)

    _order(app, change)


@click.command(
    epilog="""\b
Examples:
  holdfast sites accept --dry-run      # what waits for a yes
  holdfast sites accept                # yes to whatever is proposed, or blocked as too much would be lost
  holdfast sites accept fra"""
)
@click.argument("site", required=False, default="")
@moving.dry_option
@moving.yes_option
@global_options
@pass_app
def accept(app: App, site: str, dry_run: bool, yes: bool) -> None:
    """Say yes to a failover that is proposed, or that waits as more would be lost than the RPO allows.

    The failover worker makes it at its next look, if nothing else forbids it. `holdfast sites` says what waits and why.
    """
    with moving.opened(app) as register:
        state = moving.look(app, register).state
    shown = waiting(state, site)
    named = "; ".join(describe(state, one, time.time()) for one in shown)
    if dry_run:
        app.result(as_json(state), f"the failover worker would go on with {named}", "nothing was changed")
        return
    moving.require_word(app, yes=yes, consequence=f"the failover worker will go on with {named}")
    _order(app, lambda newest: said_yes(newest, shown))


COMMANDS = (pause, resume, acknowledge, maintenance, accept)


def waiting(state: State, site: str = "") -> dict[str, Note]:
    """What waits for a person's yes, by site: all of it, or that of one. Raises MoveRefused where nothing does."""
    from shared.topology.errors import MoveRefused
    from shared.topology.notes import Phase, note_of

    notes = {one: note_of(state, one) for one in state.members if site in {"", one}}
    found = {one: note for one, note in notes.items() if note.phase in {Phase.PROPOSED, Phase.BLOCKED}}
    if not found:
        raise MoveRefused(
            f"nothing waits for a yes{f' of site {site}' if site else ''}",
            hint="holdfast sites says how each one stands",
        )
    return found


def said_yes(state: State, shown: Mapping[str, Note]) -> State:
    """The state with a yes to just what was shown: another target or another loss is another question.

    Raises MoveRefused where something else waits now, or nothing does. Asked twice it is said once.
    """
    from shared.topology.errors import MoveRefused
    from shared.topology.notes import note_of

    for site, note in shown.items():
        now = note_of(state, site)
        if now == replace(note, accepted=True, turn=note.turn + 1):
            continue  # our own word, of which the answer was lost
        if now != note:
            raise MoveRefused(
                f"nothing was accepted: what waits at site {site} is another thing by now",
                hint="holdfast sites says what; then say yes to that",
            )
        state = _noted(state, site, accepted=True)
    return state


def _noted(state: State, site: str, **fields: Any) -> State:
    """The state with these fields of a site's note. Raises MoveRefused where it does not vote."""
    from shared.topology.errors import MoveRefused
    from shared.topology.notes import note_of, with_note

    if site not in state.members:
        raise MoveRefused(f"site {site} is no member: there are {', '.join(state.members)}")
    note = note_of(state, site)
    return with_note(state, site, note, replace(note, **fields, turn=note.turn + 1))


# -- what is noted ----------------------------------------------------------------------------------


def as_json(state: State) -> dict[str, Any]:
    """For programs."""
    from shared.topology.notes import note_of, orders_of

    orders = orders_of(state)
    found = []
    for site in state.members:
        note = note_of(state, site)
        found.append(
            {
                "site": site,
                "phase": note.phase.value,
                "to": note.to or None,
                "by": note.by or None,
                "since": show.iso(note.since) if note.since else None,
                "why": note.why or None,
                "accepted": note.accepted,
                "maintenance_until": show.iso(note.maintenance_until) if note.maintenance_until else None,
            }
        )
    return {"paused_by": orders.paused_by or None, "acknowledged": orders.acknowledged, "notes": found}


def notable(state: State, now: float) -> list[str]:
    """For people: what is not as on any other day. Empty where nothing is noted."""
    from shared.topology.notes import Phase, note_of, orders_of

    paused = orders_of(state).paused_by
    found = [f"failover by itself is paused by {paused}: holdfast sites resume"] if paused else []
    for site in state.members:
        note = note_of(state, site)
        if note.phase is not Phase.HEALTHY or note.maintenance_until > now:
            found.append(describe(state, site, now))
    return found


def describe(state: State, site: str, now: float) -> str:
    """How one site stands, in a line."""
    from shared.topology.notes import Phase, note_of

    note = note_of(state, site)
    to = f" to {note.to}" if note.to else ""
    why = f": {note.why}" if note.why else ""
    said = "" if note.phase is Phase.HEALTHY else f"{note.phase.value}{to}, {show.ago(note.since, now)}{why}"
    tended = f"in maintenance until {show.moment(note.maintenance_until)}" if note.maintenance_until > now else ""
    return f"site {site}: {'; '.join(one for one in (said, tended) if one) or 'healthy'}"
