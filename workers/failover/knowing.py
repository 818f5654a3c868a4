"""How far the sites are apart, for the machine: read only where a primary does not work, or another stands in for it.

What is read is kept for a while, so that a look need not read each time. What can't be read is not known, and what is
not known forbids.
"""

from __future__ import annotations

import time
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from shared.errors import HoldfastError
from shared.ledger.connect import connect
from shared.messaging.broker import broker_url
from shared.observability.structured import structlog
from shared.topology.lag import Lack, from_ledger, lacks, read_site, thought_lost
from shared.topology.moves import at_site, primaries_of, returning
from shared.topology.notes import Phase, note_of
from workers.failover.pilot import Knowledge

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.config.fleet import Fleet
    from shared.topology.state import State

_KEPT = 10.0  # seconds
_TIMEOUT = 2.0  # seconds: whether Redis is there must not hold a failover up
_APART = (Phase.CATCHING_UP, Phase.READY, Phase.SWITCHING_BACK)

_log = structlog.get_logger("holdfast.failover")


class Knowing:
    """One worker's; to be closed."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._ledger = connect(broker_url(fleet), timeout=_TIMEOUT)
        self._kept: dict[tuple[str, ...], tuple[float, object]] = {}

    def close(self) -> None:
        """Give up the connection."""
        self._ledger.client.close()

    def now(self, state: State, suspected: set[str], working: set[str]) -> Knowledge:
        """`suspected`: sites that do not work as far as is known; `working`: those that do."""
        primaries = primaries_of(self._fleet)
        behind: dict[tuple[str, str], tuple[str, ...]] = {}
        for site in suspected & {state.primary(one) for one in primaries.values()}:
            sources = at_site(state, primaries, site)
            for to in working & set(state.keepers) - {site}:
                found = self._keep(("behind", site, to), partial(self._lost, site, to, sources))
                if isinstance(found, tuple):
                    behind[site, to] = found
        alike: dict[str, bool] = {}
        for site, to in state.stand_ins.items():
            if note_of(state, site).phase in _APART and {site, state.primary(to)} <= working:
                there = state.primary(to)
                sources = returning(state, primaries, site)
                alike[site] = self._keep(("alike", site, there), partial(self._same, site, there, sources)) is True
        return Knowledge(behind, alike, self._may_go_back())

    def _keep(self, what: tuple[str, ...], read: Callable[[], object]) -> object:
        at, found = self._kept.get(what, (float("-inf"), None))
        if time.monotonic() - at > _KEPT:
            try:
                found = read()
            except HoldfastError as error:
                _log.warning("how far sites are apart can't be read", sites=list(what[1:]), reason=str(error))
                found = None
            self._kept[what] = time.monotonic(), found
        return found

    def _lost(self, site: str, to: str, sources: list[str]) -> tuple[str, ...]:
        ours = read_site(self._fleet, to, sources)
        known = from_ledger(self._fleet, lambda: self._ledger, site, sources)
        return tuple(one.describe() for one in thought_lost(sources, known or {}, ours) if not self._is_within(one))

    def _is_within(self, lack: Lack) -> bool:
        limit = self._fleet.failover.max_behind
        if limit is None:
            policy = self._fleet.policy_for(lack.source)
            limit = policy.rpo if policy else None
        return lack.within(limit, time.time())

    def _same(self, site: str, to: str, sources: list[str]) -> bool:
        one, other = read_site(self._fleet, site, sources), read_site(self._fleet, to, sources)
        return not (lacks(one, other) or lacks(other, one))

    def _may_go_back(self) -> bool:
        asked = self._fleet.failover
        if asked.failback != "automatic":
            return False
        here = datetime.now().astimezone()
        return asked.failback_hours is None or here.hour * 60 + here.minute in asked.failback_hours.minutes()
