"""The tick: opens the runs that are due and rings for them; rings again for what was never claimed or has died.

Any number of ticks may run, twice or never: a slot's run has one id, and the ledger opens it once. The whole fleet is
looked at in a handful of round trips (`shared.ledger.sweep`); sites are asked only for what the ledger does not know.

Invariant: what a host's agent has written into its own realm ends no tick. What can't be read there is noted in the
ledger's `unread` and left out; what is due of everybody else is opened.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from scheduler.evidence import StillAsking
from scheduler.reaper import reap
from scheduler.replication import AT_ONCE, copies_due, copies_of, request_of, some_of, upkeep_of_copies
from scheduler.standing import Wanted, admission_of, in_turn, let_in, survey, table_of
from shared.errors import HoldfastError, LedgerError
from shared.ledger import sweep
from shared.ledger.errors import LedgerAway
from shared.ledger.model import Opened, RunRequest, run_id_for_slot
from shared.messaging.bell import waiting
from shared.messaging.client import realms
from shared.messaging.names import REPLICATION, queue_of
from shared.observability import logs
from shared.observability.structured import structlog

if TYPE_CHECKING:
    from scheduler.admission import Admission
    from scheduler.standing import Scheduled, Standing, Table
    from shared.config.fleet import Fleet
    from shared.ledger.ledger import Ledger
    from shared.ledger.model import Evidence
    from shared.ledger.sweep import SourceState

Ring = Callable[[Sequence[tuple[str, str]]], object]  # runs: the id and the queue of each
Look = Callable[[str, str], "Evidence | None"]  # a source, a site: what the site's own snapshots say
Ask = Callable[[Sequence[tuple[str, str]]], None]  # begins to look for sources, each with its site
Unlock = Callable[["Ledger"], None]

_FRESH = {Opened.OPENED, Opened.REOPENED}
_UPKEEP_WAITING = 100  # rings on one queue
_ROUNDS = 10  # of a tick, in which those take the place of others who were let in and were not opened

_log = structlog.get_logger("holdfast.scheduler")


class Asked(NamedTuple):
    """A run to be opened: where it works, in which realm of the ledger it lies."""

    site: str
    realm: str
    request: RunRequest


@dataclass(slots=True)
class Ticked:
    """What a tick did."""

    opened: list[RunRequest] = field(default_factory=list)
    rung_again: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)  # sources of which nothing could be learned, and why
    held: dict[str, str] = field(default_factory=dict)  # sources that are due and are not begun now, and why


def tick(
    fleet: Fleet,
    pools: Ledger,
    ring: Ring,
    look: Look,
    now: datetime,
    *,
    ask: Ask | None = None,
    unlock: Unlock | None = None,
) -> Ticked:
    """One tick. Raises LedgerAway, and what `ring` raises; the next tick does what this one left.

    `look` may raise StillAsking. `unlock` begins to remove the repository locks of dead workers, without waiting for a
    site; so does `ask`, which begins with what `look` will be asked for.
    """
    ticked = Ticked()
    reaped = sweep.reap(pools, realms(fleet))
    rung, given_up = reap(fleet, reaped.runs, ring)
    ticked.rung_again += rung
    ticked.given_up += [run.id for run in given_up]
    if unlock is not None:
        # In no order: each site is worked at for one realm at a time, and no host must always be the first.
        for host in random.sample(reaped.fenced, len(reaped.fenced)):
            _unlock(pools, host, unlock)
    table = table_of(fleet)
    ticked.unknown |= {source: str(error) for source, error in table.unknown.items()}
    states = sweep.states(pools, table.places)
    standing = _standing(pools, table, states, now, ticked, look, ask)
    _tell_unknown(ticked.unknown)
    opened = _open(fleet, pools, standing, admission_of(fleet, table, states), ticked)
    copied, tended = _open_copies(fleet, pools, now)
    opened += _open_upkeep(pools, [*(_asked(fleet, one) for one in standing.upkeep), *tended])
    ticked.opened = [asked.request for asked, _ in opened] + copied
    _tell_due(pools, opened)
    ring([(request.id, request.queue) for request in ticked.opened])
    return ticked


def _unlock(pools: Ledger, host: str, unlock: Unlock) -> None:
    try:
        unlock(pools.realm(host))
    except LedgerAway:
        raise
    except LedgerError:
        if not host:
            raise
        pools.unread.note(host, "fenced")


def _standing(
    pools: Ledger,
    table: Table,
    states: Sequence[SourceState],
    now: datetime,
    ticked: Ticked,
    look: Look,
    ask: Ask | None,
) -> Standing:
    """What is due, by the ledger, and by the sites where it does not know."""
    rows = list(zip(table.rows, states, strict=True))
    standing = survey(rows, now, {})
    if not standing.unasked:
        return standing
    if ask is not None:
        ask([(row.source, row.site) for row in standing.unasked])
    answers: dict[str, Evidence | None] = {}
    for row in standing.unasked:
        try:
            answers[row.source] = _site_says(pools, row, look)
        except LedgerError:
            raise
        except StillAsking:
            ticked.held[row.source] = f"site {row.site} is being asked what it has"
        except HoldfastError as error:
            ticked.unknown[row.source] = str(error)
    return survey(rows, now, answers)


def _site_says(pools: Ledger, row: Scheduled, look: Look) -> Evidence | None:
    evidence = look(row.source, row.site)
    if evidence is not None and not pools.realm(row.host).note_evidence(row.source, row.site, evidence):
        pools.unread.note(row.host, f"evidence:{row.source}")
    return evidence


def _open(
    fleet: Fleet, pools: Ledger, standing: Standing, admission: Admission, ticked: Ticked
) -> list[tuple[Asked, Opened]]:
    """Open what there is room for. Who waits for another attempt, or was cancelled, leaves his place to others."""
    opened = []
    left = in_turn(standing.wanted)
    ticked.held |= {source: f"blackout until {end:%Y-%m-%d %H:%M} UTC" for source, end in standing.closed.items()}
    for _ in range(_ROUNDS):
        turns = list(let_in(admission, left))
        admitted = [(one, _asked(fleet, one)) for one, refusal in turns if not refusal]
        refused = [(one, refusal) for one, refusal in turns if refusal]
        # One joins a backup that was asked for since we looked.
        answers = sweep.open_runs(pools, [(asked.realm, asked.request) for _, asked in admitted])
        for (one, asked), (word, _) in zip(admitted, answers, strict=True):
            if word in _FRESH:
                opened.append((asked, word))
            elif word is not Opened.JOINED:
                admission.give_back(one.row.host, one.row.site)
        left = [one for one, _ in refused]
        if not left or len(admitted) == sum(word in _FRESH or word is Opened.JOINED for word, _ in answers):
            break
    ticked.held |= {one.row.source: refusal for one, refusal in refused}
    return opened


def _open_upkeep(pools: Ledger, wanted: Sequence[Asked]) -> list[tuple[Asked, Opened]]:
    """It is spread over its periods, and takes no place from backups; where much of it waits, no more is added."""
    lengths = waiting(pools.client, {one.request.queue for one in wanted})
    room = {queue: max(0, _UPKEEP_WAITING - length) for queue, length in lengths.items()}
    due = []
    for one in wanted:
        if room[one.request.queue]:
            room[one.request.queue] -= 1
            due.append(one)
    answers = sweep.open_runs(pools, [(one.realm, one.request) for one in due])
    return [(one, word) for one, (word, _) in zip(due, answers, strict=True) if word in _FRESH]


def hear(fleet: Fleet, pools: Ledger, ring: Ring, sources: Collection[str], now: datetime) -> list[RunRequest]:
    """Open the replications of these sources that are due, between two ticks. Raises as `tick`."""
    opened, _ = _open_copies(fleet, pools, now, sources)
    ring([(request.id, request.queue) for request in opened])
    return opened


def _open_copies(
    fleet: Fleet, pools: Ledger, now: datetime, sources: Collection[str] | None = None
) -> tuple[list[RunRequest], list[Asked]]:
    """Replications (of some sources, else of all), so many at a time: what is owed does not run away.

    And the upkeep that copies want.
    """
    copies = copies_of(fleet) if sources is None else copies_of(fleet).only(sources)
    if not copies.rows:
        return [], []
    states = sweep.states(pools, copies.origins), sweep.states(pools, copies.places)
    found = list(zip(copies.rows, *states, strict=True))
    left = [request_of(fleet, *one) for one in some_of(copies_due(found, now), now)]
    room = AT_ONCE - waiting(pools.client, [REPLICATION])[REPLICATION] if left else 0
    opened: list[RunRequest] = []
    while left and len(opened) < room:  # those that are open already, or wait after a failure, take no room
        some, left = left[:AT_ONCE], left[AT_ONCE:]
        for request, (word, _) in zip(some, sweep.open_runs(pools, [("", one) for one in some]), strict=True):
            if word in _FRESH:
                opened.append(request)
    for request in opened:
        _say_due(request, str(request.options["site"]), 0)
    return opened, [Asked(row.site, "", request_of(fleet, row, due)) for row, due in upkeep_of_copies(found, now)]


def _asked(fleet: Fleet, one: Wanted) -> Asked:
    row, run = one.row, one.due
    request = RunRequest(
        id=run_id_for_slot(row.source, row.policy_id, run.kind, run.slot),
        kind=run.kind,
        source=row.source,
        policy=row.policy_id,
        slot=run.slot,
        options=run.options,
        queue=queue_of(run.kind, fleet.source(row.source)),
        attempts=row.policy.attempts,
    )
    return Asked(row.site, one.realm, request)


def _tell_due(pools: Ledger, opened: Sequence[tuple[Asked, Opened]]) -> None:
    again = [(one.realm, one.request.id) for one, word in opened if word is Opened.REOPENED]
    attempts = {run.id: run.attempt for run in sweep.load(pools, again)}
    for one, _ in opened:
        _say_due(one.request, one.site, attempts.get(one.request.id, 0))


def _say_due(request: RunRequest, site: str, attempt: int) -> None:
    about = {"run": request.id, "source": request.source, "kind": request.kind.value, "site": site}
    with logs.about_run(**about, attempt=attempt):
        _log.info("due", slot=request.slot)


def _tell_unknown(unknown: Mapping[str, str]) -> None:
    """A line for each reason: a site that is away may be that of thousands."""
    alike: dict[str, list[str]] = {}
    for source, error in unknown.items():
        alike.setdefault(error, []).append(source)
    for error, sources in alike.items():
        _log.warning("what is due can't be known", source=sources[0], sources=len(sources), error=error)
