"""What is noted beside the runs, as Lua, each atomic: evidence, upkeep, fences, the reaper's pulse, another name."""

from __future__ import annotations

from shared.ledger.look import IDS_AT_MOST, LOOK

_NAME_AT_MOST = 1200  # bytes of a source's name

# KEYS: pulse. ARGV: ms without a look after which leases that ran out are spared, ms for which they are.
# Answers 1 where they are spared now. Not twice in a row: somebody may look less often than that.
PULSE = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local at, spare = unpack(redis.call('HMGET', KEYS[1], 'at', 'spare'))
redis.call('HSET', KEYS[1], 'at', now)
if spare then
  if now < tonumber(spare) then return 1 end
  redis.call('HDEL', KEYS[1], 'spare')
  return 0
end
if at and now - at > tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'spare', now + ARGV[2])
  return 1
end
return 0
"""

# ARGV: the realm's prefix, a source, its new name. Answers a run of it that is not over, or nothing.
# What is known under the new name is newer, and stays. What a host's agent has made something else is left where it is
RENAME = (
    LOOK
    + f"""
local prefix, old, new = ARGV[1], ARGV[2], ARGV[3]
for _, id in ipairs((open_ids(prefix))) do
  if text({_NAME_AT_MOST}, prefix .. 'run:' .. id, 'source') == old then return id end
end
local history, renamed = prefix .. 'history:' .. old, prefix .. 'history:' .. new
for _, id in ipairs((listed(history, 0, -1))) do
  local run = prefix .. 'run:' .. id
  if redis.call('EXISTS', run) == 1 then redis.pcall('HSET', run, 'source', new) end
  redis.pcall('RPUSH', renamed, id)
end
local left = redis.call('PTTL', history)
if left > 0 and redis.call('PTTL', renamed) < left then redis.call('PEXPIRE', renamed, left) end
for _, what in ipairs({{'evidence:', 'upkeep:'}}) do
  local known = entries('HLEN', {IDS_AT_MOST}, 'HGETALL', prefix .. what .. old) or {{}}
  for i = 1, #known, 2 do redis.pcall('HSETNX', prefix .. what .. new, known[i], known[i + 1]) end
  redis.call('UNLINK', prefix .. what .. old)
end
local counts = prefix .. 'counts'
local uploaded = digits(text(15, counts, 'uploaded|' .. old))
if uploaded then redis.pcall('HINCRBY', counts, 'uploaded|' .. new, uploaded) end
redis.pcall('HDEL', counts, 'uploaded|' .. old)
redis.call('UNLINK', history, prefix .. 'backups:' .. old)
return ''
"""
)

# KEYS: evidence. ARGV: site, slot of a snapshot, slot of a full one, each may be empty. Slots only grow; texts compare
# as times. Answers 0 where a host's agent has made it something else
EVIDENCE = (
    LOOK
    + """
if look(-1, 'HLEN', KEYS[1]) < 0 then return 0 end
for i, name in ipairs({ARGV[1] .. '|last', ARGV[1] .. '|full'}) do
  local slot = ARGV[i + 1]
  if slot ~= '' and slot > (text(20, KEYS[1], name) or '') then redis.call('HSET', KEYS[1], name, slot) end
end
return 1
"""
)

# KEYS: upkeep. ARGV: site, kind of upkeep, its slot, exit code, a figure. Says "<at> <good> <code> <figure>":
# when it was done last, when it was done and all was well, each in seconds, 0 for never
UPKEEP = """
local name = ARGV[1] .. '|' .. ARGV[2]
if ARGV[3] < (redis.call('HGET', KEYS[1], name) or '') then return 0 end
local now = redis.call('TIME')[1]
local good = string.match(redis.call('HGET', KEYS[1], name .. '|said') or '', '^%d+ (%d+)') or '0'
if ARGV[4] == '0' then good = now end
redis.call('HSET', KEYS[1], name, ARGV[3], name .. '|said', now .. ' ' .. good .. ' ' .. ARGV[4] .. ' ' .. ARGV[5])
return 1
"""

# KEYS: fenced. ARGV: id and the engine's process
LOCK_LEFT = """
local t = redis.call('TIME')
return redis.call('ZADD', KEYS[1], t[1] * 1000 + math.floor(t[2] / 1000), ARGV[1])
"""

# KEYS: fenced. ARGV: who was fenced, the time of that as it was read. A later fence stays
UNFENCE = (
    LOOK
    + """
if tonumber(look(false, 'ZSCORE', KEYS[1], ARGV[1]) or '-1') == tonumber(ARGV[2]) then
  return redis.call('ZREM', KEYS[1], ARGV[1])
end
return 0
"""
)

# KEYS: fenced. ARGV: how many at most. Answers Redis's clock, those that were fenced first with their times in turn,
# and how many entries are none: a run's id, or that, a colon and a process
FENCED = (
    LOOK
    + f"""
local found, odd = {{}}, 0
local said = entries('ZCARD', {IDS_AT_MOST}, 'ZRANGE', KEYS[1], 0, ARGV[1] - 1, 'WITHSCORES')
if not said then said, odd = {{}}, 1 end
for i = 1, #said, 2 do
  local id, pid = string.match(said[i], '^(%x+):?(%d*)$')
  local at = digits(said[i + 1])
  if id and is_id(id) and #pid < 10 and at then
    found[#found + 1] = said[i]
    found[#found + 1] = at
  else
    odd = odd + 1
  end
end
return {{redis.call('TIME'), found, odd}}
"""
)
