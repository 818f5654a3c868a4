"""Many keys of one sort at once, for the exporter: ten thousand in a handful of round trips.

The scripts only read, some hundreds of keys each, and answer in JSON. An agent writes its own realm as it likes: what
is not of the type that it should be is taken for not there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from shared.ledger.guard import guarded

if TYPE_CHECKING:
    from shared.ledger.ledger import Ledger

_AT_ONCE = 500  # keys of one script: a few milliseconds of Redis's time
_COUNTS_AT_MOST = 2000  # fields of the counts of one host; those of the pools are all read
_WORKERS_AT_MOST = 20  # of one host

# ARGV: keys as JSON. Answers the lengths of these lists.
_LENGTHS = """
local all = {}
for i, key in ipairs(cjson.decode(ARGV[1])) do
  local said = redis.pcall('LLEN', key)
  all[i] = type(said) == 'number' and said or 0
end
return cjson.encode(all)
"""

# ARGV: keys as JSON, two positions. Answers what stands from one to the other of each list.
_SLICES = """
local all = {}
for i, key in ipairs(cjson.decode(ARGV[1])) do
  local said = redis.pcall('LRANGE', key, ARGV[2], ARGV[3])
  all[i] = said.err and {} or said
end
return cjson.encode(all)
"""

# ARGV: keys as JSON, names as JSON. Answers the values of these fields of each hash, empty for what is not there.
_FIELDS = """
local names, all = cjson.decode(ARGV[2]), {}
for i, key in ipairs(cjson.decode(ARGV[1])) do
  local said = redis.pcall('HMGET', key, unpack(names))
  local values = {}
  for at = 1, #names do values[at] = said[at] or '' end
  all[i] = values
end
return cjson.encode(all)
"""

# ARGV: keys as JSON. Answers fields and values in turn of each hash.
_HASHES = """
local all = {}
for i, key in ipairs(cjson.decode(ARGV[1])) do
  local said = redis.pcall('HGETALL', key)
  all[i] = said.err and {} or said
end
return cjson.encode(all)
"""

# ARGV: prefixes of realms as JSON. Answers all their counts, added up, but for the bytes that were uploaded: these as
# number of the realm (from 0), source and bytes, since no realm may speak for another's source. And how many workers
# that stay consume each queue. What is no count or no list is passed over.
_COUNTS = f"""
local sums, queues, uploads = {{}}, {{}}, {{}}
for at, prefix in ipairs(cjson.decode(ARGV[1])) do
  local theirs = string.sub(prefix, 1, 5) == 'hf:h:'
  local size = theirs and redis.pcall('HLEN', prefix .. 'counts') or 0
  local fields = {{}}
  if type(size) == 'number' and size <= {_COUNTS_AT_MOST} then fields = redis.pcall('HGETALL', prefix .. 'counts') end
  for i = 1, #fields, 2 do
    local count = tonumber(fields[i + 1])
    if count and count >= 0 and count < 2 ^ 53 then
      if string.sub(fields[i], 1, 9) == 'uploaded|' then
        uploads[#uploads + 1] = {{at - 1, string.sub(fields[i], 10), count}}
      else
        sums[fields[i]] = (sums[fields[i]] or 0) + count
      end
    end
  end
  for _, name in ipairs(redis.pcall('ZRANGE', prefix .. 'workers', 0, theirs and {_WORKERS_AT_MOST - 1} or -1)) do
    local said = redis.pcall('HGET', prefix .. 'worker:' .. name, 'queues')
    local fine, list = pcall(cjson.decode, said)
    if fine and type(list) == 'table' and redis.call('EXISTS', prefix .. 'drain:' .. name) == 0 then
      for _, queue in ipairs(list) do
        if type(queue) == 'string' then queues[queue] = (queues[queue] or 0) + 1 end
      end
    end
  end
end
return cjson.encode({{sums, queues, uploads}})
"""


def lengths(pools: Ledger, keys: tuple[str, ...]) -> list[int]:
    """How long each of these lists is. Raises LedgerAway and LedgerError."""
    return [length for batch in _ask(pools, _LENGTHS, keys) for length in batch]


def slices(pools: Ledger, keys: tuple[str, ...], first: int, last: int) -> list[list[str]]:
    """What stands in each list from one position to the other. Raises LedgerAway and LedgerError."""
    # An empty list of Lua's is an empty object of JSON's.
    return [values or [] for batch in _ask(pools, _SLICES, keys, str(first), str(last)) for values in batch]


def fields(pools: Ledger, keys: tuple[str, ...], names: Sequence[str]) -> list[list[str]]:
    """The values of these fields of each hash, empty for what is not there. Raises LedgerAway and LedgerError."""
    return [values for batch in _ask(pools, _FIELDS, keys, json.dumps(names)) for values in batch]


def hashes(pools: Ledger, keys: tuple[str, ...]) -> list[dict[str, str]]:
    """Each hash, empty for one that is not there. Raises LedgerAway and LedgerError."""
    found = [flat or [] for batch in _ask(pools, _HASHES, keys) for flat in batch]
    return [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in found]


def counts(pools: Ledger, prefixes: tuple[str, ...]) -> tuple[Counter[str], Counter[str], list[tuple[int, str, int]]]:
    """What is counted in these realms, added up; how many workers that stay consume each queue; and uploaded bytes.

    These by the realm's place among `prefixes` and by source: who asks knows whose source lies where.

    Raises LedgerAway and LedgerError.
    """
    sums: Counter[str] = Counter()
    workers: Counter[str] = Counter()
    uploads: list[tuple[int, str, int]] = []
    for batch, (counted, queues, uploaded) in enumerate(_ask(pools, _COUNTS, prefixes)):
        for name, count in dict(counted).items():
            sums[name] += int(count)
        workers.update(dict(queues))
        uploads += [(batch * _AT_ONCE + at, source, int(count)) for at, source, count in uploaded]
    return sums, workers, uploads


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
