"""The transitions as Lua, each atomic. Time is Redis's own, read inside the script, in milliseconds.

KEYS are always: the run, `open`, and where named: `ledger`, `counter`, `recent`, `packs`.
A run's hash holds `token` and `lease` (until, ms) only while it is claimed or running.
"""

from __future__ import annotations

_NOW = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""

# The holder's door: answers `unknown` or `lost` to everyone but the holder. ARGV[1] is the token.
_HOLDER = (
    _NOW
    + """
local state, token = unpack(redis.call('HMGET', KEYS[1], 'state', 'token'))
if not state then return 'unknown' end
if token ~= ARGV[1] then return 'lost' end
"""
)

# ARGV: id, ms until it is rung again, then field and value, ...
OPEN = (
    _NOW
    + """
local state = redis.call('HGET', KEYS[1], 'state')
if not state then
  redis.call('HSET', KEYS[1], 'id', ARGV[1], 'state', 'queued', 'opened', now, 'attempt', 0, 'rings', 1,
             unpack(ARGV, 3))
  redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
  return 'opened'
end
if state == 'failed' then
  if now < tonumber(redis.call('HGET', KEYS[1], 'retry') or '0') then return 'waits' end
  redis.call('HSET', KEYS[1], 'state', 'queued', 'rings', 1)
  redis.call('HDEL', KEYS[1], 'ended', 'retry')
  redis.call('PERSIST', KEYS[1])
  redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
  return 'reopened'
end
if state == 'queued' or state == 'claimed' or state == 'running' then return 'joined' end
return 'done'
"""
)

# KEYS: run, open, ledger, counter. ARGV: id, owner, lease in ms, an id for a ledger that has none, the former token
CLAIM = (
    _NOW
    + """
local state, token, lease = unpack(redis.call('HMGET', KEYS[1], 'state', 'token', 'lease'))
if not state then return {'unknown', '', 0} end
if state ~= 'queued' and state ~= 'claimed' and state ~= 'running' then return {'done', '', 0} end
local mine = token and token == ARGV[5]
if token and not mine and tonumber(lease) > now then return {'held', '', 0} end
if not mine then
  redis.call('SET', KEYS[3], ARGV[4], 'NX')
  token = redis.call('GET', KEYS[3]) .. ':' .. redis.call('INCR', KEYS[4])
  redis.call('HINCRBY', KEYS[1], 'attempt', 1)
  redis.call('HSET', KEYS[1], 'state', 'claimed', 'token', token, 'owner', ARGV[2], 'started', now)
  redis.call('HDEL', KEYS[1], 'progress')
end
redis.call('HSET', KEYS[1], 'lease', now + ARGV[3])
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
return {'claimed', token, tonumber(redis.call('HGET', KEYS[1], 'attempt'))}
"""
)

# ARGV: token, id, lease in ms, progress as JSON or empty, a state (claimed or running)
RENEW = (
    _HOLDER
    + """
redis.call('HSET', KEYS[1], 'lease', now + ARGV[3], 'state', ARGV[5])
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'progress', ARGV[4]) end
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[2])
return 'renewed'
"""
)

# ARGV: token, id, ms until it is rung again, what went wrong or empty
RELEASE = (
    _HOLDER
    + """
redis.call('HSET', KEYS[1], 'state', 'queued', 'rings', 1)
redis.call('HDEL', KEYS[1], 'token', 'lease', 'progress')
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'error', ARGV[4]) end
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[2])
return 'released'
"""
)

# KEYS: run, open, recent, packs. ARGV: token, id, state, result as JSON, error, exit code, pause in ms before a failed
# slot is opened again, ms for which the run is remembered, length of `recent`
FINISH = (
    _NOW
    + """
local state, token, by = unpack(redis.call('HMGET', KEYS[1], 'state', 'token', 'finisher'))
if not state then return 'unknown' end
if state ~= 'queued' and state ~= 'claimed' and state ~= 'running' then
  return by == ARGV[1] and 'finished' or 'done'
end
if token ~= ARGV[1] then return 'lost' end
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'result', ARGV[4], 'error', ARGV[5], 'exit_code', ARGV[6],
           'ended', now, 'retry', now + ARGV[7], 'finisher', ARGV[1])
redis.call('HDEL', KEYS[1], 'token', 'lease')
redis.call('PEXPIRE', KEYS[1], ARGV[8])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('LREM', KEYS[3], 1, ARGV[2])
redis.call('LPUSH', KEYS[3], ARGV[2])
redis.call('LTRIM', KEYS[3], 0, ARGV[9] - 1)
if ARGV[3] ~= 'failed' then redis.call('DEL', KEYS[4]) end
return 'finished'
"""
)

# ARGV: id, ms until a run that was just rung is rung again (doubled at each ring), at most this many ms.
# Answers 1 where the run is to be rung now.
REAP = (
    _NOW
    + """
local state, lease, rings = unpack(redis.call('HMGET', KEYS[1], 'state', 'lease', 'rings'))
if state == 'claimed' or state == 'running' then
  if tonumber(lease) > now then
    redis.call('ZADD', KEYS[2], lease, ARGV[1])
    return 0
  end
  redis.call('HSET', KEYS[1], 'state', 'queued', 'rings', 1, 'error', 'its worker stopped answering')
  redis.call('HDEL', KEYS[1], 'token', 'lease', 'progress')
  redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
  return 1
end
if state == 'queued' then
  if tonumber(redis.call('ZSCORE', KEYS[2], ARGV[1]) or '0') > now then return 0 end
  rings = redis.call('HINCRBY', KEYS[1], 'rings', 1)
  redis.call('ZADD', KEYS[2], now + math.min(ARGV[2] * 2 ^ (rings - 1), ARGV[3]), ARGV[1])
  return 1
end
redis.call('ZREM', KEYS[2], ARGV[1])
return 0
"""
)

# KEYS: evidence. ARGV: site, slot of a snapshot, slot of a full one or empty. Slots only grow; texts compare as times
EVIDENCE = """
for i, name in ipairs({ARGV[1] .. '|last', ARGV[1] .. '|full'}) do
  local slot = ARGV[i + 1]
  if slot ~= '' and slot > (redis.call('HGET', KEYS[1], name) or '') then
    redis.call('HSET', KEYS[1], name, slot)
  end
end
return 1
"""
