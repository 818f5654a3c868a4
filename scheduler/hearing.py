"""What the scheduler hears between ticks: that snapshots were committed, so that their copies need not wait for one.

An event says which source to look at, and nothing more: whether a copy is due follows from the ledger, as at any tick.
So one that is forged (it is not believed), late or doubled opens nothing that was not due, and one that is lost costs a
tick. Taken by whichever scheduler is asked; several share the queue.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from shared.errors import ConfigError, LedgerError
from shared.messaging.events import REPLICATION, SNAPSHOT_COMMITTED, Ear
from shared.messaging.ignored import count_ignored
from shared.messaging.signed import Judge
from shared.observability.structured import structlog

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.ledger.ledger import Ledger

_MAX_AGE = 3600.0  # seconds; whatever is older a tick has long found

_log = structlog.get_logger("holdfast.scheduler")


class Hearing:
    """Hears of committed snapshots. For one thread; made before the fork, and connects after it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ear: Ear | None = None
        self._key = b""
        self._said = ""

    def committed(self, fleet: Fleet, pools: Ledger) -> set[str]:
        """The sources of which snapshots were committed since the last call. Waits for nothing, raises nothing."""
        try:
            key = fleet.event_key
        except ConfigError as error:
            if str(error) != self._said:
                _log.warning("events can't be heard; ticks find what they would tell", reason=str(error))
            self._said = str(error)
            return set()
        if self._ear is None or key != self._key:
            self._key = key
            judge = Judge(key, max_age=_MAX_AGE, ahead=fleet.health.clock_tolerance)
            self._ear = Ear(self._url, REPLICATION, judge)
        events = self._ear.drain()
        with suppress(LedgerError):  # then it is counted the next time
            count_ignored(pools, self._ear.judge)
        return {
            source
            for event in events
            if event.name == SNAPSHOT_COMMITTED
            and isinstance(source := event.said.get("source"), str)
            and source in fleet.sources
        }
