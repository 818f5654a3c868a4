"""A worker: `python -m workers --config FILE`. It consumes pool queues and, with --host, that host's own.

With --no-pools it is an agent: it consumes, and claims in, the realms of its hosts alone. Where that is one host, all
that it touches in Redis begins with that host's prefix, and an ACL may hold it to that.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence

from celery import signals

from shared.config.watch import FleetWatch
from shared.messaging.app import make_app, start_worker
from shared.messaging.names import ALL, RESTORE, ROLES, worker_queues
from shared.observability import logs
from workers.children import DRAINED
from workers.context import WorkerContext
from workers.tasks import register


def main(arguments: Sequence[str] | None = None) -> int:
    """Work until told to stop; returns an exit code, DRAINED where somebody asked the worker to leave."""
    options = _parse(arguments)
    logs.connect_celery(log_file=options.log_file)
    context = WorkerContext(FleetWatch(options.config), options.host, agent=options.no_pools)
    app = make_app(context.url, prefix=context.prefix)
    register(app, context)
    for begun in (signals.worker_ready, signals.worker_process_init):  # the parent, and each child
        begun.connect(lambda **_: context.follow(), weak=False)
    signals.worker_shutting_down.connect(lambda **_: context.stop(), weak=False)
    _leave_with_the_terminal()
    queues = worker_queues(options.role, options.host, options.pool, agent=options.no_pools)
    name = f"{RESTORE if options.role == RESTORE else 'worker'}-{os.getpid()}@{socket.gethostname()}"
    code = start_worker(app, queues, name=name, concurrency=options.concurrency or context.config.fleet.limits.runs)
    return DRAINED if context.is_drained else code


def _leave_with_the_terminal() -> None:
    """A terminal that goes away tells all of us: the parent takes it for SIGTERM, the children wait for its word."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # as under nohup
        return
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    signals.worker_process_init.connect(lambda **_: signal.signal(signal.SIGHUP, signal.SIG_IGN), weak=False)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m workers", description="A worker of Holdfast.")
    parser.add_argument("--config", required=True, help="the fleet's file")
    parser.add_argument("--log-file", default="", help="where to log in place of standard error")
    parser.add_argument("--concurrency", type=int, help="runs at a time; by default limits.runs says it")
    parser.add_argument("--host", action="append", default=[], help="serve the sources of this host, too")
    parser.add_argument("--pool", action="append", default=[], help="serve the sources of this pool, too")
    parser.add_argument("--no-pools", action="store_true", help="serve no pool: an agent of its --host alone")
    parser.add_argument("--role", choices=ROLES, default=ALL, help="restores alone, or all kinds of runs")
    options = parser.parse_args(arguments)
    if options.no_pools and (options.pool or not options.host):
        parser.error("--no-pools needs a --host, and no --pool")
    return options


if __name__ == "__main__":
    sys.exit(main())
