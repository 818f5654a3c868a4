"""A worker on the roll: it says that it is there, and hears when it is asked to leave.

A thread of the worker's parent, started when the children are forked, with one connection of its own. Leaving is what
SIGTERM does: no new runs, supervisors give back theirs within their grace, the process exits. Where Redis is away
nothing is said and nothing heard; the work goes on.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from shared.errors import LedgerError
from shared.ledger.connect import connect as ledger_at
from shared.ledger.roll import Roll
from shared.messaging.names import queue_in
from shared.observability.structured import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from workers.context import WorkerContext

BEAT = 2.0  # seconds; with a supervisor's grace of 15 a drained worker is gone within 30

_log = structlog.get_logger("holdfast.worker")


class Presence:
    """One worker's entry on the roll, from `start` to `end`."""

    def __init__(
        self, roll: Roll, name: str, queues: Sequence[str], leave: Callable[[], None], every: float = BEAT
    ) -> None:
        """`leave` is called once, when somebody asks the worker to. `every`: seconds between two words."""
        self._roll = roll
        self._name = name
        self._queues = list(queues)
        self._leave = leave
        self._every = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        """Say so, every few seconds from now on."""
        self._thread.start()

    def end(self) -> None:
        """The worker is off."""
        self._over.set()
        self._thread.join(BEAT)
        with suppress(LedgerError):  # then it is off the roll when it has been silent for long enough
            self._roll.leave(self._name)

    def _run(self) -> None:
        asked = False
        while not self._over.is_set():
            by = ""
            with suppress(LedgerError):
                by = self._roll.beat(self._name, socket.gethostname(), os.getpid(), self._queues)
            if by and not asked:
                asked = True
                _log.info("drained: gives back its runs and leaves", by=by)
                self._leave()
            self._over.wait(self._every)


def connect(context: WorkerContext) -> None:
    """Put the Celery worker of this process on the roll while it works."""
    from celery import signals  # an agent has no need of it

    here: list[Presence] = []

    def named(sender: str, **_: Any) -> None:
        context.name = sender

    def ready(sender: Any, **_: Any) -> None:
        def leave() -> None:
            context.is_drained = True
            context.stop()
            os.kill(os.getpid(), signal.SIGTERM)

        # The children have a ledger of their own each, and this thread has its own: no connection is shared by a fork.
        roll = Roll(ledger_at(context.url, context.home))
        queues = sorted({queue_in(name) for name in sender.app.amqp.queues.consume_from})
        here.append(Presence(roll, context.name, queues, leave))
        here[-1].start()

    def off(**_: Any) -> None:
        while here:
            here.pop().end()

    signals.celeryd_init.connect(named, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutdown.connect(off, weak=False)
