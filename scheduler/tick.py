"""The tick: opens the runs that are due and rings for them; rings again for what was never claimed or has died.

Any number of ticks may run, twice or never: a slot's run has one id, and the ledger opens it once. The whole fleet is
looked at in a handful of round trips (`shared.ledger.sweep`); sites are asked only for what the ledger does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import structlog

from scheduler.due import Due, Slots, due, newest_slots
from scheduler.forgets import forget_due
from scheduler.reaper import reap
from shared import topology
from shared.errors import HoldfastError, LedgerError
from shared.ledger import sweep
from shared.ledger.model import Opened, RunKind, RunRequest, run_id_for_slot
from shared.messaging.client import realms
from shared.messaging.names import queue_of
from shared.observability import logs

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.config.models import Policy
    from shared.ledger.ledger import Ledger
    from shared.ledger.model import Evidence

Ring = Callable[[Sequence[tuple[str, str]]], object]  # runs: the id and the queue of each
Look = Callable[[str, str], "Evidence | None"]  # a source, a site: what the site's own snapshots say
Unlock = Callable[["Ledger"], None]

_FRESH = {Opened.OPENED, Opened.REOPENED}

_log = structlog.get_logger("holdfast.scheduler")


@dataclass(slots=True)
class Ticked:
    """What a tick did."""

    opened: list[RunRequest] = field(default_factory=list)
    rung_again: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)  # sources of which nothing could be learned, and why


@dataclass(frozen=True, slots=True)
class _Scheduled:
    """A source that a policy schedules."""

    source: str
    host: str
    site: str
    policy: Policy

    def realm(self, request: RunRequest) -> str:
        """In which realm of the ledger a run of it lies."""
        return "" if request.kind.deletes else self.host


def tick(
    fleet: Fleet,
    pools: Ledger,
    ring: Ring,
    look: Look,
    now: datetime,
    *,
    unlock: Unlock | None = None,
) -> Ticked:
    """One tick. Raises LedgerAway, and what `ring` raises; the next tick does what this one left.

    `unlock` begins to remove the repository locks of dead workers; it does not wait for a site.
    """
    ticked = Ticked()
    reaped = sweep.reap(pools, realms(fleet))
    rung, given_up = reap(fleet, reaped.runs, ring)
    ticked.rung_again += rung
    ticked.given_up += [run.id for run in given_up]
    if unlock is not None:
        for host in reaped.fenced:
            unlock(pools.realm(host))
    wanted = _wanted(fleet, pools, now, ticked, look)
    # One joins a backup that was asked for since we looked.
    answers = sweep.open_runs(pools, [(one.realm(request), request) for one, request in wanted])
    opened = [(*both, word) for both, (word, _) in zip(wanted, answers, strict=True) if word in _FRESH]
    ticked.opened = [request for _, request, _ in opened]
    _tell_due(pools, opened)
    ring([(request.id, request.queue) for request in ticked.opened])
    return ticked


def _tell_due(pools: Ledger, opened: Sequence[tuple[_Scheduled, RunRequest, Opened]]) -> None:
    again = [(one.realm(request), request.id) for one, request, word in opened if word is Opened.REOPENED]
    attempts = {run.id: run.attempt for run in sweep.load(pools, again)}
    for one, request, _ in opened:
        about = {"run": request.id, "source": request.source, "kind": request.kind.value, "site": one.site}
        with logs.about_run(**about, attempt=attempts.get(request.id, 0)):
            _log.info("due", slot=request.slot)


def _wanted(
    fleet: Fleet, pools: Ledger, now: datetime, ticked: Ticked, look: Look
) -> list[tuple[_Scheduled, RunRequest]]:
    """The runs that are due, at most one of each source of which no backup is queued or under way."""
    slots: dict[str, Slots] = {}
    wanted = []
    scheduled = _scheduled(fleet, ticked)
    states = sweep.states(pools, [(one.host, one.source, one.site) for one in scheduled])
    for one, state in zip(scheduled, states, strict=True):
        if state.busy:
            continue
        evidence = state.evidence
        if evidence is None or not evidence.last_full:
            # The ledger knows of no full one. That may be because it was wiped: only the site can say.
            try:
                evidence = look(one.source, one.site)
                if evidence is not None:
                    pools.realm(one.host).note_evidence(one.source, one.site, evidence)
            except LedgerError:
                raise
            except HoldfastError as error:
                _unknown(ticked, one.source, error)
                continue
        policy = one.policy
        if policy.id not in slots:
            slots[policy.id] = newest_slots(policy.full, policy.incremental, now, policy.timezone)
        run = due(slots[policy.id], evidence, now)
        if run is None:
            run = _forget(one, evidence, state.forgot, now)
        if run is None:
            continue
        request = RunRequest(
            id=run_id_for_slot(one.source, policy.id, run.kind, run.slot),
            kind=run.kind,
            source=one.source,
            policy=policy.id,
            slot=run.slot,
            queue=queue_of(run.kind, fleet.source(one.source)),
            attempts=policy.attempts,
        )
        wanted.append((one, request))
    return wanted


def _forget(one: _Scheduled, evidence: Evidence | None, forgot: str, now: datetime) -> Due | None:
    """The forget that is due of a source that has snapshots, and of which no backup is due."""
    rules = one.policy.retention.rules_at(one.site) if one.policy.retention else None
    slot = forget_due(one.source, forgot, now) if rules is not None and evidence is not None else ""
    return Due(RunKind.FORGET, slot) if slot else None


def _scheduled(fleet: Fleet, ticked: Ticked) -> list[_Scheduled]:
    current = topology.current(fleet)
    found = []
    for name, source in fleet.sources.items():
        policy = fleet.policy_for(name)
        if policy is None:
            continue
        try:
            found.append(_Scheduled(name, source.host or "", current.primary(name), policy))
        except HoldfastError as error:
            _unknown(ticked, name, error)
    return found


def _unknown(ticked: Ticked, source: str, error: HoldfastError) -> None:
    ticked.unknown[source] = str(error)
    _log.warning("what is due can't be known", source=source, error=str(error))
