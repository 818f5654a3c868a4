"""Who carries out the plan: each fault made for real, and noted with what it hit."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import redis

from tests.support.chaos.crew import Crew
from tests.support.chaos.plan import Fault, Planned
from tests.support.chaos.processes import Member, Process, send
from tests.support.proxy import FaultProxy
from tests.support.tools import ValkeyServer

Target = TypeVar("Target")
_WAIT = 3.0  # seconds for which a fault waits for something that it can hit


@dataclass(frozen=True, slots=True)
class Done:
    """A fault that was made: when (seconds since 1970) and to whom. Empty: nobody was there.

    `pids`: whom it hit, and those above them.
    """

    planned: Planned
    at: float
    target: str
    pids: tuple[int, ...] = ()


class Saboteur:
    """Two threads, one for each track of the plan."""

    def __init__(
        self,
        plan: Sequence[Planned],
        crew: Crew,
        valkey: ValkeyServer,
        proxy: FaultProxy,
        before_wipe: Callable[[], None],
    ) -> None:
        """`before_wipe` is called before Redis is emptied: the last chance to see what it holds."""
        self.done: list[Done] = []
        self.failures: list[str] = []
        self._crew = crew
        self._valkey = valkey
        self._proxy = proxy
        self._before_wipe = before_wipe
        self._began = time.monotonic()
        self._threads = [
            threading.Thread(target=self._follow, args=([one for one in plan if one.on_redis == track],), daemon=True)
            for track in (True, False)
        ]
        self._wakers: list[threading.Timer] = []
        self._before: list[Process] = []  # all that there were when the last victim was looked for

    def start(self) -> None:
        """Begin with the plan; its times count from now."""
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait for the end of the plan, and heal what has not healed by itself."""
        for thread in self._threads:
            thread.join()
        for waker in self._wakers:
            waker.join()
        self._proxy.forgive()
        self.done.sort(key=lambda done: done.at)

    @property
    def wiped(self) -> list[float]:
        """When Redis was emptied, in seconds since 1970."""
        return [done.at for done in self.done if done.planned.fault is Fault.REDIS_EMPTY]

    def _follow(self, plan: list[Planned]) -> None:
        for planned in plan:
            time.sleep(max(0.0, self._began + planned.at - time.monotonic()))
            at = time.time()
            try:
                target, pids = self._make(planned)
            except Exception as error:  # noqa: BLE001 - a thread's end is seen by nobody
                self.failures.append(f"{planned}: {error!r}")
                return
            self.done.append(Done(planned, at, target, pids))

    def _make(self, planned: Planned) -> tuple[str, tuple[int, ...]]:
        fault, pick, lasts = planned.fault, planned.pick, planned.lasts
        if planned.on_redis:
            self._on_redis(fault, lasts)
            return "valkey", ()
        if fault is Fault.BEAT_KILLED:
            return self._kill(_choose(self._crew.named("beat"), pick))
        if fault is Fault.TICKER_KILLED:
            return self._kill(_choose(self._crew.named("ticker"), pick))
        worker = _choose(self._crew.named("worker"), pick)
        if fault is Fault.WORKER_KILLED:
            return self._kill(worker)
        if fault is Fault.WORKER_LEAVES:
            worker.tell(signal.SIGTERM)
            return worker.name, (worker.pid,)
        if fault is Fault.MACHINE_KILLED:
            return self._hit(signal.SIGKILL, worker.name, self._crew.processes(worker.name))
        if fault is Fault.WORKER_FROZEN:
            return self._freeze(worker.name, self._crew.processes(worker.name), lasts)
        wanted: dict[Fault, Callable[[Process], bool]] = {
            Fault.CHILD_KILLED: lambda one: one.parent in self._parents(),
            Fault.CHILD_FROZEN: lambda one: one.parent in self._parents(),
            Fault.ENGINE_KILLED: lambda one: one.is_engine,
            Fault.HELPER_KILLED: lambda one: one.is_helper,
        }
        victims = self._some(wanted[fault])
        if not victims:
            return "", ()
        victim = _choose(victims, pick)
        if fault is Fault.CHILD_FROZEN:
            return self._freeze(victim.member, [victim], lasts)
        name, pids = self._hit(signal.SIGKILL, victim.member, [victim])
        # A helper leads to its engine, an engine to its supervisor, which is known to the ledger.
        above = [process.parent for process in self._before if process.pid in {victim.pid, victim.parent}]
        return name, (*pids, *above)

    def _parents(self) -> set[int]:
        return {member.pid for member in self._crew.named("worker")}

    def _some(self, wanted: Callable[[Process], bool]) -> list[Process]:
        deadline = time.monotonic() + _WAIT
        while True:
            self._before = self._crew.processes()
            found = [process for process in self._before if wanted(process)]
            if found or time.monotonic() > deadline:
                return found
            time.sleep(0.05)

    def _kill(self, member: Member) -> tuple[str, tuple[int, ...]]:
        pid = member.pid
        member.tell(signal.SIGKILL)
        return member.name, (pid,)

    def _hit(self, number: signal.Signals, name: str, processes: list[Process]) -> tuple[str, tuple[int, ...]]:
        send(number, processes)
        return name, tuple(process.pid for process in processes)

    def _freeze(self, name: str, processes: list[Process], lasts: float) -> tuple[str, tuple[int, ...]]:
        waker = threading.Timer(lasts, send, (signal.SIGCONT, processes))
        waker.daemon = True
        self._wakers.append(waker)
        waker.start()
        return self._hit(signal.SIGSTOP, name, processes)

    def _on_redis(self, fault: Fault, lasts: float) -> None:
        valkey = self._valkey
        if fault in {Fault.REDIS_ABSENT, Fault.REDIS_KILLED, Fault.REDIS_EMPTY}:
            if fault is Fault.REDIS_EMPTY:
                self._before_wipe()
            valkey.kill()
            time.sleep(lasts)
            if fault is Fault.REDIS_EMPTY:
                shutil.rmtree(valkey.directory)
            valkey.start()
        elif fault is Fault.REDIS_STOPPED:
            os.kill(valkey.pid, signal.SIGSTOP)
            time.sleep(lasts)
            os.kill(valkey.pid, signal.SIGCONT)
        elif fault is Fault.REDIS_CUT:
            self._proxy.cut_within(3, b"MULTI")
        elif fault is Fault.REDIS_DEAF:
            self._proxy.lose_answers(5)
        else:
            begin, end = {
                Fault.REDIS_FULL: (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
                Fault.REDIS_READ_ONLY: (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
            }[fault]
            with redis.Redis.from_url(valkey.url) as client:
                client.execute_command(*begin)  # type: ignore[no-untyped-call] # redis-py has none for it
                time.sleep(lasts)
                client.execute_command(*end)  # type: ignore[no-untyped-call] # as above


def _choose(targets: Sequence[Target], pick: float) -> Target:
    return targets[int(pick * len(targets))]
