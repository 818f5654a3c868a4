"""What this worker sees of the sites by itself: whether each lets its register's object be read, in time.

Invariant: nobody waits for a site longer than the time-out. One that hangs keeps its one thread, and is down.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

from shared.errors import HoldfastError
from shared.health.observation import Observation, Verdict
from shared.storage.api import Denied, MissingObject
from shared.topology.ballot import KEY

if TYPE_CHECKING:
    from shared.config.fleet import Fleet


class _Look(threading.Thread):
    def __init__(self, fleet: Fleet, site: str) -> None:
        super().__init__(name=f"look-{site}", daemon=True)
        self.answer = (Verdict.DOWN, "no answer in time")
        self.took = 0.0
        self._fleet, self._site = fleet, site

    def run(self) -> None:
        began = time.monotonic()
        self.answer = self._ask()
        self.took = time.monotonic() - began

    def _ask(self) -> tuple[Verdict, str]:
        try:
            with closing(self._fleet.open_site(self._site)) as store:
                try:
                    store.get_versioned(KEY)
                except MissingObject:  # its vote is lost, or it has none yet; the site itself is there if it lists
                    next(iter(store.list("holdfast/")), None)
        except (Denied, MissingObject) as error:
            return Verdict.REFUSED, str(error)
        except HoldfastError as error:
            return Verdict.DOWN, str(error)
        return Verdict.UP, ""


class Looks:
    """By one observer at one place."""

    def __init__(self, observer: str, place: str, within: float) -> None:
        self._observer, self._place, self._within = observer, place, within
        self._under_way: dict[str, _Look] = {}

    def __call__(self, fleet: Fleet) -> list[Observation]:
        """One look at each site, all at once."""
        fresh = []
        for site in fleet.sites:
            owed = self._under_way.get(site)
            if owed is None or not owed.is_alive():
                self._under_way[site] = look = _Look(fleet, site)
                look.start()
                fresh.append(look)
        end = time.monotonic() + self._within
        for look in fresh:
            look.join(max(0.0, end - time.monotonic()))
        return [self._told(site) for site in fleet.sites]

    def _told(self, site: str) -> Observation:
        look = self._under_way[site]
        verdict, why = (Verdict.DOWN, "no answer in time") if look.is_alive() else look.answer
        return Observation(site, self._observer, self._place, time.time(), verdict, why, look.took)
