"""How realms are looked into: by scripts that bound what they take, and pass on nothing but what it should be.

Invariant: what a server's agent has written into its own realm costs whoever looks a bounded amount of work, and says
something about that host alone. The agent writes there as it likes: other types, millions of entries, texts of half a
gigabyte, bytes that are no UTF-8. So nothing of a host's realm is read before its size was looked at, all of it within
one script; a key that is of another type, or larger than any that Holdfast writes, is left out as a whole. How much
was left out is a part of the answer: it is counted and told (`shared.ledger.unread`), and never acted upon.

The pools' realm is written by the fleet's own processes alone; there only the types are looked at.
"""

from __future__ import annotations

OPEN_AT_MOST = 500  # open runs of one host
RECENT_AT_MOST = 1000  # ended runs of a realm that are remembered in its list
IDS_AT_MOST = 1000  # entries of any other list or set of a host's
DUE_AT_MOST = 20  # runs of one host that are looked after at a time, and fences: each is a line of a log
WORKERS_AT_MOST = 20  # of one host
COUNTS_AT_MOST = 2000  # fields of what one host has counted
FIELDS_AT_MOST = 64  # of a run
RUN_AT_MOST = 1 << 20  # bytes of one run of a host, as they lie in Redis: it may tell of a hundred problems
HOST_AT_MOST = 4 << 20  # bytes of a host's runs in one answer
TEXT_AT_MOST = 4096  # bytes of one text that is neither an id nor a number
_ENTRY_AT_MOST = 256  # bytes of one entry of a list or a set, on average and all told: an id and what Redis adds

# `look`: what a command answers; `otherwise` where what lies there is of another type.
# `fits`: whether a key has no more than so many entries, and so many bytes: entries may be of any length. A Redis that
# forbids to ask for that goes by the number alone.
# `entries`: what a command that reads a key's entries answers; false where it must not be read. What Redis holds in a
# listpack is small, so that most keys cost one command more.
# `ids`: those among what a command answers, and how many entries are none.
# `text`: a field of a hash, no longer than `most`; nothing, and 1, where it is longer or there is no such hash.
# `texts`: several, in a table: empty where there is none, or one that is longer.
# `digits`: what is a whole number of at most 15 digits.
LOOK = f"""
local function is_hosts(key) return string.sub(key, 1, 5) == 'hf:h:' end

local function look(otherwise, ...)
  local said = redis.pcall(...)
  if type(said) ~= 'table' or not said.err then return said end
  if string.find(said.err, 'WRONGTYPE', 1, true) then return otherwise end
  error(said)
end

local function held_in(key) return redis.pcall('OBJECT', 'ENCODING', key) end

local function fits(count, most, key, bytes)
  local size = look(-1, count, key)
  if size < 0 or size > most then return false end
  local used = redis.pcall('MEMORY', 'USAGE', key, 'SAMPLES', 0)
  used = type(used) == 'number' and used or 0
  return used <= (bytes or 4096 + most * {_ENTRY_AT_MOST}), used
end

local function entries(count, most, command, key, ...)
  if is_hosts(key) then
    local held = held_in(key)
    if not held then return {{}} end
    if held ~= 'listpack' and not fits(count, most, key) then return false end
  end
  return look(false, command, key, ...)
end

local function is_id(id) return #id == 32 and not string.find(id, '[^0-9a-f]') end

local function ids(said)
  local found = {{}}
  if not said then return found, 1 end
  for _, id in ipairs(said) do
    if is_id(id) then found[#found + 1] = id end
  end
  return found, #said - #found
end

local function digits(text) return text and #text <= 15 and string.find(text, '^%d+$') and text end

local function text(most, key, name)
  local size = look(-1, 'HSTRLEN', key, name)
  if size < 0 or size > most then return false, 1 end
  return redis.call('HGET', key, name), 0
end

local function texts(most, key, ...)
  local found = {{}}
  if not is_hosts(key) then return look(found, 'HMGET', key, ...) end
  local held = held_in(key)
  if held == 'listpack' then return look(found, 'HMGET', key, ...) end
  for at, name in ipairs({{...}}) do found[at] = held and text(most, key, name) end
  return found
end

-- The ids of a realm's open runs.
local function open_ids(prefix) return ids(entries('ZCARD', {OPEN_AT_MOST}, 'ZRANGE', prefix .. 'open', 0, -1)) end

-- The ids of a list, from one place to another.
local function listed(key, first, last) return ids(entries('LLEN', {RECENT_AT_MOST}, 'LRANGE', key, first, last)) end

-- The workers of a realm's roll, each with its name, its queues as JSON, and who asked it to leave, or false.
local function roll(prefix)
  local found, odd = {{}}, 0
  local names = entries('ZCARD', {WORKERS_AT_MOST}, 'ZRANGE', prefix .. 'workers', 0, -1)
  if not names then return found, 1 end
  for at, name in ipairs(names) do
    local queues, bad = text({TEXT_AT_MOST}, prefix .. 'worker:' .. name, 'queues')
    local length = look(-1, 'STRLEN', prefix .. 'drain:' .. name)
    if bad > 0 or length < 0 or length > {TEXT_AT_MOST} or (at > {WORKERS_AT_MOST} and is_hosts(prefix)) then
      odd = odd + 1
    elseif queues then
      found[#found + 1] = {{name, queues, length > 0 and redis.call('GET', prefix .. 'drain:' .. name)}}
    end
  end
  return found, odd
end
"""

# ARGV: the keys of runs as JSON, the names of fields as JSON; only reads. Answers in JSON of each run the values, empty
# for what is not there; 0 where there is no run, 1 where it can't be read.
RUNS = (
    LOOK
    + f"""
local names, spent, all = cjson.decode(ARGV[2]), {{}}, {{}}
for i, key in ipairs(cjson.decode(ARGV[1])) do
  local held, answer = 'listpack', 0
  if is_hosts(key) then held = held_in(key) end
  if held and held ~= 'listpack' then
    local fit, used = fits('HLEN', {FIELDS_AT_MOST}, key, {RUN_AT_MOST})
    local host = string.match(key, '^hf:h:([^:]*)')
    if fit then spent[host] = (spent[host] or 0) + used end
    if not fit or spent[host] > {HOST_AT_MOST} then answer = 1 end
  end
  if held and answer == 0 then
    local values, some = look(false, 'HMGET', key, unpack(names)), false
    for at = 1, values and #names or 0 do
      some = some or values[at]
      values[at] = values[at] or ''
    end
    answer = not values and 1 or some and values or 0
  end
  all[i] = answer
end
return cjson.encode(all)
"""
)
