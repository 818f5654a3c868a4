"""The tick: opens the runs that are due and rings for them; rings again for what was never claimed or has died.

Any number of ticks may run, twice or never: a slot's run has one id, and the ledger opens it once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import structlog

from scheduler.due import due
from scheduler.reaper import reap
from shared import topology
from shared.errors import HoldfastError, LedgerError
from shared.ledger.model import Opened, RunRequest, run_id_for_slot
from shared.messaging.client import realms
from shared.messaging.names import queue_of

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.ledger.ledger import Ledger
    from shared.ledger.model import Evidence

Ring = Callable[[str, str], None]  # a run's id, its queue
Look = Callable[[str, str], "Evidence | None"]  # a source, a site: what the site's own snapshots say
Unlock = Callable[["Ledger"], None]

_log = structlog.get_logger("holdfast.scheduler")


@dataclass(slots=True)
class Ticked:
    """What a tick did."""

    opened: list[RunRequest] = field(default_factory=list)
    rung_again: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)  # sources of which nothing could be learned, and why


def tick(
    fleet: Fleet,
    pools: Ledger,
    ring: Ring,
    look: Look,
    now: datetime,
    *,
    unlock: Callable[[Ledger], None] | None = None,
) -> Ticked:
    """One tick. Raises LedgerAway, and what `ring` raises; the next tick does what this one left.

    `unlock` begins to remove the repository locks of dead workers; it does not wait for a site.
    """
    ticked = Ticked()
    busy: set[str] = set()
    for host in realms(fleet):
        ledger = pools.realm(host)
        rung, given_up = reap(ledger, ring)
        ticked.rung_again += rung
        ticked.given_up += [run.id for run in given_up]
        if unlock is not None:
            unlock(ledger)
        busy.update(run.request.source for run in ledger.open_runs() if run.request.kind.is_backup)
    for source in fleet.sources:
        if source not in busy:
            _schedule(fleet, pools, source, now, ticked, ring=ring, look=look)
    return ticked


def _schedule(
    fleet: Fleet, pools: Ledger, source: str, now: datetime, ticked: Ticked, *, ring: Ring, look: Look
) -> None:
    policy = fleet.policy_for(source)
    if policy is None:
        return
    facts = fleet.source(source)
    ledger = pools.realm(facts.host or "")
    try:
        site = topology.current(fleet).primary(source)
        evidence = ledger.evidence(source, site)
        if evidence is None or not evidence.last_full:
            # The ledger knows of no full one. That may be because it was wiped: only the site can say.
            evidence = look(source, site)
            if evidence is not None:
                ledger.note_evidence(source, site, evidence)
    except LedgerError:
        raise
    except HoldfastError as error:
        ticked.unknown[source] = str(error)
        _log.warning("what is due can't be known", source=source, error=str(error))
        return
    wanted = due(policy.full, policy.incremental, evidence, now, policy.timezone)
    if wanted is None:
        return
    request = RunRequest(
        id=run_id_for_slot(source, policy.id, wanted.kind, wanted.slot),
        kind=wanted.kind,
        source=source,
        policy=policy.id,
        slot=wanted.slot,
        queue=queue_of(wanted.kind, facts),
    )
    opened, _ = ledger.open_backup(request)  # it joins a backup that was asked for since we looked
    if opened in {Opened.OPENED, Opened.REOPENED}:
        _log.info("due", run=request.id, source=source, kind=wanted.kind.value, slot=wanted.slot)
        ring(request.id, request.queue)
        ticked.opened.append(request)
