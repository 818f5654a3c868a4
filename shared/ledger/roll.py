"""The roll of workers: who is there, and who is asked to leave. For people; nothing that runs depends on it.

A worker says every few seconds that it is there, and is told by the answer whether it is to leave. One that has said
nothing for `GONE` seconds is off the roll.

Invariant: what the roll of a host's realm says is about that host's workers alone. They serve its queues and no others,
whatever they say, and hold its runs; a name that is another's too stands beside it, and takes nothing from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.ledger.codec import NoRun, error_text, milliseconds, whole
from shared.ledger.guard import guarded
from shared.ledger.keys import Keys, host_queues
from shared.ledger.look import LOOK, TEXT_AT_MOST

if TYPE_CHECKING:
    from shared.ledger.ledger import Ledger

GONE = 30.0  # seconds
_ASKED_AT = 500  # realms of one script
_NAME_AT_MOST = 200  # characters
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

# ARGV: prefixes of realms as JSON; only reads. Answers in JSON of each realm that has something its number (from 0),
# its workers, each with its name, queues as JSON, drain, host, pid and since; and how many of them can't be read.
_ROLLS = (
    LOOK
    + f"""
local all = {{}}
for i, prefix in ipairs(cjson.decode(ARGV[1])) do
  local workers, odd = roll(prefix)
  for _, one in ipairs(workers) do
    for at, name in ipairs({{'host', 'pid', 'since'}}) do
      one[3 + at] = text({TEXT_AT_MOST}, prefix .. 'worker:' .. one[1], name) or ''
    end
  end
  if #workers > 0 or odd > 0 then all[#all + 1] = {{i - 1, workers, odd}} end
end
return cjson.encode(all)
"""
)


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
    realm: str = ""  # the host whose runs alone it does; empty: it stands on the pools' roll


def owner_of(worker: str, pid: int) -> str:
    """Who holds a lease: a worker's name, and its child's process."""
    return f"{worker}:{pid}"


def worker_of(owner: str) -> str:
    """The name of the worker that an owner belongs to."""
    return owner.rpartition(":")[0]


class Roll:
    """The workers that registered in one realm. Every method may raise LedgerAway or LedgerError."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
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
        """Those that are there, by name, without their runs. What can't be read is left out, and noted."""
        return rolls(self._ledger, [self._ledger.host])


def rolls(ledger: Ledger, hosts: Sequence[str]) -> list[WorkerInfo]:
    """The workers of all these realms, by name, without their runs. What can't be read is left out, and noted.

    Raises LedgerAway and LedgerError.
    """
    pipe = ledger.client.pipeline(transaction=False)
    batches = [hosts[at : at + _ASKED_AT] for at in range(0, len(hosts), _ASKED_AT)]
    for batch in batches:
        pipe.eval(_ROLLS, 0, json.dumps([Keys(host).prefix for host in batch]))
    found: list[WorkerInfo] = []
    for batch, answer in zip(batches, guarded(pipe.execute) if batches else [], strict=True):
        for number, seen, odd in json.loads(answer):
            host = batch[number]
            ledger.unread.note(host, "workers", odd)
            found += _workers(ledger, host, seen)
    return sorted(found, key=lambda one: (one.name, one.realm))


def _workers(ledger: Ledger, realm: str, seen: Iterable[Sequence[Any]]) -> Iterator[WorkerInfo]:
    for name, queues, drain, host, pid, since in seen:
        try:
            names = json.loads(queues)
            if not isinstance(names, list) or len(name) > _NAME_AT_MOST:
                raise NoRun(name)
            served = tuple(one for one in names if isinstance(one, str) and (not realm or one in host_queues(realm)))
            began = whole(since) / 1000
            machine = host[:_NAME_AT_MOST]
            yield WorkerInfo(name, machine, whole(pid), served, began, drained_by=drain or "", realm=realm)
        except (ValueError, RecursionError):
            ledger.unread.note(realm, f"worker:{name}")
