"""`holdfast unlock`: removes locks whose holders are dead."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from cli import format as show
from cli.app import App, global_options, pass_app
from cli.terminal import echo
from shared.errors import UsageError

if TYPE_CHECKING:
    from shared.repository.locks import LockInfo


@click.command(
    epilog="""\b
Examples:
  holdfast unlock web1
  holdfast unlock web1 --all        # names each holder and asks
  holdfast unlock web1 --all --yes""",
)
@click.argument("source")
@click.option("--all", "everything", is_flag=True, help="Remove locks that count, too.")
@click.option("--yes", is_flag=True, help="With --all: do not ask.")
@click.option("--site", default="", metavar="SITE", help="The site to work at (else the primary).")
@global_options
@pass_app
def command(app: App, source: str, everything: bool, yes: bool, site: str) -> None:
    """Remove stale locks from the repository of SOURCE.

    A lock that was not refreshed for 30 minutes, by the store's clock, counts no more. One that counts may belong
    to a run that goes on: with --all that run ends at its next check, and keeps what it has uploaded.
    """
    from cli.opened import open_source
    from shared.repository.locks import STALE, read_locks

    if yes and not everything:
        raise UsageError("--yes goes with --all; stale locks are removed without a question")
    repository = open_source(app.fleet, source, site).repository
    store = repository.store
    locks = read_locks(store, repository.load, now=store.clock(), stale=True)
    locks.sort(key=lambda lock: -lock.age)
    stale = [lock for lock in locks if lock.age > STALE]
    live = [lock for lock in locks if lock.age <= STALE]
    going = [*stale, *live] if everything and live and _agreed(app, live, yes=yes) else stale
    for lock in going:
        store.delete(f"locks/{lock.id}")
    kept = [lock for lock in locks if lock not in going]
    data = {"source": source, "removed": [as_json(lock) for lock in going], "kept": [as_json(lock) for lock in kept]}
    lines = [f"removed: {describe(lock)}" for lock in going] + [f"kept:    {describe(lock)}" for lock in kept]
    if kept:
        lines.append(f"a lock counts for {show.duration(STALE)} after its last refresh; --all removes it before")
    app.result(data, *(lines or ["there are no locks"]))


def _agreed(app: App, live: list[LockInfo], *, yes: bool) -> bool:
    """Whether locks that count may go. Raises UsageError where nobody can be asked."""
    if yes:
        return True
    if not app.is_interactive or not os.isatty(0):
        listed = "; ".join(describe(lock) for lock in live)
        raise UsageError(
            f"{show.count(len(live), 'lock')} of a holder that may be alive: {listed}",
            hint="With --yes they are removed without a question",
        )
    for lock in live:
        echo(describe(lock), err=True)
    return click.confirm("Remove these locks? Their holders may be alive", err=True)


def describe(lock: LockInfo) -> str:
    """A lock for people: kind, holder, age."""
    kind = "exclusive" if lock.exclusive else "shared"
    age = show.duration(max(0.0, lock.age))
    return f"{kind} lock {lock.id[:8]} of {lock.hostname} (pid {lock.pid}), {age} old"


def as_json(lock: LockInfo) -> dict[str, Any]:
    """A lock for programs; age in seconds by the store's clock."""
    return {
        "id": lock.id,
        "holder": lock.hostname,
        "pid": lock.pid,
        "exclusive": lock.exclusive,
        "age": round(lock.age, 3),
    }
