"""How many backups may wait or run at once, and whose turn it is. Pure.

Whoever is due and does not fit stays due: nothing is noted, and the next tick looks again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from shared.ledger.model import slot_time

if TYPE_CHECKING:
    from shared.config.scheduling import Scheduling
    from shared.ledger.model import Evidence


def urgency(slot: str, evidence: Evidence | None, rpo: float | None) -> tuple[bool, float, str]:
    """Sorts what is due: first by when the RPO is missed, as if a first backup had been due with it; then by age."""
    since = evidence.last if evidence and evidence.last else slot
    return rpo is None, _seconds(since) + (rpo or 0.0), slot


@lru_cache(maxsize=4096)
def _seconds(slot: str) -> float:
    """0 for what is no slot: an agent says of its own host's snapshots what it likes."""
    try:
        return slot_time(slot).timestamp()
    except ValueError:
        return 0.0


@dataclass(slots=True)
class Admission:
    """Counts what is open and lets more in, one after the other."""

    limits: Scheduling
    fleet: int = 0
    sites: Counter[str] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)

    def count(self, host: str, site: str, *, away: bool = False) -> None:
        """A backup that is open. One that waits for a host that is `away` takes nothing but that host's own place."""
        if host:
            self.hosts[host] += 1
            if self.hosts[host] > self.limits.runs_per_host:
                return  # more than are begun there: asked for by hand, or its agent says so; it takes nobody's place
        if not (host and away):
            self.fleet += 1
            self.sites[site] += 1

    def give_back(self, host: str, site: str) -> None:
        """One that was let in and was not opened after all."""
        self.hosts[host] -= 1
        self.fleet -= 1
        self.sites[site] -= 1

    def refusal(self, host: str, site: str) -> str:
        """Why no more may be let in for now; empty where one may."""
        limits = self.limits
        if host and self.hosts[host] >= limits.runs_per_host:
            return f"host {host} has {self.hosts[host]} of {limits.runs_per_host} runs"
        if limits.runs is not None and self.fleet >= limits.runs:
            return f"the fleet has {self.fleet} of {limits.runs} runs"
        if limits.runs_per_site is not None and self.sites[site] >= limits.runs_per_site:
            return f"site {site} has {self.sites[site]} of {limits.runs_per_site} runs"
        return ""
