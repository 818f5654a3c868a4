"""What is told of a fleet, family by family: from its configuration, from what the sites said, and from the ledger."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from scheduler.exposition import Family, Sample
from scheduler.upkeep import DAY
from shared import topology
from shared.config.inventory import place_in
from shared.errors import ConfigError
from shared.kit.record import last
from shared.ledger.model import RunKind, RunState
from shared.messaging.names import queue_of
from shared.messaging.signed import REASONS
from shared.observability import metrics

if TYPE_CHECKING:
    from scheduler.facts import Facts, SeenRun
    from scheduler.sites import SiteLooks
    from shared.config.fleet import Fleet
    from shared.config.models import Policy, SourceFacts
    from shared.health.observation import Observation
    from shared.topology import Epoch

_NEWER = 32  # pairs of a kind and a state that this release does not know, and that are shown by their names
_OTHER = (metrics.OTHER, metrics.OTHER)
_WORD = re.compile(r"[a-z-]{1,30}")
_ACTIVE = (RunState.CLAIMED, RunState.RUNNING)
_BYTES = (
    (metrics.LAST_READ, "bytes_read"),
    (metrics.LAST_ADDED, "bytes_added"),
    (metrics.LAST_UPLOADED, "bytes_stored"),
)


def configured(fleet: Fleet) -> tuple[Family, ...]:
    """What the configuration says. The same as before, lines and all, until it changes, or a source's pause ends."""
    now = time.time()
    resting = frozenset(name for name, source in fleet.sources.items() if source.rests(now))
    return _configured(fleet, topology.current(fleet).epoch, resting)


@lru_cache(maxsize=2)
def _configured(fleet: Fleet, epoch: Epoch, resting: frozenset[str]) -> tuple[Family, ...]:  # noqa: ARG001 - another epoch has other primaries
    infos: list[Sample] = []
    marks: list[Sample] = []
    targets: list[Sample] = []
    current = topology.current(fleet)
    for name, source in fleet.sources.items():
        policy = None if name in resting else fleet.policy_for(name)  # no alert waits for one that rests
        try:
            site = current.primary(name)
        except ConfigError:
            site = ""  # no policy selects it, and there are several
        infos.append(((name, policy.id if policy else "", str(source.owner or ""), _executor(source), site), 1))
        marks += [((name, label, value), 1) for label, value in source.labels.items()]
        if policy and policy.rpo is not None:
            targets.append(((name,), float(policy.rpo)))
    wanted = [
        ((policy.id, kind.value), every) for policy in fleet.policies.values() for kind, every in _wants(fleet, policy)
    ]
    return (
        Family(metrics.SOURCE_INFO, infos),
        Family(metrics.SOURCE_LABEL, marks),
        Family(metrics.RPO, targets),
        Family(metrics.UPKEEP_EVERY, wanted),
    )


def _wants(fleet: Fleet, policy: Policy) -> Iterator[tuple[RunKind, float]]:
    if policy.retention is not None:
        yield RunKind.FORGET, DAY
        yield RunKind.PRUNE, fleet.prune.every
    if policy.verify is not None:
        yield RunKind.VERIFY, policy.verify
    if policy.restore_test is not None:
        yield RunKind.RESTORE_TEST, policy.restore_test
    if policy.copies is not None:
        yield RunKind.REPLICATE, DAY


def _executor(source: SourceFacts) -> str:
    return f"host:{source.host}" if source.host else f"pool:{source.pool or ''}"


@lru_cache(maxsize=2)
def _executors(fleet: Fleet) -> list[tuple[str, str]]:
    """Each, and the queue of its backups."""
    return sorted({_executor(source): queue_of(RunKind.FULL, source) for source in fleet.sources.values()}.items())


def inventory(fleet: Fleet) -> Iterator[Family]:
    """How the asking of the inventory goes, by this machine's own notes."""
    state = place_in(fleet.state_dir).read_state() if fleet.inventory else None
    gone = sum(source.left > 0 for source in fleet.sources.values())
    yield Family(metrics.INVENTORY_OK, [((), not state.error)] if state else [])
    yield Family(metrics.INVENTORY_TIME, [((), state.answered)] if state else [])
    yield Family(metrics.SOURCES_GONE, [((), gone)] if state else [])


def kit(fleet: Fleet) -> Iterator[Family]:
    """How the last recovery kit stands, by this machine's own notes."""
    known = last(fleet)
    yield Family(metrics.KIT_TIME, [((), known.made)])
    yield Family(metrics.KIT_OUTDATED, [((), bool(known.changed))] if known.made else [])


def asked(looks: SiteLooks) -> Iterator[Family]:
    """What the sites said when they were asked last."""
    yield Family(metrics.SITE_UP, [((site,), up) for site, up in looks.up().items()])
    verdicts = looks.verdicts()
    yield Family(metrics.CLAIM_WRONG, [(place, not verdict.holds) for place, verdict in verdicts.items()])
    yield Family(metrics.CLAIM_CHECKED, [(place, verdict.at) for place, verdict in verdicts.items()])


def seen(fleet: Fleet, observations: Iterable[Observation]) -> Iterator[Family]:
    """What was seen of the sites lately. From a place where one observer sees a site fail it does not work."""
    works: dict[tuple[str, str], bool] = {}
    told: dict[tuple[str, str], Observation] = {}  # the newest that says more than that
    for one in sorted(observations, key=lambda one: one.at):
        place = (one.site, one.place)
        if one.site in fleet.sites:
            works[place] = works.get(place, True) and one.verdict.works
            if one.clock is not None:
                told[place] = one
    yield Family(metrics.SITE_SEEN, works.items())
    yield Family(metrics.SITE_LATENCY, [(place, one.latency) for place, one in told.items()])
    for metric, name in (
        (metrics.SITE_FREE, "free"),
        (metrics.SITE_CERTIFICATE, "certificate"),
        (metrics.SITE_CLOCK, "clock"),
    ):
        values = ((place, getattr(one, name)) for place, one in told.items())
        yield Family(metric, [(place, value) for place, value in values if value is not None])


def past(fleet: Fleet, facts: Facts) -> Iterator[Family]:
    """What has happened, and stays true while Redis is away."""
    finals = [state for state in RunState if state.is_final]
    # All that can be counted is there from the start, at 0: else the first of its kind would be no increase.
    ended = Counter({(kind.value, state.value): 0 for kind in RunKind for state in finals})
    labels = _labels(facts.ended)
    for pair, count in facts.ended.items():
        ended[labels.get(pair, _OTHER)] += count
    yield Family(metrics.RUNS, sorted(ended.items()))
    errors: dict[str, int] = dict.fromkeys([*metrics.ERROR_CLASSES.values(), metrics.OTHER], 0)
    for code, count in facts.errors.items():
        errors[metrics.error_class(code)] += count
    yield Family(metrics.ERRORS, [((name,), count) for name, count in errors.items()])
    yield Family(metrics.RETRIES, [((site,), facts.retries[site]) for site in fleet.sites])
    yield Family(metrics.IGNORED, [((reason,), facts.ignored[reason]) for reason in REASONS])
    yield Family(metrics.UPLOADED, [((name,), facts.uploaded[name]) for name in fleet.sources])

    last = [(name, facts.last[name]) for name in fleet.sources if name in facts.last]
    last_labels = _labels((run.kind.value, run.state.value) for _, run in last)
    yield Family(
        metrics.LAST_END,
        [((name, *last_labels.get((run.kind.value, run.state.value), _OTHER)), run.ended) for name, run in last],
    )
    yield Family(metrics.LAST_FAILED, [((name,), run.state is RunState.FAILED) for name, run in last])
    durations = [((name,), run.ended - run.started) for name, run in last if run.started]
    yield Family(metrics.LAST_DURATION, durations)
    for metric, key in _BYTES:
        yield Family(metric, [((name,), size) for name, run in last if (size := _size(run, key)) is not None])

    good = [
        (name, site, one)
        for name in fleet.sources
        for site, one in facts.good.get(name, {}).items()
        if site in fleet.sites
    ]
    yield Family(metrics.GOOD_START, [((name, site), one.start) for name, site, one in good])
    yield Family(metrics.GOOD_END, [((name, site), one.end) for name, site, one in good if one.end])
    kept = [((name, *place), one) for name in fleet.sources for place, one in facts.upkeep.get(name, {}).items()]
    yield Family(metrics.UPKEEP_GOOD, [(labels, one.good) for labels, one in kept if one.good])
    yield Family(metrics.UPKEEP_FAILED, [(labels, 1) for labels, one in kept if one.code])
    for metric, kind in ((metrics.RESTORE_RATE, RunKind.RESTORE_TEST), (metrics.UPKEEP_HEALED, RunKind.VERIFY)):
        figures = [(labels[:2], one.figure) for labels, one in kept if one.figure and labels[2] == kind.value]
        yield Family(metric, figures)


def present(fleet: Fleet, facts: Facts) -> Iterator[Family]:
    """What is known only while Redis answers."""
    unfinished = [state for state in RunState if not state.is_final]
    states = Counter({(kind.value, state.value): 0 for kind in RunKind for state in unfinished})
    pairs = [(run.kind.value, run.state.value) for run in facts.open]
    labels = _labels(pairs)
    states.update(labels.get(pair, _OTHER) for pair in pairs)
    yield Family(metrics.OPEN_RUNS, sorted(states.items()))
    ages = _oldest_open(facts.open, facts.now)
    yield Family(metrics.OPEN_AGE, [((kind.value,), max(0.0, ages.get(kind.value, 0.0))) for kind in RunKind])

    # No agent speaks for another's source: what runs lies in the realm of the source's own host.
    active = {(run.source, run.host) for run in facts.open if run.kind.is_backup and run.state is not RunState.QUEUED}
    running = [((name,), (name, source.host or "") in active) for name, source in fleet.sources.items()]
    yield Family(metrics.RUNNING, running)

    held, waits = _leases(facts.open, facts.now), _oldest_waiting(facts.open, facts.now)
    queues = sorted(facts.queues)  # those of the fleet: a run may name any
    yield Family(metrics.LEASES, [((queue,), held[queue]) for queue in queues])
    yield Family(metrics.QUEUE_LENGTH, [((queue,), facts.queues.get(queue, 0)) for queue in queues])
    yield Family(metrics.QUEUE_AGE, [((queue,), max(0.0, waits.get(queue, 0.0))) for queue in queues])

    yield Family(metrics.WORKERS, [((one,), facts.workers[queue]) for one, queue in _executors(fleet)])

    yield Family(metrics.LEADER, [((), facts.leader)])
    yield Family(metrics.TICK, [((), facts.tick)] if facts.tick else [])
    redis = facts.redis
    for metric, value in (
        (metrics.LEDGER_KEPT, redis.persistent),
        (metrics.LEDGER_EVICTS, redis.evicts),
        (metrics.LEDGER_USED, redis.memory),
        (metrics.LEDGER_LIMIT, redis.memory_limit),
        (metrics.LEDGER_CLIENTS, redis.clients),
        (metrics.LEDGER_CLIENTS_LIMIT, redis.clients_limit),
    ):
        yield Family(metric, [((), value)])
    yield Family(metrics.UNREAD, [((host,), count) for host, count in facts.unread.items()])


def _labels(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, str]]:
    """By what a kind and a state are called, their labels: their own where they are known, or a newer release's few.

    An agent may write any number of words, and each would be a series for ever.
    """
    known = {(kind.value, state.value) for kind in RunKind for state in RunState}
    newer = sorted(pair for pair in set(pairs) - known if all(map(_WORD.fullmatch, pair)))
    return {pair: pair for pair in [*known, *newer[:_NEWER]]}


def _size(run: SeenRun, key: str) -> float | None:
    value = run.result.get(key)
    return float(value) if isinstance(value, int | float) else None


def _oldest_waiting(runs: Iterable[SeenRun], now: float) -> dict[str, float]:
    """For how long (seconds) the oldest queued run of each queue has waited since it was opened or given back."""
    waits: dict[str, float] = {}
    for run in runs:
        if run.state is RunState.QUEUED:
            since = max(run.opened, run.started)
            waits[run.queue] = max(waits.get(run.queue, 0.0), now - since)
    return waits


def _leases(runs: Iterable[SeenRun], now: float) -> Counter[str]:
    """How many runs of each queue are held."""
    return Counter(run.queue for run in runs if run.state in _ACTIVE and run.lease_until > now)


def _oldest_open(runs: Iterable[SeenRun], now: float) -> dict[str, float]:
    """For how long (seconds) the oldest run of each kind is open."""
    ages: dict[str, float] = {}
    for run in runs:
        ages[run.kind.value] = max(ages.get(run.kind.value, 0.0), now - run.opened)
    return ages
