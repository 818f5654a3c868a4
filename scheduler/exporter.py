"""`/metrics` of the fleet: `python -m scheduler.exporter --config FILE --listen 127.0.0.1:9321`.

It holds no state that matters: any number may run, anywhere that reaches Redis. Each scrape reads the ledger, and never
waits for a site: what sites say is asked for between scrapes (`scheduler.sites`). Where Redis is away a scrape still
answers: with what the configuration says, the last runs and good snapshots that were seen, and `holdfast_ledger_up 0`.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server

from scheduler import families
from scheduler.exposition import Family, serving
from scheduler.facts import FactReader
from scheduler.sites import Claim, SiteLooks
from shared.config.values import parse_listen
from shared.config.watch import FleetWatch
from shared.errors import ConfigError, HoldfastError, LedgerError
from shared.health.events import looked_up
from shared.ledger.connect import connect
from shared.ledger.unread import Told
from shared.messaging.broker import broker_url
from shared.observability import logs, metrics
from shared.observability.structured import structlog
from shared.version import VERSION

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as KnownFamily

    from shared.config.fleet import Fleet
    from shared.health.observation import Observation

_CONFIG_EVERY = 5.0  # seconds between looks at the configuration
_log = structlog.get_logger("holdfast.exporter")


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
        self._seen: list[Observation] = []
        self._blind = ""
        self._told = Told()

    def collect(self) -> Iterator[KnownFamily]:
        """One scrape, for prometheus_client."""
        return (family.known() for family in self.scrape())

    def scrape(self) -> list[Family]:
        """One scrape."""
        with self._turn:
            fleet = self._watch.fleet
            began = time.monotonic()
            alive = self._read(fleet)
            seconds = time.monotonic() - began
            return list(self._families(fleet, alive=alive, seconds=seconds))

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
            self._look_at_sites(fleet)
            for host, entries in self._told.fresh(self._reader.facts.unread):
                _log.warning("a part of the ledger can't be read", host=host, entries=entries)
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

    def _look_at_sites(self, fleet: Fleet) -> None:
        """What was seen of them. Without the fleet's secret an exporter can't tell what is forged, and says nothing."""
        self._seen = []
        if fleet.ask_sites and self._reader is not None:
            try:
                self._seen = list(looked_up(fleet, self._reader.pools).values())
            except ConfigError as error:
                if str(error) != self._blind:
                    _log.warning("what is seen of the sites can't be told", reason=str(error))
                self._blind = str(error)

    def _families(self, fleet: Fleet, *, alive: bool, seconds: float) -> Iterator[Family]:
        yield Family(metrics.BUILD, [((VERSION,), 1)])
        yield Family(metrics.CONFIG_OK, [((), not self._watch.error)])
        yield Family(metrics.LEDGER_UP, [((), alive)])
        yield Family(metrics.READ_SECONDS, [((), seconds)])
        yield Family(metrics.READ_TIME, [((), self._last_read)])
        yield from families.configured(fleet)
        yield from families.inventory(fleet)
        yield from families.kit(fleet)
        yield from families.asked(self.looks)
        yield Family(metrics.SITE_LEAST_FREE, [((), fleet.health.min_free)])
        yield Family(metrics.CLOCK_TOLERANCE, [((), fleet.health.clock_tolerance)])
        if self._reader is not None:
            yield from families.past(fleet, self._reader.facts)
            if alive:
                yield from families.present(fleet, self._reader.facts)
                yield from families.seen(fleet, self._seen)


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
    server.set_app(serving(make_wsgi_app(registry), collector.scrape))
    url = f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
    _log.info("serving metrics", url=url)
    gc.collect()
    gc.freeze()  # the configuration stays: each scrape makes enough for the collector to look at all of it
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
