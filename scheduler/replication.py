"""Which copies are due: where a site's own evidence of a source is older than its primary's. Pure but for the table.

A replication brings over all that is owed, so one is enough for however many snapshots. Its id is a hash of the newest
slot that the primary has: it is opened once for that, and after a failure again with the ledger's pauses. Once a day
one is due all the same, at a time of its own: for snapshots that no run of the ledger has made, and those that were
left over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING

from scheduler.due import Due, horizon
from scheduler.upkeep import DAY, Upkeep, upkeep, upkeep_due, upkeep_of
from shared import topology
from shared.errors import HoldfastError
from shared.ledger.model import RunKind, RunRequest, is_slot, run_id_for_slot
from shared.messaging.names import queue_of

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.ledger.sweep import SourceState
    from shared.topology import Epoch

AT_ONCE = 32  # rings that wait on the queue
_LOOKED_AT = 500  # of those that are wanted, by one tick


@dataclass(frozen=True, slots=True)
class Copy:
    """A source's copies at one site."""

    source: str
    site: str
    policy_id: str
    attempts: int
    daily: Upkeep
    upkeep: tuple[Upkeep, ...] = ()  # of what is there
    stood_in_for: bool = False  # it is the configured primary, and may have what no other has
    rests_until: float = 0.0  # POSIX seconds; no forget is due before

    @property
    def options(self) -> dict[str, object]:
        """What a replication there is told."""
        return {"site": self.site, **({"both_ways": True} if self.stood_in_for else {})}


@dataclass(frozen=True, slots=True)
class Copies:
    """All of them. `origins` and `places`: host, source and site of each, as the ledger is asked for them."""

    rows: tuple[Copy, ...]
    origins: tuple[tuple[str, str, str], ...]
    places: tuple[tuple[str, str, str], ...]

    def only(self, sources: Collection[str]) -> Copies:
        """Those of some sources."""
        kept = [at for at, row in enumerate(self.rows) if row.source in sources]
        parts = (tuple(part[at] for at in kept) for part in (self.origins, self.places))
        return Copies(tuple(self.rows[at] for at in kept), *parts)


def copies_of(fleet: Fleet) -> Copies:
    """The copies that policies want, as the topology has it now."""
    return _copies(fleet, topology.current(fleet).epoch)


@lru_cache(maxsize=2)
def _copies(fleet: Fleet, epoch: Epoch) -> Copies:  # noqa: ARG001 - another epoch has other primaries
    now = topology.current(fleet)
    rows, origins = [], []
    led: set[tuple[str, str]] = set()  # repositories at sites, of which one source is asked for what is of the whole
    for name, source in fleet.sources.items():
        policy = fleet.policy_for(name)
        if policy is None or policy.copies is None:
            continue
        try:
            primary, sites = now.primary(name), topology.copying(fleet, now, name)
            configured = fleet.configured_primary(name)
        except HoldfastError:
            continue  # the tick tells of it: it can't be backed up either
        for site in sites:
            daily = upkeep(RunKind.REPLICATE, f"{name}\0{site}", DAY)
            place = fleet.repository_of(name), site
            tended = upkeep_of(
                name, site, policy, repository=place[0], prune=fleet.prune.every, leads=place not in led, copy=True
            )
            led.add(place)
            rests = inf if source.is_over else source.paused_until or 0.0
            rows.append(Copy(name, site, policy.id, policy.attempts, daily, tended, site == configured, rests))
            origins.append((source.host or "", name, primary))
    # What is known of copies lies in the pools' realm, whoever reads the source: no agent speaks for them.
    return Copies(tuple(rows), tuple(origins), tuple(("", row.source, row.site) for row in rows))


def copies_due(rows: Iterable[tuple[Copy, SourceState, SourceState]], now: datetime) -> list[tuple[Copy, Due]]:
    """What is due, of the copies that are furthest behind first. Each row with what its primary, and it, have."""
    wanted = []
    latest = horizon(now)
    for row, origin, copy in rows:
        if not origin.last:
            continue  # nothing is there, or nothing is known yet
        # What a host's source has is what its agent says: a time to come, or none at all, is no snapshot's.
        if copy.last < origin.last <= latest and is_slot(origin.last):
            wanted.append((copy.last, row, Due(RunKind.REPLICATE, origin.last, row.options)))
            continue
        daily = upkeep_due([row.daily], copy.upkeep, now.timestamp())
        wanted += [(copy.last, row, Due(due.kind, due.slot, row.options)) for due in daily]
    wanted.sort(key=lambda one: (one[0], one[1].source, one[1].site))
    return [(row, due) for _, row, due in wanted]


def upkeep_of_copies(
    rows: Iterable[tuple[Copy, SourceState, SourceState]], now: datetime
) -> Iterator[tuple[Copy, Due]]:
    """The forgets, prunes and verifications that are due where there are copies: each site is kept by itself."""
    seconds = now.timestamp()
    for row, _, copy in rows:
        if not copy.last or not row.upkeep:
            continue
        for one in upkeep_due(row.upkeep, copy.upkeep, seconds):
            if one.kind is not RunKind.FORGET or row.rests_until <= seconds:
                yield row, Due(one.kind, one.slot, {**one.options, "site": row.site})


def some_of(wanted: Sequence[tuple[Copy, Due]], now: datetime) -> list[tuple[Copy, Due]]:
    """As many as one tick looks at: where there are more, each tick others, so that no failing ones keep them out."""
    if len(wanted) <= _LOOKED_AT:
        return list(wanted)
    start = int(now.timestamp()) * _LOOKED_AT % len(wanted)
    return [*wanted[start:], *wanted[:start]][:_LOOKED_AT]


def request_of(fleet: Fleet, row: Copy, due: Due) -> RunRequest:
    """The run that does it."""
    return RunRequest(
        id=run_id_for_slot(row.source, f"{row.policy_id} to {row.site}", due.kind, due.slot),
        kind=due.kind,
        source=row.source,
        policy=row.policy_id,
        slot=due.slot,
        options=due.options,
        queue=queue_of(due.kind, fleet.source(row.source)),
        attempts=row.attempts,
    )
