"""The scheduler's two processes: `python -m scheduler beat|worker --config FILE`.

`beat` sends the tick (RedBeat's lock lets one of many do so); `worker`, with one slot and a queue of its own, does it.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import structlog
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from scheduler.evidence import SiteEvidence
from scheduler.reaper import Unlocker
from scheduler.tick import tick
from shared.config.fleet import Fleet
from shared.ledger.connect import connect
from shared.ledger.errors import LedgerAway
from shared.messaging.app import TICK_SECONDS, make_app, start_worker
from shared.messaging.bell import ring
from shared.messaging.broker import broker_url
from shared.messaging.names import SCHEDULER, TASK_TICK
from shared.observability import logs

if TYPE_CHECKING:
    from celery import Celery

_log = structlog.get_logger("holdfast.scheduler")
_TICK_AT_MOST = 120.0  # seconds, after which a tick that hangs is killed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two until told to stop; returns an exit code."""
    options = _parse(arguments)
    logs.connect_celery()
    fleet = Fleet.load(options.config)
    app = make_app(broker_url(fleet), tick_seconds=options.tick)
    if options.process == "beat":
        return _beat(app, options.tick)
    register(app, fleet)
    return start_worker(app, [SCHEDULER], name=f"scheduler-{os.getpid()}@{socket.gethostname()}", concurrency=1)


def _beat(app: Celery, tick_seconds: float) -> int:
    """Send ticks until told to stop. RedBeat gives up where Redis is away: whoever started this starts it again."""
    try:
        app.Beat(loglevel="INFO", quiet=True, max_interval=tick_seconds).run()
    except (RedisError, OperationalError) as error:
        _log.error("Redis is away; beat ends, and is started again", reason=str(error))
        return LedgerAway.exit_code
    return 0


def register(app: Celery, fleet: Fleet) -> None:
    """Give the app its task."""
    pools = connect(broker_url(fleet))
    look = SiteEvidence(fleet)
    unlock = Unlocker(fleet)

    @app.task(name=TASK_TICK, time_limit=_TICK_AT_MOST)  # type: ignore[untyped-decorator] # Celery has no types
    def run(*_: object) -> None:
        try:
            tick(fleet, pools, partial(ring, pools.client), look, datetime.now(UTC), unlock=unlock)
        except LedgerAway as error:
            _log.warning("Redis is away; the next tick does what this one left", reason=str(error))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scheduler", description="The scheduler of Holdfast.")
    parser.add_argument("process", choices=["beat", "worker"])
    parser.add_argument("--config", required=True, help="the fleet's file")
    parser.add_argument("--tick", type=float, default=TICK_SECONDS, help="seconds between ticks")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
