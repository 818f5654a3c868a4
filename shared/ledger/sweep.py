"""One look at many realms and sources at once, for the tick: thousands of hosts in a handful of round trips.

Scripts that only read look at some hundreds of realms or sources each and answer in JSON; what is then to be done goes
out in one pipeline of the same atomic transitions that everybody uses. So nothing here decides: between the look and
the act anything may have happened, and the transition looks again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from shared.ledger import scripts
from shared.ledger.calls import JOINS_ANY, open_arguments, opened, reap_arguments, transition
from shared.ledger.codec import decode_run, milliseconds
from shared.ledger.guard import guarded
from shared.ledger.keys import Keys
from shared.ledger.lease import LEASE_SECONDS
from shared.ledger.model import Evidence, Opened, Run, RunRequest

if TYPE_CHECKING:
    from redis.client import Pipeline

    from shared.ledger.ledger import Ledger

Item = TypeVar("Item")

_LOOKED_AT = 500  # realms or sources of one script: a few milliseconds of Redis's time
_ACTED_ON = 1000  # transitions of one pipeline

# KEYS: prefixes of realms; only reads. Answers in JSON: the number of each realm that has something, from 0, the ids of
# its runs that are to be looked after now (some, where there are very many), and whether a holder was fenced.
_WAITING = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local all = {}
for i, prefix in ipairs(KEYS) do
  local ids = redis.call('ZRANGE', prefix .. 'open', '-inf', now, 'BYSCORE', 'LIMIT', 0, 10000)
  local fenced = redis.call('EXISTS', prefix .. 'fenced')
  if #ids > 0 or fenced == 1 then all[#all + 1] = {i - 1, ids, fenced} end
end
return cjson.encode(all)
"""

# KEYS: prefixes of realms; only reads. Answers in JSON per realm: the run that ended last, when (ms), its open runs.
_HEADS = """
local all = {}
for i, prefix in ipairs(KEYS) do
  local id = redis.call('LINDEX', prefix .. 'recent', 0)
  local ended = id and redis.call('HGET', prefix .. 'run:' .. id, 'ended')
  all[i] = {id or '', ended or '0', redis.call('ZRANGE', prefix .. 'open', 0, -1)}
end
return cjson.encode(all)
"""

# KEYS: prefixes of realms; ARGV: a run's id; only reads. Answers in JSON the numbers, from 0, of those that have it.
_HOMES = """
local all = {}
for i, prefix in ipairs(KEYS) do
  if redis.call('EXISTS', prefix .. 'run:' .. ARGV[1]) == 1 then all[#all + 1] = i - 1 end
end
return cjson.encode(all)
"""

# KEYS: prefixes of realms; ARGV: source and site for each; only reads. Answers in JSON, four texts a source: the slots
# of its last snapshot, of its last full one and of its last forget there, and "1" while a backup of it is not over.
_SOURCES = """
local all = {}
for i, prefix in ipairs(KEYS) do
  local source, site = ARGV[2 * i - 1], ARGV[2 * i]
  local evidence = prefix .. 'evidence:' .. source
  local slots = redis.call('HMGET', evidence, site .. '|last', site .. '|full', site .. '|forget')
  all[4 * i - 3] = slots[1] or ''
  all[4 * i - 2] = slots[2] or ''
  all[4 * i - 1] = slots[3] or ''
  all[4 * i] = redis.call('EXISTS', prefix .. 'backups:' .. source) == 1 and '1' or ''
end
return cjson.encode(all)
"""


@dataclass(frozen=True, slots=True)
class SourceState:
    """What the ledger knows of a source at one site."""

    evidence: Evidence | None  # None: nothing at all (look at the site)
    busy: bool  # a backup of it is queued or under way
    forgot: str = ""  # the slot of the last forget; empty: none is known


@dataclass(frozen=True, slots=True)
class Head:
    """The top of one realm."""

    host: str
    newest: str  # the id of the run that ended last; empty: none that is remembered
    ended: float  # when that was, in seconds since 1970 by Redis's clock; 0 for none
    open: tuple[str, ...]  # the ids of the runs that are not over


@dataclass(frozen=True, slots=True)
class Reaped:
    """What a reaper's look found."""

    runs: list[Run]  # QUEUED: to be rung now, and marked as rung. Others are over: FAILED or CANCELLED
    fenced: list[str]  # hosts in whose realm a holder was fenced, so that its repository lock may still stand


def reap(pools: Ledger, hosts: Sequence[str]) -> Reaped:
    """See after the runs of these realms whose lease ran out, or whose last ring nobody followed.

    A run fails after as many attempts that died as its request allows, and is CANCELLED where somebody had asked for
    that.

    Where nobody has looked for long, as Redis or the scheduler was away, their holders could not renew either: they
    get the time of a lease to do so first, or a minute's outage would end every backup under way.
    Raises LedgerAway and LedgerError.
    """
    spares = [milliseconds(LEASE_SECONDS), milliseconds(pools.lease_seconds)]
    pulse = pools.client.register_script(scripts.PULSE)
    spared = bool(guarded(lambda: pulse(keys=[pools.keys.pulse], args=spares)))
    waiting = _waiting(pools, hosts)
    due = [(host, run_id) for host, ids, _ in waiting for run_id in ids]
    own = reap_arguments(spared=spared)
    script = pools.client.register_script(scripts.REAP)

    def act(pipe: Pipeline, one: tuple[str, str]) -> None:
        keys, arguments = transition(Keys(one[0]), one[1], own)
        script(keys=keys, args=arguments, client=pipe)

    acted = [one for one, done in zip(due, _each(pools, due, act), strict=True) if done]
    marked = {host for host, _, has_fence in waiting if has_fence} | {host for host, _ in acted}
    return Reaped(load(pools, acted), sorted(marked))


def states(pools: Ledger, sources: Sequence[tuple[str, str, str]]) -> list[SourceState]:
    """What is known of sources, each (host, source, site), in that order. Raises LedgerAway and LedgerError."""

    def look(pipe: Pipeline, some: Sequence[tuple[str, str, str]]) -> None:
        names = [text for _, source, site in some for text in (source, site)]
        pipe.eval(_SOURCES, len(some), *(Keys(host).prefix for host, _, _ in some), *names)

    texts = [text for answer in _each(pools, list(_batches(sources)), look) for text in json.loads(answer)]
    return [
        SourceState(Evidence(last, full) if last or full else None, bool(busy), forgot)
        for last, full, forgot, busy in zip(texts[::4], texts[1::4], texts[2::4], texts[3::4], strict=True)
    ]


def heads(pools: Ledger, hosts: Sequence[str]) -> list[Head]:
    """The top of each of these realms, in that order. Raises LedgerAway and LedgerError."""
    entries = _look(pools, hosts, _HEADS)
    return [
        Head(host, newest, int(ended) / 1000, tuple(ids))
        for host, (newest, ended, ids) in zip(hosts, (one for batch in entries for one in batch), strict=True)
    ]


def homes(pools: Ledger, hosts: Sequence[str], run_id: str) -> list[str]:
    """The hosts in whose realm there is a run of this id: one, or none. Raises LedgerAway and LedgerError."""
    found = _look(pools, hosts, _HOMES, run_id)
    return [batch[number] for batch, numbers in zip(_batches(hosts), found, strict=True) for number in numbers]


def load(pools: Ledger, runs: Sequence[tuple[str, str]]) -> list[Run]:
    """The runs, each (host, id), that there are, in that order. Raises LedgerAway and LedgerError."""
    hashes = _each(pools, runs, lambda pipe, one: pipe.hgetall(Keys(one[0]).run(one[1])))
    return [decode_run(fields, host) for (host, _), fields in zip(runs, hashes, strict=True) if "kind" in fields]


def newest(pools: Ledger, heads: Sequence[Head], count: int) -> list[Run]:
    """The `count` runs of these realms that ended last, newest first. Raises LedgerAway and LedgerError."""
    # Whatever is among the newest lies in one of as many realms whose own newest are the newest.
    realms = sorted((head for head in heads if head.ended), key=lambda head: -head.ended)[:count]
    lists = _each(pools, realms, lambda pipe, head: pipe.lrange(Keys(head.host).recent, 0, count - 1))
    wanted = [(head.host, run_id) for head, ids in zip(realms, lists, strict=True) for run_id in ids]
    return sorted(load(pools, wanted), key=lambda run: -run.ended)[:count]


def history(pools: Ledger, heads: Sequence[Head], source: str, count: int) -> list[Run]:
    """The runs of a source that ended last, in whichever of these realms. Raises LedgerAway and LedgerError."""
    hosts = [head.host for head in heads if head.ended]
    lists = _each(pools, hosts, lambda pipe, host: pipe.lrange(Keys(host).history(source), 0, count - 1))
    return load(pools, [(host, run_id) for host, ids in zip(hosts, lists, strict=True) for run_id in ids])


def open_runs(pools: Ledger, requests: Sequence[tuple[str, RunRequest]]) -> list[tuple[Opened, str]]:
    """Open runs, each (host, request); a backup joins as in `Ledger.open_backup`.

    Raises LedgerAway: some may be open then.
    """
    script = pools.client.register_script(scripts.OPEN)

    def act(pipe: Pipeline, one: tuple[str, RunRequest]) -> None:
        joins = JOINS_ANY if one[1].kind.is_backup else ""
        keys, arguments = transition(Keys(one[0]), one[1].id, open_arguments(one[1], joins))
        script(keys=keys, args=arguments, client=pipe)

    answers = _each(pools, requests, act)
    return [opened(request, answer) for (_, request), answer in zip(requests, answers, strict=True)]


def _waiting(pools: Ledger, hosts: Sequence[str]) -> list[tuple[str, list[str], bool]]:
    """Of each realm that has something: its host, the runs to look after, and whether it has a fence."""
    return [
        (batch[number], list(ids), bool(has_fence))
        for batch, answer in zip(_batches(hosts), _look(pools, hosts, _WAITING), strict=True)
        for number, ids, has_fence in answer
    ]


def _look(pools: Ledger, hosts: Sequence[str], script: str, *arguments: str) -> list[Any]:
    """What a script that only reads answers for each batch of realms."""
    answers = _each(
        pools,
        list(_batches(hosts)),
        lambda pipe, some: pipe.eval(script, len(some), *(Keys(host).prefix for host in some), *arguments),
    )
    return [json.loads(answer) for answer in answers]


def _batches(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (items[at : at + _LOOKED_AT] for at in range(0, len(items), _LOOKED_AT))


def _each(pools: Ledger, items: Sequence[Item], ask: Callable[[Pipeline, Item], object]) -> list[Any]:
    """One answer per item, many in one round trip."""
    answers: list[Any] = []
    for start in range(0, len(items), _ACTED_ON):
        pipe = pools.client.pipeline(transaction=False)
        for item in items[start : start + _ACTED_ON]:
            ask(pipe, item)
        answers += cast("list[Any]", guarded(pipe.execute))
    return answers
