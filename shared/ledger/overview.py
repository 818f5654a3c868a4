"""The whole ledger at a glance, for `holdfast status`: many realms and sources in one round trip.

Ten thousand sources may lie in ten thousand realms, one a host. Asked one by one they would take seconds; so scripts
that only read look at some hundreds of them each, answer in JSON (which costs a tenth of as many Redis strings), and
go out in one pipeline. Keys are named from the realm's prefix, as in `scripts`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from shared.ledger.guard import guarded
from shared.ledger.keys import BEAT_LOCK, Keys
from shared.ledger.model import Evidence, RunKind, RunState, Upkept

if TYPE_CHECKING:
    from shared.ledger.ledger import Ledger

Item = TypeVar("Item")

_AT_ONCE = 500  # sources or realms of one script: a few milliseconds of Redis's time
_LOOK_BACK = 20  # ended runs of a source among which its newest good backup is looked for

# KEYS: prefixes of realms. Answers per realm: its open runs and its workers.
_REALMS = """
local all = {}
for i, prefix in ipairs(KEYS) do
  local runs, workers = {}, {}
  for _, id in ipairs(redis.call('ZRANGE', prefix .. 'open', 0, -1)) do
    local run = redis.call('HMGET', prefix .. 'run:' .. id, 'state', 'kind', 'source', 'queue', 'opened', 'started',
                           'attempt', 'error', 'slot')
    if run[1] then
      run[10] = id
      runs[#runs + 1] = run
    end
  end
  for _, name in ipairs(redis.call('ZRANGE', prefix .. 'workers', 0, -1)) do
    local queues = redis.call('HGET', prefix .. 'worker:' .. name, 'queues')
    if queues then
      workers[#workers + 1] = {name, queues, redis.call('EXISTS', prefix .. 'drain:' .. name)}
    end
  end
  if #runs > 0 or #workers > 0 then all[#all + 1] = {runs, workers} end
end
return cjson.encode(all)
"""

# KEYS: prefixes of realms; ARGV: how far to look back, then source and site for each. Answers per source: the slot of
# its last snapshot, the newest backup that ended (id, state, kind, ended, error, slot), when the newest good one
# started, and what is noted of the last verification and of the last restore test.
_SOURCES = """
local all = {}
for i, prefix in ipairs(KEYS) do
  local source, site = ARGV[2 * i], ARGV[2 * i + 1]
  local newest, good = false, false
  for _, id in ipairs(redis.call('LRANGE', prefix .. 'history:' .. source, 0, ARGV[1] - 1)) do
    local run = redis.call('HMGET', prefix .. 'run:' .. id, 'state', 'kind', 'ended', 'error', 'slot', 'started',
                           'began')
    if run[1] and string.sub(run[2], 1, 7) == 'backup-' then
      newest = newest or {id, run[1], run[2], run[3], run[4], run[5]}
      if run[1] == 'succeeded' then
        good = run[7] or run[6]
        break
      end
    end
  end
  local kept = redis.call('HMGET', 'hf:upkeep:' .. source, site .. '|verify|said', site .. '|restore-test|said')
  all[i] = {redis.call('HGET', prefix .. 'evidence:' .. source, site .. '|last'), newest, good, kept[1], kept[2]}
end
return cjson.encode(all)
"""


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that is not over. Times in seconds since 1970 by Redis's clock; 0 for not yet."""

    id: str
    state: RunState
    kind: RunKind
    source: str
    queue: str
    opened: float
    started: float = 0.0
    attempt: int = 0
    error: str = ""  # of the attempt before
    slot: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """The newest backup of a source that is over, well or not."""

    id: str
    state: RunState
    kind: RunKind
    ended: float
    error: str = ""
    slot: str = ""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that was heard of lately."""

    name: str
    queues: tuple[str, ...]
    drained: bool = False


@dataclass(frozen=True, slots=True)
class SourceView:
    """What the ledger knows of one source at one site."""

    evidence: Evidence | None = None  # None: nothing at all
    newest: Ended | None = None
    good: float = 0.0  # when the newest backup that succeeded began, 0 where none is remembered
    verified: Upkept | None = None
    tested: Upkept | None = None


@dataclass(frozen=True, slots=True)
class Overview:
    """All of it, at one moment. `now` is Redis's clock."""

    now: float
    leading: bool  # whether a scheduler leads
    ticks: int  # ticks that wait for the scheduler's worker
    runs: tuple[OpenRun, ...]
    workers: tuple[Worker, ...]
    sources: tuple[SourceView, ...]  # as they were asked for


def overview(ledger: Ledger, hosts: Sequence[str], sources: Sequence[tuple[str, str, str]], *, ticks: str) -> Overview:
    """Look at realms (hosts, empty for the pools') and at sources, each (host, source, site).

    `ticks` is the name of the scheduler's queue. Raises LedgerAway and LedgerError.
    """
    pipe = ledger.client.pipeline(transaction=False)
    pipe.time()
    pipe.exists(BEAT_LOCK)
    pipe.llen(ticks)
    realms = list(_batches([Keys(host).prefix for host in hosts]))
    for prefixes in realms:
        pipe.eval(_REALMS, len(prefixes), *prefixes)
    for some in _batches(sources):
        names = [text for _, source, site in some for text in (source, site)]
        pipe.eval(_SOURCES, len(some), *(Keys(host).prefix for host, _, _ in some), _LOOK_BACK, *names)
    (seconds, micros), leading, waiting, *answers = guarded(pipe.execute)
    parts = [part for answer in answers[: len(realms)] for part in json.loads(answer)]
    views = [_view(entry) for answer in answers[len(realms) :] for entry in json.loads(answer)]
    return Overview(
        now=seconds + micros / 1e6,
        leading=bool(leading),
        ticks=int(waiting),
        runs=tuple(_run(run) for runs, _ in parts for run in runs),
        workers=tuple(
            Worker(name, tuple(json.loads(queues)), bool(drained))
            for _, workers in parts
            for name, queues, drained in workers
        ),
        sources=tuple(views),
    )


def _batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[at : at + _AT_ONCE] for at in range(0, len(items), _AT_ONCE))


def _run(fields: list[Any]) -> OpenRun:
    state, kind, source, queue, opened, started, attempt, error, slot, run_id = fields
    return OpenRun(
        run_id,
        RunState(state),
        RunKind(kind),
        source,
        queue or "",
        _seconds(opened),
        _seconds(started),
        int(attempt or 0),
        error or "",
        slot or "",
    )


def _view(entry: list[Any]) -> SourceView:
    last, newest, good, verified, tested = entry
    ended = None
    if newest:
        run_id, state, kind, when, error, slot = newest
        ended = Ended(run_id, RunState(state), RunKind(kind), _seconds(when), error or "", slot or "")
    known = Evidence(last) if last else None
    return SourceView(known, ended, _seconds(good), Upkept.parse(verified or ""), Upkept.parse(tested or ""))


def _seconds(milliseconds: str | bool) -> float:
    return int(milliseconds or 0) / 1000
