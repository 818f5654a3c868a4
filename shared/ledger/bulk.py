"""Many keys of one sort at once, for the exporter: ten thousand in a handful of round trips.

The scripts only read, some hundreds of keys each, and answer in JSON. What an agent may have written is looked at as
`look` says: no more than a bounded amount is taken of any host, and what can't be read is counted, and left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from shared.ledger.guard import guarded
from shared.ledger.keys import HOST_QUEUE, HOST_RESTORES
from shared.ledger.look import COUNTS_AT_MOST, IDS_AT_MOST, LOOK, RUNS

if TYPE_CHECKING:
    from shared.ledger.ledger import Ledger

_AT_ONCE = 500  # keys of one script: a few milliseconds of Redis's time
_NAME_AT_MOST = 1400  # bytes of the name of a count
Odd = list[tuple[int, int]]  # the places of keys, from 0, of which something could not be read, and how much

# ARGV: keys as JSON. Answers the lengths of these lists.
_LENGTHS = (
    LOOK
    + """
local all = {}
for i, key in ipairs(cjson.decode(ARGV[1])) do all[i] = look(0, 'LLEN', key) end
return cjson.encode(all)
"""
)

# ARGV: keys as JSON, two positions. Answers the ids from one to the other of each list, and how many entries are none.
_SLICES = (
    LOOK
    + """
local all, odds = {}, {}
for i, key in ipairs(cjson.decode(ARGV[1])) do
  local odd
  all[i], odd = listed(key, ARGV[2], ARGV[3])
  if odd > 0 then odds[#odds + 1] = {i - 1, odd} end
end
return cjson.encode({all, odds})
"""
)

# ARGV: keys as JSON. Answers fields and values in turn of each hash, and how many of these can't be read.
_HASHES = (
    LOOK
    + f"""
local all, odds = {{}}, {{}}
for i, key in ipairs(cjson.decode(ARGV[1])) do
  local said = entries('HLEN', {IDS_AT_MOST}, 'HGETALL', key)
  all[i] = said or {{}}
  if not said then odds[#odds + 1] = {{i - 1, 1}} end
end
return cjson.encode({{all, odds}})
"""
)

# ARGV: prefixes of realms as JSON. Answers all their counts, added up, but for the bytes that were uploaded: these as
# number of the realm (from 0), source and bytes, since no realm may speak for another's source. And how many workers
# that stay consume each queue: of a host, its own; and how much can't be read.
_COUNTS = (
    LOOK
    + f"""
local sums, queues, uploads, odds = {{}}, {{}}, {{}}, {{}}
for at, prefix in ipairs(cjson.decode(ARGV[1])) do
  local key = prefix .. 'counts'
  local theirs = is_hosts(key)
  local fields, odd = entries('HLEN', {COUNTS_AT_MOST}, 'HGETALL', key), 0
  if not fields then fields, odd = {{}}, 1 end
  for i = 1, #fields, 2 do
    local count = digits(fields[i + 1])
    if not count or #fields[i] > {_NAME_AT_MOST} then
      odd = odd + 1
    elseif string.sub(fields[i], 1, 9) == 'uploaded|' then
      uploads[#uploads + 1] = {{at - 1, string.sub(fields[i], 10), tonumber(count)}}
    else
      sums[fields[i]] = (sums[fields[i]] or 0) + tonumber(count)
    end
  end
  local own = '{HOST_QUEUE}' .. string.sub(prefix, 6, -2)
  local workers, bad = roll(prefix)
  for _, worker in ipairs(workers) do
    local fine, list = pcall(cjson.decode, worker[2])
    if not fine or type(list) ~= 'table' then
      bad = bad + 1
    elseif not worker[3] then
      for _, queue in ipairs(list) do
        if type(queue) == 'string' and (not theirs or queue == own or queue == own .. '{HOST_RESTORES}') then
          queues[queue] = (queues[queue] or 0) + 1
        end
      end
    end
  end
  if odd + bad > 0 then odds[#odds + 1] = {{at - 1, odd + bad}} end
end
return cjson.encode({{sums, queues, uploads, odds}})
"""
)


def lengths(pools: Ledger, keys: tuple[str, ...]) -> list[int]:
    """How long each of these lists is. Raises LedgerAway and LedgerError."""
    return [length for batch in _ask(pools, _LENGTHS, keys) for length in batch]


def slices(pools: Ledger, keys: tuple[str, ...], first: int, last: int) -> tuple[list[list[str]], Odd]:
    """The ids in each list from one position to the other. Raises LedgerAway and LedgerError."""
    return _gathered(_ask(pools, _SLICES, keys, str(first), str(last)))


def fields(pools: Ledger, keys: tuple[str, ...], names: Sequence[str]) -> list[list[str] | int]:
    """The values of these fields of each run, empty for what is not there; 0: there is none; 1: it can't be read.

    Raises LedgerAway and LedgerError.
    """
    return [values for batch in _ask(pools, RUNS, keys, json.dumps(names)) for values in batch]


def hashes(pools: Ledger, keys: tuple[str, ...]) -> tuple[list[dict[str, str]], Odd]:
    """Each hash, empty for one that is not there. Raises LedgerAway and LedgerError."""
    found, odd = _gathered(_ask(pools, _HASHES, keys))
    return [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in found], odd


def counts(
    pools: Ledger, prefixes: tuple[str, ...]
) -> tuple[Counter[str], Counter[str], list[tuple[int, str, int]], Odd]:
    """What is counted in these realms, added up; how many workers that stay consume each queue; and uploaded bytes.

    These by the realm's place among `prefixes` and by source: who asks knows whose source lies where.

    Raises LedgerAway and LedgerError.
    """
    sums: Counter[str] = Counter()
    workers: Counter[str] = Counter()
    uploads: list[tuple[int, str, int]] = []
    odd: Odd = []
    for batch, (counted, queues, uploaded, odds) in enumerate(_ask(pools, _COUNTS, prefixes)):
        for name, count in dict(counted).items():
            sums[name] += int(count)
        workers.update(dict(queues))
        uploads += [(batch * _AT_ONCE + at, source, int(count)) for at, source, count in uploaded]
        odd += [(batch * _AT_ONCE + at, count) for at, count in odds]
    return sums, workers, uploads, odd


def _gathered(batches: Iterable[Any]) -> tuple[list[list[str]], Odd]:
    """What scripts answered for all keys. An empty list of Lua's is an empty object of JSON's."""
    all_of, odd = [], []
    for number, (found, odds) in enumerate(batches):
        all_of += [values or [] for values in found]
        odd += [(number * _AT_ONCE + at, count) for at, count in odds]
    return all_of, odd


def _ask(pools: Ledger, script: str, keys: tuple[str, ...], *arguments: str) -> Iterator[Any]:
    """What a script answers for each batch of keys."""
    call = pools.client.register_script(script)
    pipe = pools.client.pipeline(transaction=False)
    for packed in _packed(keys):
        call(args=[packed, *arguments], client=pipe)
    return map(json.loads, guarded(pipe.execute))


@lru_cache(maxsize=8)
def _packed(keys: tuple[str, ...]) -> list[str]:
    """Keys for scripts, a text for each batch: one argument costs a hundredth of as many, and most are asked again."""
    return [json.dumps(keys[at : at + _AT_ONCE]) for at in range(0, len(keys), _AT_ONCE)]
