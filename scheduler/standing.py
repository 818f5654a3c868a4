"""Where each scheduled source stands at a moment: what is due of it, or why nothing is begun.

The table of sources is worked out once for each configuration and epoch; a look at ten thousand of them is then a few
comparisons each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from scheduler.admission import Admission, urgency
from scheduler.due import Due, due, horizon
from scheduler.timetable import Slots, Timetable, jitter_of
from scheduler.upkeep import Upkeep, upkeep_due, upkeep_of
from shared import topology
from shared.errors import HoldfastError
from shared.ledger.model import RunKind

if TYPE_CHECKING:
    from shared.config.fleet import Fleet
    from shared.config.models import Policy
    from shared.ledger.model import Evidence
    from shared.ledger.sweep import SourceState
    from shared.topology import Epoch


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A source that a policy schedules."""

    source: str
    host: str
    site: str
    policy: Policy
    policy_id: str
    timetable: Timetable
    jitter: float  # seconds by which its slots become due later
    upkeep: tuple[Upkeep, ...] = ()
    rests_until: float = 0.0  # POSIX seconds; no backup and no forget is due before


@dataclass(frozen=True, slots=True)
class Table:
    """All of them."""

    rows: tuple[Scheduled, ...]
    places: tuple[tuple[str, str, str], ...]  # host, source and site of each, as the ledger is asked for them
    unknown: Mapping[str, HoldfastError]  # sources of which the site can't be known


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run that is due."""

    row: Scheduled
    due: Due
    evidence: Evidence | None

    @property
    def realm(self) -> str:
        """In which realm of the ledger its run lies."""
        return "" if self.due.kind.at_site else self.row.host


@dataclass(slots=True)
class Standing:
    """The whole fleet at one moment."""

    wanted: list[Wanted] = field(default_factory=list)  # the most urgent first
    upkeep: list[Wanted] = field(default_factory=list)  # of sources of which no backup is due
    unasked: list[Scheduled] = field(default_factory=list)  # only the site can say
    closed: dict[str, datetime] = field(default_factory=dict)  # sources that are due in a blackout, and its end


def table_of(fleet: Fleet) -> Table:
    """The sources that policies schedule, as the topology has them now."""
    return _table(fleet, topology.current(fleet).epoch)


@lru_cache(maxsize=2)
def _table(fleet: Fleet, epoch: Epoch) -> Table:  # noqa: ARG001 - another epoch has other primaries
    current = topology.current(fleet)
    timetables = {name: Timetable(policy) for name, policy in fleet.policies.items()}
    rows, unknown = [], {}
    led: set[tuple[str, str]] = set()  # repositories at sites, of which one source is asked for what is of the whole
    for name, source in fleet.sources.items():
        policy = fleet.policy_for(name)
        if policy is None or source.is_over:
            continue
        jitter = jitter_of(name, policy.id, policy.jitter) if policy.jitter else 0.0
        try:
            site = current.primary(name)
        except HoldfastError as error:
            unknown[name] = error
            continue
        place = fleet.repository_of(name), site
        upkeep = upkeep_of(name, site, policy, repository=place[0], prune=fleet.prune.every, leads=place not in led)
        led.add(place)
        timetable = timetables[policy.id]
        rests = source.paused_until or 0.0
        rows.append(Scheduled(name, source.host or "", site, policy, policy.id, timetable, jitter, upkeep, rests))
    return Table(tuple(rows), tuple((row.host, row.source, row.site) for row in rows), unknown)


def survey(
    rows: Iterable[tuple[Scheduled, SourceState]], now: datetime, answers: Mapping[str, Evidence | None]
) -> Standing:
    """What is due of sources of which no backup is open. `answers`: what sites said of those the ledger knows not."""
    standing = Standing()
    latest, seconds = horizon(now), now.timestamp()
    passed: dict[str, Slots] = {}  # by policy, where it has no jitter
    for row, state in rows:
        if state.backups:
            continue
        if row.rests_until > seconds:
            if state.evidence is not None:  # what is there is looked after, and nothing of it is forgotten
                tasks = (one for one in upkeep_due(row.upkeep, state.upkeep, seconds) if one.kind is not RunKind.FORGET)
                standing.upkeep += [Wanted(row, one, state.evidence) for one in tasks]
            continue
        slots = passed.get(row.policy_id)
        if slots is None:
            slots = row.timetable.slots(seconds - row.jitter)
            if not row.policy.jitter:
                passed[row.policy_id] = slots
        last, full, _, done = state
        if full and slots.full <= full <= latest and slots.incremental <= last <= latest:
            for task in upkeep_due(row.upkeep, done, seconds) if row.upkeep else ():
                _add(standing, standing.upkeep, Wanted(row, task, state.evidence), now)
            continue  # most of them, most of the time
        evidence = state.evidence
        if not full or max(last, full) > latest:
            # No full one is known: the ledger may have been wiped. Or a clock was wrong. Only the site can say.
            if row.source not in answers:
                standing.unasked.append(row)
                continue
            evidence = answers[row.source]
        if wanted := due(slots, evidence, now):
            _add(standing, standing.wanted, Wanted(row, wanted, evidence), now)
        elif evidence is not None:
            for task in upkeep_due(row.upkeep, done, seconds):
                _add(standing, standing.upkeep, Wanted(row, task, evidence), now)
    return standing


def _add(standing: Standing, wanted: list[Wanted], one: Wanted, now: datetime) -> None:
    """Add one to those, but for a blackout."""
    row = one.row
    closed = row.timetable.closed_until(now) if row.policy.blackout else None
    if closed is None:
        wanted.append(one)
    else:
        standing.closed[row.source] = closed


def admission_of(fleet: Fleet, table: Table, states: Sequence[SourceState]) -> Admission:
    """The places that open backups take."""
    admission = Admission(fleet.scheduling)
    for row, state in zip(table.rows, states, strict=True):
        if state.backups:
            admission.count(row.host, row.site, away=state.waits)
    return admission


def in_turn(wanted: Iterable[Wanted]) -> list[Wanted]:
    """The most urgent first."""
    return sorted(wanted, key=lambda one: urgency(one.due.slot, one.evidence, one.row.policy.rpo))


def let_in(admission: Admission, wanted: Iterable[Wanted]) -> Iterator[tuple[Wanted, str]]:
    """Each, in its turn, and why it is not let in for now; empty where it is."""
    for one in wanted:
        refusal = admission.refusal(one.row.host, one.row.site)
        if not refusal:
            admission.count(one.row.host, one.row.site)
        yield one, refusal
