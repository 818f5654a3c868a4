"""`holdfast sources rename`: the file first, then what Redis knows.

Killed in between, Redis has what it knows under the old name: the scheduler then asks the site, as after a wipe, so
nothing is backed up again for it. The command, given again, moves the rest.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from shared.errors import ConfigError

if TYPE_CHECKING:
    from cli.app import App
    from shared.config.fleet import Fleet

_INCOMPLETE = 3


def run(app: App, old: str, new: str, *, dry_run: bool) -> int:
    """Rename; the exit code: 3 where Redis could not be told. Raises ConfigError, LedgerError."""
    from shared.config.fleet import Fleet
    from shared.config.renaming import rename

    fleet = app.fleet
    done = old not in fleet.sources and new in fleet.sources and fleet.source(new).formerly is not None
    lines: list[str] = []
    if not done:
        source = fleet.source(old)
        edit = rename(app.config_path, old, new)
        diff = difflib.unified_diff(
            edit.before.splitlines(), edit.after.splitlines(), edit.file, edit.file, lineterm=""
        )
        lines += diff
        if dry_run:
            app.result({"old": old, "new": new, "file": edit.file, "changed": False, "ledger": False}, *lines)
            return 0
        _require_idle(app, fleet, old)
        edit.make()
        fleet = Fleet.load(app.config_path)
        if source.host:
            lines.append(f"where {source.host} has a file of its own (an agent), make the same change there")
    elif dry_run:
        app.result(
            {"old": old, "new": new, "file": None, "changed": False, "ledger": False}, "the file says so already"
        )
        return 0
    moved = _move(app, fleet, old, new)
    data = {"old": old, "new": new, "file": None if done else edit.file, "changed": not done, "ledger": moved}
    app.result(data, *lines, f"renamed: {old} is {new} now", f"undo: holdfast sources rename {new} {old}")
    return 0 if moved else _INCOMPLETE


def _require_idle(app: App, fleet: Fleet, name: str) -> None:
    """A run that is under way is of a source that its worker would not find again."""
    from shared.ledger.errors import LedgerAway
    from shared.messaging.client import ledger_of

    try:
        open_run = ledger_of(fleet).realm(fleet.source(name).host or "").open_run_of(name)
        open_run = open_run or ledger_of(fleet).open_run_of(name)
    except LedgerAway as error:
        app.warn(f"whether a run of {name} is under way can't be known: {error}")
        return
    if open_run:
        raise ConfigError(
            f"a run of {name} is queued or under way ({open_run[:12]}), and would not find it under another name",
            hint=f"Wait for its end, `holdfast runs follow {open_run[:12]}`, or cancel it",
        )


def _move(app: App, fleet: Fleet, old: str, new: str) -> bool:
    """Let Redis know what it knows under the new name."""
    from shared.ledger.errors import LedgerAway
    from shared.messaging.client import ledger_of

    try:
        pools = ledger_of(fleet)
        for host in dict.fromkeys((fleet.source(new).host or "", "")):
            if open_run := pools.realm(host).rename(old, new):
                app.warn(f"a run of {old} was begun meanwhile ({open_run[:12]}): once it has ended, do this again")
                return False
    except LedgerAway as error:
        app.warn(f"Redis is away, so what it knows stays under {old} until this is done again: {error}")
        return False
    return True
