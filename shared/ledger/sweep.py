"""One look at many realms and sources at once, for the tick: thousands of hosts in a handful of round trips.

Scripts that only read look at some hundreds of realms or sources each and answer in JSON; what is then to be done goes
out in one pipeline of the same atomic transitions that everybody uses. So nothing here decides: between the look and
the act anything may have happened, and the transition looks again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from shared.ledger import scripts
from shared.ledger.calls import JOINS_ANY, open_arguments, opened, reap_arguments, transition
from shared.ledger.codec import decode_run, milliseconds
from shared.ledger.guard import guarded, known
from shared.ledger.keys import Keys
from shared.ledger.lease import LEASE_SECONDS
from shared.ledger.model import Evidence, Opened, Run, RunRequest

if TYPE_CHECKING:
    from redis.client import Pipeline

    from shared.ledger.ledger import Ledger

Item = TypeVar("Item")

_LOOKED_AT = 500  # realms or sources of one script: a few milliseconds of Redis's time
_ACTED_ON = 1000  # transitions of one pipeline
_OPENED_AT = 100  # runs of one script
_LONG = 60.0  # seconds after which a run that nobody claimed has no worker, it seems

# A server's agent writes its own realm as it likes. What is not of the type that it should be is taken for not there:
# nobody can hold up the look at all the others.
_LOOK = """
local function look(otherwise, ...)
  local said = redis.pcall(...)
  if type(said) == 'table' and said.err then return otherwise end
  return said
end
"""

# ARGV: prefixes of realms as JSON; only reads. Answers in JSON: the number of each realm that has something, from 0,
# the ids of its runs that are to be looked after now (some, where there are very many), whether a holder was fenced.
_WAITING = (
    _LOOK
    + """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local all = {}
for i, prefix in ipairs(cjson.decode(ARGV[1])) do
  local ids = look({}, 'ZRANGE', prefix .. 'open', '-inf', now, 'BYSCORE', 'LIMIT', 0, 10000)
  local fenced = redis.call('EXISTS', prefix .. 'fenced')
  if #ids > 0 or fenced == 1 then all[#all + 1] = {i - 1, ids, fenced} end
end
return cjson.encode(all)
"""
)

# ARGV: prefixes of realms as JSON; only reads. Answers in JSON per realm: the run that ended last, when (ms), and its
# open runs.
_HEADS = (
    _LOOK
    + """
local all = {}
for i, prefix in ipairs(cjson.decode(ARGV[1])) do
  local id = look(false, 'LINDEX', prefix .. 'recent', 0)
  local ended = id and look(false, 'HGET', prefix .. 'run:' .. id, 'ended')
  if not string.match(ended or '', '^%d+$') then ended = '0' end
  all[i] = {id or '', ended, look({}, 'ZRANGE', prefix .. 'open', 0, -1)}
end
return cjson.encode(all)
"""
)

# ARGV: prefixes of realms as JSON, a run's id; only reads. Answers in JSON the numbers, from 0, of those that have it.
_HOMES = """
local all = {}
for i, prefix in ipairs(cjson.decode(ARGV[1])) do
  if redis.call('EXISTS', prefix .. 'run:' .. ARGV[2]) == 1 then all[#all + 1] = i - 1 end
end
return cjson.encode(all)
"""

# ARGV: prefix, source and site of each as JSON, the ms after which a run waits long; only reads. Answers in JSON, four
# texts a source: the slots of its last snapshot and of its last full one there; of a backup that is not over "waits"
# where each such was not claimed for long, else "open"; the slots of its last upkeep there, by `UPKEEP`, or nothing.
_SOURCES = (
    _LOOK
    + """
local t = redis.call('TIME')
local before = t[1] * 1000 + math.floor(t[2] / 1000) - ARGV[2]
local asked = cjson.decode(ARGV[1])
local all = {}
for i = 1, #asked, 3 do
  local prefix, source, site = asked[i], asked[i + 1], asked[i + 2]
  local evidence = prefix .. 'evidence:' .. source
  local slots = look({}, 'HMGET', evidence, site .. '|last', site .. '|full')
  local kept = look({}, 'HMGET', 'hf:upkeep:' .. source, site .. '|forget', site .. '|prune', site .. '|verify',
                    site .. '|restore-test', site .. '|replicate')
  local done = {}
  for j = 1, 5 do done[j] = kept[j] or '' end
  done = table.concat(done, ' ')
  local backups = ''
  for _, id in ipairs(look({}, 'SMEMBERS', prefix .. 'backups:' .. source)) do
    local state, opened = unpack(look({}, 'HMGET', prefix .. 'run:' .. id, 'state', 'opened'))
    local waits = state == 'queued' and (tonumber(opened) or 0) < before
    if not waits then backups = 'open' elseif backups == '' then backups = 'waits' end
  end
  local at = (i - 1) / 3 * 4
  all[at + 1] = slots[1] or ''
  all[at + 2] = slots[2] or ''
  all[at + 3] = backups
  all[at + 4] = #done > 4 and done or ''
end
return cjson.encode(all)
"""
)

# ARGV: KEYS and ARGV of each run's OPEN as JSON. Answers in JSON what OPEN says to each; "waits" where what lies in the
# realm is of another type.
_OPEN_MANY = f"""
local function one(KEYS, ARGV)
{scripts.OPEN}
end
local said = {{}}
for i, call in ipairs(cjson.decode(ARGV[1])) do
  local fine, word = pcall(one, call[1], call[2])
  if not fine then
    local why = type(word) == 'table' and word.err or tostring(word)
    if not string.find(why, 'WRONGTYPE', 1, true) then return redis.error_reply(why) end
    word = 'waits'
  end
  said[i] = word
end
return cjson.encode(said)
"""


class SourceState(NamedTuple):
    """What the ledger knows of a source at one site."""

    last: str  # the slots of its newest snapshot and its newest full one, empty for none
    last_full: str
    backups: str = ""  # "open" where one is queued or under way, "waits" where none was claimed for long
    upkeep: str = ""  # the slots of its last upkeep, by `UPKEEP`, with spaces between; empty: none is known

    @property
    def evidence(self) -> Evidence | None:
        """The same; None: nothing at all (look at the site)."""
        return Evidence(self.last, self.last_full) if self.last or self.last_full else None

    @property
    def busy(self) -> bool:
        """Whether a backup of it is queued or under way."""
        return self.backups != ""

    @property
    def waits(self) -> bool:
        """Whether it is only queued, and has been for long: there is no worker for it."""
        return self.backups == "waits"


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


def states(pools: Ledger, sources: tuple[tuple[str, str, str], ...]) -> list[SourceState]:
    """What is known of sources, each (host, source, site), in that order. Raises LedgerAway and LedgerError."""
    waits = milliseconds(_LONG)
    answers = _each(pools, _packed(sources), lambda pipe, packed: pipe.eval(_SOURCES, 0, packed, waits))
    texts = [text for answer in answers for text in json.loads(answer)]
    return list(map(SourceState, texts[::4], texts[1::4], texts[2::4], texts[3::4]))


def _seconds(milliseconds: str | int) -> float:
    """A time of Redis's; what is none, or beyond all, is 0: an agent writes its own realm as it likes."""
    try:
        return int(milliseconds) / 1000
    except (ValueError, OverflowError):
        return 0.0


def heads(pools: Ledger, hosts: Sequence[str]) -> list[Head]:
    """The top of each of these realms, in that order. Raises LedgerAway and LedgerError."""
    entries = _look(pools, hosts, _HEADS)
    return [
        Head(host, newest, _seconds(ended), tuple(ids))
        for host, (newest, ended, ids) in zip(hosts, (one for batch in entries for one in batch), strict=True)
    ]


def homes(pools: Ledger, hosts: Sequence[str], run_id: str) -> list[str]:
    """The hosts in whose realm there is a run of this id: one, or none. Raises LedgerAway and LedgerError."""
    found = _look(pools, hosts, _HOMES, run_id)
    return [batch[number] for batch, numbers in zip(_batches(hosts), found, strict=True) for number in numbers]


def load(pools: Ledger, runs: Sequence[tuple[str, str]]) -> list[Run]:
    """The runs, each (host, id), that there are, in that order. Raises LedgerAway and LedgerError."""
    hashes = _each(pools, runs, lambda pipe, one: pipe.hgetall(Keys(one[0]).run(one[1])))
    found = zip(runs, hashes, strict=True)
    return [decode_run(fields, host) for (host, _), fields in found if fields and "kind" in fields]


def newest(pools: Ledger, heads: Sequence[Head], count: int) -> list[Run]:
    """The `count` runs of these realms that ended last, newest first. Raises LedgerAway and LedgerError."""
    # Whatever is among the newest lies in one of as many realms whose own newest are the newest.
    realms = sorted((head for head in heads if head.ended), key=lambda head: -head.ended)[:count]
    lists = _each(pools, realms, lambda pipe, head: pipe.lrange(Keys(head.host).recent, 0, count - 1))
    wanted = [(head.host, run_id) for head, ids in zip(realms, lists, strict=True) for run_id in ids or ()]
    return sorted(load(pools, wanted), key=lambda run: -run.ended)[:count]


def history(pools: Ledger, heads: Sequence[Head], source: str, count: int) -> list[Run]:
    """The runs of a source that ended last, in whichever of these realms. Raises LedgerAway and LedgerError."""
    hosts = [head.host for head in heads if head.ended]
    lists = _each(pools, hosts, lambda pipe, host: pipe.lrange(Keys(host).history(source), 0, count - 1))
    return load(pools, [(host, run_id) for host, ids in zip(hosts, lists, strict=True) for run_id in ids or ()])


def open_runs(pools: Ledger, requests: Sequence[tuple[str, RunRequest]]) -> list[tuple[Opened, str]]:
    """Open runs, each (host, request); a backup joins as in `Ledger.open_backup`.

    Raises LedgerAway: some may be open then.
    """
    script = pools.client.register_script(_OPEN_MANY)

    def act(pipe: Pipeline, some: Sequence[tuple[str, RunRequest]]) -> None:
        calls = [
            transition(Keys(host), one.id, open_arguments(one, JOINS_ANY if one.kind.is_backup else ""))
            for host, one in some
        ]
        script(args=[json.dumps(calls)], client=pipe)

    answers = [one for batch in _each(pools, list(_batches(requests, _OPENED_AT)), act) for one in json.loads(batch)]
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
    packed = _packed(tuple((host,) for host in hosts))
    return [json.loads(one) for one in _each(pools, packed, lambda pipe, own: pipe.eval(script, 0, own, *arguments))]


@lru_cache(maxsize=8)
def _packed(rows: tuple[tuple[str, ...], ...]) -> list[bytes]:
    """Rows that begin with a host, which becomes its realm's prefix, for scripts: one text for each batch.

    The tick asks for the same ten thousand every two seconds: one argument costs a hundredth of as many.
    """
    return [
        json.dumps([text for host, *rest in batch for text in (Keys(host).prefix, *rest)]).encode()
        for batch in _batches(rows)
    ]


def _batches(items: Sequence[Item], size: int = _LOOKED_AT) -> Iterator[Sequence[Item]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _each(pools: Ledger, items: Sequence[Item], ask: Callable[[Pipeline, Item], object]) -> list[Any]:
    """One answer per item, many in one round trip; None where what lies there is of another type."""
    answers: list[Any] = []
    for start in range(0, len(items), _ACTED_ON):
        pipe = pools.client.pipeline(transaction=False)
        for item in items[start : start + _ACTED_ON]:
            ask(pipe, item)
        answers += [known(one) for one in guarded(partial(pipe.execute, raise_on_error=False))]
    return answers
