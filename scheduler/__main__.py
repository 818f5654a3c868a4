"""The scheduler's two processes: `python -m scheduler beat|worker --config FILE`.

`beat` sends the tick (RedBeat's lock lets one of many do so); `worker`, with one slot and a queue of its own, does it.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from scheduler.agents import AgentKeeper
from scheduler.evidence import SiteEvidence
from scheduler.hearing import Hearing
from scheduler.keeper import LockKeeper
from scheduler.reaper import Unlocker
from scheduler.tick import Ring, hear, tick
from shared.config.watch import FleetWatch
from shared.health.places import ring_all
from shared.ledger.connect import connect
from shared.ledger.errors import LedgerAway
from shared.ledger.unread import Told
from shared.messaging.app import TICK_SECONDS, make_app, start_worker
from shared.messaging.bell import ring
from shared.messaging.broker import broker_url, has_moved
from shared.messaging.names import SCHEDULER, TASK_HEAR, TASK_TICK
from shared.observability import logs
from shared.observability.structured import structlog
from shared.topology.following import Follower

if TYPE_CHECKING:
    from celery import Celery

_log = structlog.get_logger("holdfast.scheduler")
_TICK_AT_MOST = 120.0  # seconds, after which a tick that hangs is killed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two until told to stop; returns an exit code."""
    options = _parse(arguments)
    logs.connect_celery(log_file=options.log_file)
    watch = FleetWatch(options.config)
    app = make_app(broker_url(watch.fleet), tick_seconds=options.tick)
    if options.process == "beat":
        return _beat(app, options.tick)
    register(app, watch)
    return start_worker(app, [SCHEDULER], name=f"scheduler-{os.getpid()}@{socket.gethostname()}", concurrency=1)


def _beat(app: Celery, tick_seconds: float) -> int:
    """Send ticks until told to stop. RedBeat gives up where Redis is away: whoever started this starts it again."""
    try:
        app.Beat(loglevel="INFO", quiet=True, max_interval=tick_seconds).run()
    except (RedisError, OperationalError) as error:
        _log.error("Redis is away; beat ends, and is started again", reason=str(error))
        return LedgerAway.exit_code
    return 0


def register(app: Celery, watch: FleetWatch) -> None:
    """Give the app its task."""
    ticker = Ticker(watch)

    @app.task(name=TASK_TICK, time_limit=_TICK_AT_MOST)  # type: ignore[untyped-decorator] # Celery has no types
    def run(*_: object) -> None:
        ticker.tick()

    @app.task(name=TASK_HEAR, time_limit=_TICK_AT_MOST)  # type: ignore[untyped-decorator] # Celery has no types
    def hear(*_: object) -> None:
        ticker.hear()


class Ticker:
    """Does ticks, each by the newest valid configuration. Made before the fork, and connects after it."""

    def __init__(self, watch: FleetWatch, bell: Ring | None = None) -> None:
        self._watch = watch
        self._url = broker_url(watch.fleet)  # for as long as the process lives: it came here by this queue
        self._pools = connect(self._url)
        self._ring: Ring = bell or partial(ring, self._pools.client)
        self._process = os.getpid()
        self._look = SiteEvidence(watch.fleet)
        self._unlock = Unlocker(watch.fleet)
        self._keep = LockKeeper(watch.fleet)
        self._agents = AgentKeeper(watch.fleet)
        self._topology = Follower(find=True)
        self._hearing = Hearing(self._url)
        self._probed = float("-inf")  # when places were rung last
        self._told = Told()

    def tick(self) -> None:
        """One tick; where Redis is away the next one does what this one left."""
        self._follow()
        self._topology.follow(self._watch.fleet)  # in a thread: what it finds counts for the next tick
        try:
            self._ring_probes()
            self._hearing.committed(self._watch.fleet, self._pools)  # all copies are looked at now
            look, unlock = self._look, self._unlock
            now = datetime.now(UTC)
            ticked = tick(self._watch.fleet, self._pools, self._ring, look, now, ask=look.ask, unlock=unlock)
            self._keep(self._pools)
        except LedgerAway as error:
            _say_away(error)
            return
        for host, entries in self._told.fresh(self._pools.unread.take()):
            _log.warning("a part of the ledger can't be read", host=host, entries=entries)
        self._agents()
        for request in ticked.opened:
            look.drop(request.source)

    def hear(self) -> None:
        """What can't wait for a tick; what is missed, one finds."""
        self._follow()
        try:
            sources = self._hearing.committed(self._watch.fleet, self._pools)
            if sources:
                hear(self._watch.fleet, self._pools, self._ring, sources, datetime.now(UTC))
        except LedgerAway as error:
            _say_away(error)

    def _ring_probes(self) -> None:
        """Once an interval; where two schedulers do so, a place has one ring all the same."""
        now = time.monotonic()
        if now - self._probed >= self._watch.fleet.health.interval:
            self._probed = now
            ring_all(self._pools)

    def _follow(self) -> None:
        before = self._watch.fleet
        if self._process == os.getpid():
            self._watch.check()
        else:
            self._process = os.getpid()  # just forked: its parent knows the files as they were at its own start
            self._watch.catch_up()
        fleet = self._watch.fleet
        if fleet is before:
            return
        self._look.close()
        self._look = SiteEvidence(fleet)
        self._unlock.fleet = self._keep.fleet = self._agents.fleet = fleet
        if has_moved(fleet, self._url):
            _log.warning("the configuration names another Redis now; that counts once the scheduler is started again")


def _say_away(error: LedgerAway) -> None:
    _log.warning("Redis is away; the next tick does what this one left", reason=str(error))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scheduler", description="The scheduler of Holdfast.")
    parser.add_argument("process", choices=["beat", "worker"])
    parser.add_argument("--config", required=True, help="the fleet's file")
    parser.add_argument("--log-file", default="", help="where to log in place of standard error")
    parser.add_argument("--tick", type=float, default=TICK_SECONDS, help="seconds between ticks")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
