"""The roll of workers: who is there, and who is asked to leave. For people; nothing that runs depends on it.

A worker says every few seconds that it is there, and is told by the answer whether it is to leave. One that has said
nothing for `GONE` seconds is off the roll.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from shared.ledger.codec import error_text, milliseconds
from shared.ledger.guard import guarded

if TYPE_CHECKING:
    from shared.ledger.ledger import Ledger

GONE = 30.0  # seconds
_DRAIN_KEPT = 3600.0  # seconds for which a word to leave waits for a worker that does not answer

# KEYS: workers, the worker's hash, its drain. ARGV: name, ms after which it is gone, host, pid, queues as JSON
_BEAT = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('HSETNX', KEYS[2], 'since', now)
redis.call('HSET', KEYS[2], 'host', ARGV[3], 'pid', ARGV[4], 'queues', ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
return redis.call('GET', KEYS[3]) or ''
"""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One worker that was heard of lately."""

    name: str
    host: str  # the machine
    pid: int
    queues: tuple[str, ...]
    since: float  # when it was first heard of, in seconds since 1970 by Redis's clock
    runs: tuple[str, ...] = ()  # the ids of those whose lease it has
    drained_by: str = ""  # who asked it to leave


def owner_of(worker: str, pid: int) -> str:
    """Who holds a lease: a worker's name, and its child's process."""
    return f"{worker}:{pid}"


def worker_of(owner: str) -> str:
    """The name of the worker that an owner belongs to."""
    return owner.rpartition(":")[0]


class Roll:
    """The workers that registered in one realm. Every method may raise LedgerAway or LedgerError."""

    def __init__(self, ledger: Ledger) -> None:
        self._keys = ledger.keys
        self._client = ledger.client
        self._beat = ledger.client.register_script(_BEAT)

    def beat(self, name: str, host: str, pid: int, queues: Sequence[str]) -> str:
        """A worker is there. Who asked it to leave; empty: nobody."""
        keys = [self._keys.workers, self._keys.worker(name), self._keys.drain(name)]
        arguments: list[str | int] = [name, milliseconds(GONE), host, pid, json.dumps(list(queues))]
        return str(guarded(lambda: self._beat(keys=keys, args=arguments)))

    def leave(self, name: str) -> None:
        """A worker is off."""
        guarded(lambda: self._client.zrem(self._keys.workers, name))
        guarded(lambda: self._client.delete(self._keys.worker(name), self._keys.drain(name)))

    def drain(self, name: str, by: str) -> bool:
        """Ask a worker to give back its runs and to leave. False where there is none of this name."""
        if not guarded(lambda: self._client.exists(self._keys.worker(name))):
            return False
        by = error_text(by) or "somebody"
        guarded(lambda: self._client.set(self._keys.drain(name), by, px=milliseconds(_DRAIN_KEPT)))
        return True

    def workers(self) -> list[WorkerInfo]:
        """Those that are there, by name, without their runs."""
        names = sorted(guarded(lambda: self._client.zrange(self._keys.workers, 0, -1)))
        pipe = self._client.pipeline(transaction=False)
        for name in names:
            pipe.hgetall(self._keys.worker(name))
            pipe.get(self._keys.drain(name))
        answers = guarded(pipe.execute) if names else []
        found = []
        for number, name in enumerate(names):
            fields = cast("dict[str, str]", answers[2 * number])
            if "pid" not in fields:
                continue  # gone: its hash has expired
            found.append(
                WorkerInfo(
                    name=name,
                    host=fields["host"],
                    pid=int(fields["pid"]),
                    queues=tuple(json.loads(fields["queues"])),
                    since=int(fields["since"]) / 1000,
                    drained_by=str(answers[2 * number + 1] or ""),
                )
            )
        return found
