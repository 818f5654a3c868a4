"""`/metrics` of the fleet: `python -m scheduler.exporter --config FILE --listen 127.0.0.1:9321`.

It holds no state that matters: any number may run, anywhere that reaches Redis. Each scrape reads the ledger, and never
waits for a site: what sites say is asked for between scrapes (`scheduler.sites`). Where Redis is away a scrape still
answers: with what the configuration says, the last runs and good snapshots that were seen, and `holdfast_ledger_up 0`.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family

from scheduler.facts import FactReader, leases, oldest_open, oldest_waiting
from scheduler.sites import Claim, SiteLooks
from scheduler.upkeep import DAY
from shared import topology
from shared.config.values import parse_listen
from shared.config.watch import FleetWatch
from shared.errors import ConfigError, HoldfastError, LedgerError
from shared.ledger.connect import connect
from shared.ledger.model import RunKind, RunState
from shared.messaging.broker import broker_url
from shared.messaging.names import queue_of
from shared.observability import logs, metrics
from shared.observability.metrics import Metric, MetricType
from shared.observability.structured import structlog
from shared.version import VERSION

if TYPE_CHECKING:
    from scheduler.facts import Facts, SeenRun
    from shared.config.fleet import Fleet
    from shared.config.models import Policy, SourceFacts

_CONFIG_EVERY = 5.0  # seconds between looks at the configuration
_NEWER = 32  # pairs of a kind and a state that this release does not know, and that are shown by their names
_OTHER = (metrics.OTHER, metrics.OTHER)
_WORD = re.compile(r"[a-z-]{1,30}")
_log = structlog.get_logger("holdfast.exporter")

Sample = tuple[tuple[str, ...], float]
_BYTES = (
    (metrics.LAST_READ, "bytes_read"),
    (metrics.LAST_ADDED, "bytes_added"),
    (metrics.LAST_UPLOADED, "bytes_stored"),
)


class FleetCollector:
    """A collector of prometheus_client. Scrapes that come at once are answered one after the other."""

    def __init__(self, watch: FleetWatch) -> None:
        self.looks = SiteLooks(watch, self.claims)
        self._watch = watch
        self._turn = threading.Lock()
        self._reader: FactReader | None = None
        self._url = ""
        self._last_read = 0.0
        self._away = False

    def collect(self) -> Iterator[Family]:
        """One scrape."""
        with self._turn:
            fleet = self._watch.fleet
            began = time.monotonic()
            alive = self._read(fleet)
            seconds = time.monotonic() - began
            families = list(self._families(fleet, alive=alive, seconds=seconds))
        yield from families

    def claims(self, site: str) -> list[Claim]:
        """What the ledger says that a site has, as it was read last."""
        with self._turn:
            if self._reader is None:
                return []
            good = self._reader.facts.good
            return [
                Claim(source, one.start, one.snapshot)
                for source in self._watch.fleet.sources
                if (one := good.get(source, {}).get(site)) is not None
            ]

    def _read(self, fleet: Fleet) -> bool:
        try:
            url = broker_url(fleet)
            if self._reader is None or url != self._url:
                if self._reader is not None:
                    self._reader.close()
                self._reader, self._url = FactReader(connect(url)), url
            self._reader.read(fleet)
        except (LedgerError, ConfigError) as error:
            if not self._away:
                _log.warning("the ledger can't be read", reason=str(error))
            self._away = True
            return False
        if self._away:
            _log.info("the ledger can be read again")
        self._away = False
        self._last_read = time.time()
        return True

    def _families(self, fleet: Fleet, *, alive: bool, seconds: float) -> Iterator[Family]:
        yield _family(metrics.BUILD, [((VERSION,), 1)])
        yield _family(metrics.CONFIG_OK, [((), not self._watch.error)])
        yield _family(metrics.LEDGER_UP, [((), alive)])
        yield _family(metrics.READ_SECONDS, [((), seconds)])
        yield _family(metrics.READ_TIME, [((), self._last_read)])
        yield from _configured(fleet)
        yield from _asked(self.looks)
        if self._reader is not None:
            yield from _past(fleet, self._reader.facts)
            if alive:
                yield from _present(fleet, self._reader.facts)


def _family(metric: Metric, samples: Iterable[Sample]) -> Family:
    """A family as the table has it."""
    kind = CounterMetricFamily if metric.type is MetricType.COUNTER else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in samples:
        family.add_metric(labels, float(value))
    return family


def _configured(fleet: Fleet) -> Iterator[Family]:
    infos: list[Sample] = []
    marks: list[Sample] = []
    targets: list[Sample] = []
    current, now = topology.current(fleet), time.time()
    for name, source in fleet.sources.items():
        policy = None if source.rests(now) else fleet.policy_for(name)  # no alert waits for one that rests
        try:
            site = current.primary(name)
        except ConfigError:
            site = ""  # no policy selects it, and there are several
        infos.append(((name, policy.id if policy else "", str(source.owner or ""), _executor(source), site), 1))
        marks += [((name, label, value), 1) for label, value in source.labels.items()]
        if policy and policy.rpo is not None:
            targets.append(((name,), float(policy.rpo)))
    yield _family(metrics.SOURCE_INFO, infos)
    yield _family(metrics.SOURCE_LABEL, marks)
    yield _family(metrics.RPO, targets)
    wanted = [
        ((policy.id, kind.value), every) for policy in fleet.policies.values() for kind, every in _wants(fleet, policy)
    ]
    yield _family(metrics.UPKEEP_EVERY, wanted)


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


def _asked(looks: SiteLooks) -> Iterator[Family]:
    """What the sites said when they were asked last."""
    yield _family(metrics.SITE_UP, [((site,), up) for site, up in looks.up().items()])
    verdicts = looks.verdicts()
    yield _family(metrics.CLAIM_WRONG, [(place, not verdict.holds) for place, verdict in verdicts.items()])
    yield _family(metrics.CLAIM_CHECKED, [(place, verdict.at) for place, verdict in verdicts.items()])


def _past(fleet: Fleet, facts: Facts) -> Iterator[Family]:
    """What has happened, and stays true while Redis is away."""
    finals = [state for state in RunState if state.is_final]
    # All that can be counted is there from the start, at 0: else the first of its kind would be no increase.
    ended = Counter({(kind.value, state.value): 0 for kind in RunKind for state in finals})
    labels = _labels(facts.ended)
    for pair, count in facts.ended.items():
        ended[labels.get(pair, _OTHER)] += count
    yield _family(metrics.RUNS, sorted(ended.items()))
    errors: dict[str, int] = dict.fromkeys([*metrics.ERROR_CLASSES.values(), metrics.OTHER], 0)
    for code, count in facts.errors.items():
        errors[metrics.error_class(code)] += count
    yield _family(metrics.ERRORS, [((name,), count) for name, count in errors.items()])
    yield _family(metrics.RETRIES, [((site,), facts.retries[site]) for site in fleet.sites])
    yield _family(metrics.UPLOADED, [((name,), facts.uploaded[name]) for name in fleet.sources])

    last = [(name, facts.last[name]) for name in fleet.sources if name in facts.last]
    last_labels = _labels((run.kind.value, run.state.value) for _, run in last)
    yield _family(
        metrics.LAST_END,
        [((name, *last_labels.get((run.kind.value, run.state.value), _OTHER)), run.ended) for name, run in last],
    )
    yield _family(metrics.LAST_FAILED, [((name,), run.state is RunState.FAILED) for name, run in last])
    durations = [((name,), run.ended - run.started) for name, run in last if run.started]
    yield _family(metrics.LAST_DURATION, durations)
    for metric, key in _BYTES:
        yield _family(metric, [((name,), size) for name, run in last if (size := _size(run, key)) is not None])

    good = [
        (name, site, one)
        for name in fleet.sources
        for site, one in facts.good.get(name, {}).items()
        if site in fleet.sites
    ]
    yield _family(metrics.GOOD_START, [((name, site), one.start) for name, site, one in good])
    yield _family(metrics.GOOD_END, [((name, site), one.end) for name, site, one in good if one.end])
    kept = [((name, *place), one) for name in fleet.sources for place, one in facts.upkeep.get(name, {}).items()]
    yield _family(metrics.UPKEEP_GOOD, [(labels, one.good) for labels, one in kept if one.good])
    yield _family(metrics.UPKEEP_FAILED, [(labels, 1) for labels, one in kept if one.code])
    yield _family(metrics.RESTORE_RATE, [(labels[:2], one.rate) for labels, one in kept if one.rate])


def _present(fleet: Fleet, facts: Facts) -> Iterator[Family]:
    """What is known only while Redis answers."""
    unfinished = [state for state in RunState if not state.is_final]
    states = Counter({(kind.value, state.value): 0 for kind in RunKind for state in unfinished})
    pairs = [(run.kind.value, run.state.value) for run in facts.open]
    labels = _labels(pairs)
    states.update(labels.get(pair, _OTHER) for pair in pairs)
    yield _family(metrics.OPEN_RUNS, sorted(states.items()))
    ages = oldest_open(facts.open, facts.now)
    yield _family(metrics.OPEN_AGE, [((kind.value,), max(0.0, ages.get(kind.value, 0.0))) for kind in RunKind])

    active = {run.source for run in facts.open if run.kind.is_backup and run.state is not RunState.QUEUED}
    yield _family(metrics.RUNNING, [((name,), name in active) for name in fleet.sources])

    held, waits = leases(facts.open, facts.now), oldest_waiting(facts.open, facts.now)
    queues = sorted(facts.queues)  # those of the fleet: a run may name any
    yield _family(metrics.LEASES, [((queue,), held[queue]) for queue in queues])
    yield _family(metrics.QUEUE_LENGTH, [((queue,), facts.queues.get(queue, 0)) for queue in queues])
    yield _family(metrics.QUEUE_AGE, [((queue,), max(0.0, waits.get(queue, 0.0))) for queue in queues])

    queue_by_executor = {_executor(source): queue_of(RunKind.FULL, source) for source in fleet.sources.values()}
    yield _family(metrics.WORKERS, [((one,), facts.workers[queue]) for one, queue in sorted(queue_by_executor.items())])

    yield _family(metrics.LEADER, [((), facts.leader)])
    yield _family(metrics.TICK, [((), facts.tick)] if facts.tick else [])
    redis = facts.redis
    for metric, value in (
        (metrics.LEDGER_KEPT, redis.persistent),
        (metrics.LEDGER_EVICTS, redis.evicts),
        (metrics.LEDGER_USED, redis.memory),
        (metrics.LEDGER_LIMIT, redis.memory_limit),
        (metrics.LEDGER_CLIENTS, redis.clients),
        (metrics.LEDGER_CLIENTS_LIMIT, redis.clients_limit),
    ):
        yield _family(metric, [((), value)])


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


def address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, `:port` or `[v6]:port`. Raises ConfigError."""
    parsed = parse_listen(text)
    if parsed is None:
        raise ConfigError(f'listen: expected host:port, found "{text}"', hint="Such as 127.0.0.1:9321")
    return parsed


def serve(config: str, listen: str = "", *, ready: Callable[[str], None] = lambda _: None) -> int:
    """Serve until SIGTERM or Ctrl-C; returns an exit code. `ready` is told the URL.

    Without `listen` it is where the configuration says. Raises ConfigError, also where nobody can listen there.
    """
    watch = FleetWatch(config)
    listen = listen or watch.fleet.metrics_address
    if not listen:
        raise ConfigError(f"{config}: exporter.listen is off", hint="--listen names an address")
    host, port = address(listen)
    registry = CollectorRegistry(auto_describe=False)
    collector = FleetCollector(watch)
    registry.register(collector)
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(
            f"can't listen on {listen}: {os.strerror(error.errno or 0)}", hint="--listen names another address"
        ) from error
    url = f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
    _log.info("serving metrics", url=url)
    ready(url)
    collector.looks.follow()
    while not asked.wait(_CONFIG_EVERY):
        watch.check()
        collector.looks.follow()
    collector.looks.stop()
    server.shutdown()
    server.server_close()
    thread.join()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the exporter as a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m scheduler.exporter", description="Metrics of a fleet.")
    parser.add_argument("--config", required=True, help="the fleet's file")
    parser.add_argument("--listen", default="", help="host:port; else what the fleet's file says")
    parser.add_argument("--log-file", default="", help="where to log in place of standard error")
    options = parser.parse_args(arguments)
    logs.set_up(log_file=options.log_file)
    try:
        return serve(options.config, options.listen)
    except HoldfastError as error:
        _log.error("the exporter can't start", reason=str(error))
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
