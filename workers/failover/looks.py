"""What this worker sees of the sites by itself, at each look: in full now and then, and by a light read in between.

A full look writes, reads back and compares (`shared.health.probe`): it finds a site that is full, lies, or refuses. A
light one reads the register's object: it is cheap enough for every other second, and finds a site that is gone. A site
that a full look has found wanting is looked at in full until it works again. Invariant: nobody waits for a site longer
than the time-out. One that hangs keeps its one thread, and is down.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

from shared.errors import HoldfastError
from shared.health.observation import Observation, Verdict
from shared.health.place import observer_of, place_of
from shared.health.probe import Prober
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
    """By one observer at one place. `fleet` as it is at that time; another one takes others."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.place = place_of(fleet)
        self._observer = observer_of("failover")
        self._within = max(1.0, fleet.failover.interval)
        self._under_way: dict[str, _Look] = {}
        self._prober = Prober(fleet, self._observer, self.place)
        self._full: dict[str, tuple[float, bool]] = {}  # by site: when it was looked at in full, and whether it worked

    def __call__(self) -> list[Observation]:
        """One look at each site, all at once."""
        now, every = time.monotonic(), self._fleet.health.interval
        known = {site: self._full.get(site, (float("-inf"), False)) for site in self._fleet.sites}
        due = [site for site, (at, worked) in known.items() if not worked or now - at >= every]
        full = {one.site: one for one in self._prober.look(due)} if due else {}
        for site, one in full.items():
            self._full[site] = time.monotonic(), one.verdict.works
        return [*full.values(), *self._light([site for site in self._fleet.sites if site not in full])]

    def _light(self, sites: list[str]) -> list[Observation]:
        fresh = []
        for site in sites:
            owed = self._under_way.get(site)
            if owed is None or not owed.is_alive():
                self._under_way[site] = look = _Look(self._fleet, site)
                look.start()
                fresh.append(look)
        end = time.monotonic() + self._within
        for look in fresh:
            look.join(max(0.0, end - time.monotonic()))
        found = [self._told(site) for site in sites]
        for one in found:
            if not one.verdict.works:
                self._full.pop(one.site, None)
        return found

    def _told(self, site: str) -> Observation:
        look = self._under_way[site]
        verdict, why = (Verdict.DOWN, "no answer in time") if look.is_alive() else look.answer
        return Observation(site, self._observer, self.place, time.time(), verdict, why, look.took)
