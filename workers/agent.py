"""The agent of one server: `python -m workers.agent --config FILE --host HOST`. A worker in one small process.

There may be thousands of agents, and each is idle nearly always. So there is no Celery here: a thread takes rings from
the host's two queues while a slot is free, and each run is supervised by a thread of its own; the work is done by
engines, as ever. What a ring means, and all that the ledger holds, is as for any worker (`tasks`, `supervise`).

Invariants: a ring is taken only when there is a slot for it, so none waits where another worker of the host could have
it; a slot holds leases under a name of its own, so a ring that comes twice is held by one; asked to stop, no ring is
taken any more, and each supervisor gives its run back within its grace.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from shared.config.watch import FleetWatch
from shared.errors import LedgerError
from shared.ledger.connect import connect
from shared.ledger.guard import guarded
from shared.ledger.keys import realm_prefix
from shared.ledger.roll import Roll, owner_of
from shared.messaging.bell import rung
from shared.messaging.names import host_queue, host_restore_queue, redis_list
from shared.observability import logs
from shared.observability.structured import structlog
from workers.children import DRAINED
from workers.context import WorkerContext
from workers.presence import Presence
from workers.tasks import execute

if TYPE_CHECKING:
    from types import FrameType

_WAIT = 5.0  # seconds for which Redis holds a question for rings
_WAIT_PARTLY = 1.0  # the same while some slots are taken: it then asks for the queues of others
_BEAT = 6.0  # seconds between two words that it is there: thousands say so, and a drained one still leaves within 30
_AGAIN = 2.0  # seconds between two tries while Redis is away
_LEAVES_WITHIN = 25.0  # seconds; a supervisor gives back its run well before
_SOCKET = 30.0  # seconds, more than _WAIT

_log = structlog.get_logger("holdfast.worker")


class AgentContext(WorkerContext):
    """One agent. Its threads are its slots, where other workers have processes."""

    def __init__(self, config: FleetWatch, host: str) -> None:
        super().__init__(config, [host], agent=True)
        self._slot = threading.local()

    def take(self, slot: int) -> None:
        """This thread is that slot from now on."""
        self._slot.number = slot

    @property
    def owner(self) -> str:
        """Who holds a lease: the agent, its process and the slot."""
        return f"{owner_of(self.name, os.getpid())}.{self._slot.number}"


class Slots:
    """Which are free. Those from `runs` on are for restores alone."""

    def __init__(self, runs: int, restores: int) -> None:
        self._free = set(range(runs + restores))
        self._runs = runs
        self._changed = threading.Condition()

    def wait(self, seconds: float) -> tuple[bool, bool]:
        """Whether one is free for any run, and for a restore; waits till one is."""
        with self._changed:
            self._changed.wait_for(lambda: self._free, seconds)
            return any(one < self._runs for one in self._free), bool(self._free)

    @property
    def all_free(self) -> bool:
        """Whether none is taken that takes any run."""
        with self._changed:
            return all(one in self._free for one in range(self._runs))

    def take(self, *, restore: bool) -> int:
        """Take one that `wait` has seen: a restore takes one for restores where it can."""
        with self._changed:
            slot = max(self._free) if restore else min(self._free)
            self._free.remove(slot)
            return slot

    def give_back(self, slot: int) -> None:
        """It is free again."""
        with self._changed:
            self._free.add(slot)
            self._changed.notify_all()


class Agent:
    """One agent, from `run` to its end. For the main thread."""

    def __init__(self, context: AgentContext, slots: Slots) -> None:
        self._context = context
        self._slots = slots
        self._host = context.home
        self._queues = (host_restore_queue(self._host), host_queue(self._host))
        self._restores, self._any = (redis_list(queue) for queue in self._queues)
        self._wake = f"{realm_prefix(self._host)}wake:{context.name}"
        self._client = connect(context.url, self._host, timeout=_SOCKET).client
        self._asked = threading.Event()
        self._working: set[threading.Thread] = set()
        self._said = ""

    def run(self) -> int:
        """Work until a signal, or until it is drained; an exit code."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._hear)
        context = self._context
        context.follow()
        roll = Roll(connect(context.url, self._host))
        presence = Presence(roll, context.name, sorted(self._queues), self._leave, every=_BEAT)
        presence.start()
        listener = threading.Thread(target=self._listen, name="bell", daemon=True)
        listener.start()
        _log.info("agent ready", host=self._host)
        try:
            self._asked.wait()
        finally:
            context.stop()
            self._end_question()
            deadline = time.monotonic() + _LEAVES_WITHIN
            for thread in [listener, *self._working]:
                thread.join(max(0.0, deadline - time.monotonic()))
            presence.end()
        return DRAINED if context.is_drained else 0

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        self._asked.set()

    def _leave(self) -> None:
        self._context.is_drained = True
        self._asked.set()

    def _end_question(self) -> None:
        """Redis holds it for seconds: it is answered with a word of our own."""
        pipe = self._client.pipeline(transaction=False)
        pipe.lpush(self._wake, "leave")
        pipe.expire(self._wake, round(2 * _WAIT))
        with suppress(LedgerError):
            guarded(pipe.execute)

    def _listen(self) -> None:
        while not self._context.stopping():
            try:
                self._take_a_ring()
            except LedgerError as error:
                if not self._context.stopping() and str(error) != self._said:
                    _log.warning("no rings can be heard; it goes on trying", reason=str(error))
                self._said = str(error)
                self._asked.wait(_AGAIN)

    def _take_a_ring(self) -> None:
        for_any, for_restores = self._slots.wait(_WAIT_PARTLY)
        if not for_restores:
            return
        lists = [self._wake, self._restores, *([self._any] if for_any else [])]
        wait = _WAIT if for_any and self._slots.all_free else _WAIT_PARTLY
        found = cast("tuple[str, str] | None", guarded(lambda: self._client.brpop(lists, timeout=wait)))
        self._said = ""
        if found is None:
            return
        where, raw = found
        if self._context.stopping():
            if where != self._wake:
                guarded(lambda: self._client.rpush(where, raw))  # first, as it was; perhaps it is our own run's
            return
        slot = self._slots.take(restore=where == self._restores)
        thread = threading.Thread(target=self._work, args=(slot, rung(raw)), name=f"slot-{slot}", daemon=True)
        self._working.add(thread)
        thread.start()

    def _work(self, slot: int, run_id: object) -> None:
        self._context.take(slot)
        try:
            execute(None, self._context, run_id)
        except Exception:  # noqa: BLE001 - the last boundary: the reaper rings for the run again
            _log.exception("a run broke off")
        finally:
            self._slots.give_back(slot)
            self._working.discard(threading.current_thread())


def main(arguments: Sequence[str] | None = None) -> int:
    """Work until told to stop; returns an exit code, DRAINED where somebody asked the agent to leave."""
    parser = argparse.ArgumentParser(prog="python -m workers.agent", description="The agent of one server.")
    parser.add_argument("--config", required=True, help="the server's own file")
    parser.add_argument("--host", required=True, help="whose sources it serves")
    parser.add_argument("--restores", type=int, default=1, help="slots for restores alone")
    options = parser.parse_args(arguments)
    logs.set_up()
    context = AgentContext(FleetWatch(options.config), options.host)
    context.name = f"worker-{os.getpid()}@{socket.gethostname()}"
    return Agent(context, Slots(context.config.fleet.limits.runs, options.restores)).run()


if __name__ == "__main__":
    sys.exit(main())
