"""What `holdfast up` shows of the runs: a line for each that has ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from shared.errors import LedgerError
from shared.ledger.ended import EndedRuns
from shared.messaging.client import realms

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.ledger.ledger import Ledger
    from shared.ledger.model import Run


class Reporter:
    """Tells of each run that ended since the last look, in one round trip to Redis."""

    def __init__(self, ledger: Ledger, fleet: Fleet, tell: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._tell = tell
        self._hosts = realms(fleet)
        self._fleet = fleet
        self._ended = EndedRuns(ledger, self._hosts)

    def look(self) -> None:
        """Tell what there is to tell; nothing while Redis is away."""
        with suppress(LedgerError):
            for run in self._ended.look():
                self._tell(line(run, self._home(run)))

    def follow(self, fleet: Fleet) -> None:
        """The configuration has changed: look at its hosts."""
        self._fleet = fleet
        if realms(fleet) != self._hosts:
            self._hosts = realms(fleet)
            self._ended = EndedRuns(self._ledger, self._hosts)

    def _home(self, run: Run) -> str:
        facts = self._fleet.sources.get(run.request.source)
        return "" if facts is None else facts.host or ""


def line(run: Run, home: str = "") -> str:
    """One run that is over, for people. `home`: the host that speaks for its source; who else does is named."""
    source = f"{run.request.source} on {run.host}" if run.host not in {"", home} else run.request.source
    words = [source, run.request.kind.value, run.state.value]
    result = run.result
    if run.request.kind.is_backup and not run.error:
        words.append(f"{result.get('files_new', 0)} new, {result.get('files_changed', 0)} changed")
        words.append(f"snapshot {str(result.get('snapshot', ''))[:8]}")
    words.append(f"{run.ended - run.since:.1f} s")
    if run.error:
        words.append(" ".join(run.error.split()))
    return "  ".join(words)
