"""Looks at the sites from where this machine stands: `python -m workers.probing --config FILE`.

A process of its own beside the worker, as a look must not wait behind a backup, and a mount that hangs must keep no
worker from ending. The tick rings (`shared.health.places`); where nobody does, for want of a scheduler, it looks all
the same, half as often. What it sees goes out as events.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError
from kombu.pools import producers

from shared.config.watch import FleetWatch
from shared.errors import ConfigError, LedgerError
from shared.health import places
from shared.health.events import tell
from shared.health.place import observer_of, place_of
from shared.health.probe import Prober
from shared.ledger.connect import connect
from shared.messaging.broker import broker_url
from shared.messaging.events import connection
from shared.messaging.signed import Sealer
from shared.observability import logs
from shared.observability.structured import structlog

if TYPE_CHECKING:
    from shared.health.observation import Observation

_WAIT = 1.0  # seconds for which Redis holds a question, so that a signal is soon heeded
_AGAIN = 1.0  # seconds between two tries while Redis is away
_UNRUNG = 2  # intervals without a ring after which it looks by itself

_log = structlog.get_logger("holdfast.health")


class Probing:
    """One process's work, until `stop`."""

    def __init__(self, watch: FleetWatch) -> None:
        fleet = watch.fleet
        url = broker_url(fleet)  # for as long as the process lives
        self._watch = watch
        self._ledger = connect(url)
        self._producers = producers[connection(url)]
        self._prober = Prober(fleet, observer_of("probes"), place_of(fleet))
        self._key = b""
        self._sealer: Sealer | None = None
        self._stop = threading.Event()
        self._said = ""

    def stop(self, *_: object) -> None:
        """End soon."""
        self._stop.set()

    def run(self) -> int:
        """Look whenever somebody rings; an exit code."""
        _log.info("probing", place=self._prober.place)
        looked = float("-inf")
        while not self._stop.is_set():
            rung = self._await_ring()
            interval = self._watch.fleet.health.interval
            if self._stop.is_set() or not (rung or time.monotonic() - looked >= _UNRUNG * interval):
                continue
            looked = time.monotonic()
            self._follow()
            self._tell(self._prober.look())
        return 0

    def _follow(self) -> None:
        self._watch.check()
        fleet = self._watch.fleet
        self._prober.fleet, self._prober.place = fleet, place_of(fleet)

    def _await_ring(self) -> bool:
        try:
            places.here(self._ledger, self._prober.place)
            rung = places.await_ring(self._ledger, self._prober.place, _WAIT)
        except LedgerError as error:
            self._complain(str(error))
            self._stop.wait(_AGAIN)
            return False
        self._said = ""
        return rung

    def _tell(self, seen: Sequence[Observation]) -> None:
        try:
            key = self._watch.fleet.event_key
            if self._sealer is None or key != self._key:
                self._key, self._sealer = key, Sealer(key, self._prober.observer)
            tell(self._producers, self._sealer, seen)
        except (OperationalError, ConfigError) as error:
            self._complain(str(error))

    def _complain(self, reason: str) -> None:
        if reason != self._said:
            _log.warning("what is seen of the sites can't be told", reason=reason)
        self._said = reason


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at the sites until told to stop; returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m workers.probing", description="Looks at the sites of a fleet.")
    parser.add_argument("--config", required=True, help="the fleet's file")
    parser.add_argument("--log-file", default="", help="where to log in place of standard error")
    options = parser.parse_args(arguments)
    logs.set_up(log_file=options.log_file)
    probing = Probing(FleetWatch(options.config))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, probing.stop)
    return probing.run()


if __name__ == "__main__":
    sys.exit(main())
