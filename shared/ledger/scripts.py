"""The transitions as Lua, each atomic. Time is Redis's own, read inside the script, in milliseconds.

KEYS are always: the run, `open`. Other keys of the realm are named from its prefix: Redis Cluster, which alone would
mind, can't carry Celery's queues either.
ARGV are always: the realm's prefix, the run's id, ms for which an ended run is remembered, lengths of `recent` and of a
source's history, attempts that are kept; then each script's own, in `args`.
A run's hash holds `token` and `lease` (until, ms) only while it is claimed or running, and `cancel` (who asked) only
while that and when it is over; `began` (ms) once it was cut; a shard's `lost`: how often it was done in vain.
"""

from __future__ import annotations

_HEAD = """
local run, open = KEYS[1], KEYS[2]
local prefix, id = ARGV[1], ARGV[2]
local args = {unpack(ARGV, 7)}
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

local function is_final(state)
  return state ~= 'queued' and state ~= 'claimed' and state ~= 'running' and state ~= 'waiting'
end

-- A run that was cut: when none of its shards is to be done any more it is queued, and rung for. Whether it is.
local function wake(parent)
  local key = prefix .. 'run:' .. parent
  if redis.call('HGET', key, 'state') ~= 'waiting' then return false end
  for _, shard in ipairs(redis.call('SMEMBERS', key .. ':children')) do
    local at = redis.call('HGET', prefix .. 'run:' .. shard, 'state')
    if at and not is_final(at) then return false end
  end
  redis.call('HSET', key, 'state', 'queued', 'rings', 1)
  redis.call('ZADD', open, now, parent)
  return true
end

-- An attempt is over: note it, and take its lease away.
local function attempt_over(ended, why)
  local number, owner, started, noted = unpack(redis.call('HMGET', run, 'attempt', 'owner', 'started', 'attempts'))
  local list = noted and cjson.decode(noted) or {}
  list[#list + 1] = {tonumber(number), owner, tonumber(started), tonumber(ended), why}
  while #list > tonumber(ARGV[6]) do table.remove(list, 1) end
  redis.call('HSET', run, 'attempts', cjson.encode(list))
  if why ~= '' then redis.call('HSET', run, 'error', why) end
  redis.call('HDEL', run, 'token', 'lease', 'progress')
end

-- A lease ran out: its holder can commit nothing more, and its repository lock is to go.
local function fence()
  attempt_over(now, 'its worker stopped answering')
  redis.call('ZADD', prefix .. 'fenced', now, id)
  return redis.call('HINCRBY', run, 'deaths', 1)
end

-- The run is over. What falls out of its source's history is forgotten. A shard is told of with its run alone.
local function final(state, why, code)
  redis.call('HSET', run, 'state', state, 'ended', now)
  if why ~= '' then redis.call('HSET', run, 'error', why) end
  if why == '' then redis.call('HDEL', run, 'error') end
  if tonumber(code) ~= 0 then redis.call('HSET', run, 'exit_code', code) end
  redis.call('HDEL', run, 'token', 'lease')
  redis.call('PEXPIRE', run, ARGV[3])
  redis.call('ZREM', open, id)
  if state ~= 'failed' then redis.call('DEL', run .. ':packs') end
  local source, kind, parent = unpack(redis.call('HMGET', run, 'source', 'kind', 'parent'))
  if kind == 'shard' then
    wake(parent or '')
    return
  end
  redis.call('LPUSH', prefix .. 'recent', id)
  redis.call('LTRIM', prefix .. 'recent', 0, ARGV[4] - 1)
  redis.call('SREM', prefix .. 'backups:' .. source, id)
  redis.call('HINCRBY', prefix .. 'counts', 'ended|' .. kind .. '|' .. state, 1)
  if state == 'failed' then redis.call('HINCRBY', prefix .. 'counts', 'error|' .. code, 1) end
  local history = prefix .. 'history:' .. source
  redis.call('LPUSH', history, id)
  redis.call('PEXPIRE', history, ARGV[3])
  while redis.call('LLEN', history) > tonumber(ARGV[5]) do
    local old = prefix .. 'run:' .. redis.call('RPOP', history)
    redis.call('DEL', old, old .. ':packs', old .. ':children')
  end
end

-- An attempt that died may have committed: the reaper looks, whatever it has found before.
local function look_for_commit()
  if tonumber(redis.call('HGET', run, 'attempt') or '0') > 0 then redis.call('ZADD', prefix .. 'fenced', now, id) end
end

local function cancelled()
  final('cancelled', 'cancelled by ' .. redis.call('HGET', run, 'cancel'), 130)
  look_for_commit()
end

-- Somebody wants the run to end: over at once where nobody works on it, else its holder is told. Says which.
local function cancel_by(who)
  local state, lease = unpack(redis.call('HMGET', run, 'state', 'lease'))
  if not state then return 'unknown' end
  if is_final(state) then return 'done' end
  redis.call('HSET', run, 'cancel', who)
  if state ~= 'queued' and state ~= 'waiting' then
    if tonumber(lease) > now then return 'asked' end
    fence()
  end
  cancelled()
  return 'cancelled'
end

-- The same for another run.
local function cancel_other(other, who)
  local own_run, own_id = run, id
  run, id = prefix .. 'run:' .. other, other
  cancel_by(who)
  run, id = own_run, own_id
end
"""

# The holder's door: answers `unknown` or `lost` to everyone but the holder. args[1] is the token.
_HOLDER = (
    _HEAD
    + """
local state, token, cancel = unpack(redis.call('HMGET', run, 'state', 'token', 'cancel'))
if not state then return 'unknown' end
if token ~= args[1] then return 'lost' end
"""
)

# args: ms until it is rung again, the parent's id or empty, the source of a backup or empty, which backup of its source
# it joins (`any`, one of a kind, or empty for none), then field and value, ...
# Answers `joined` and an id where it joined another run.
# A slot that is opened again is what the request says now: its queue or its policy's attempts may have changed
OPEN = (
    _HEAD
    + """
local state = redis.call('HGET', run, 'state')
local backups = prefix .. 'backups:' .. args[3]
if args[4] ~= '' and (not state or state == 'failed') then
  for _, other in ipairs(redis.call('SMEMBERS', backups)) do
    local at, kind, cancel = unpack(redis.call('HMGET', prefix .. 'run:' .. other, 'state', 'kind', 'cancel'))
    if not at or is_final(at) then
      redis.call('SREM', backups, other)
    elseif not cancel and (args[4] == 'any' or kind == args[4]) then
      return 'joined ' .. other
    end
  end
end
if not state then
  redis.call('HSET', run, 'id', id, 'state', 'queued', 'opened', now, 'attempt', 0, 'rings', 1, unpack(args, 5))
  redis.call('ZADD', open, now + args[1], id)
  if args[2] ~= '' then
    local children = prefix .. 'run:' .. args[2] .. ':children'
    redis.call('SADD', children, id)
    redis.call('PEXPIRE', children, ARGV[3])
  end
  if args[3] ~= '' then redis.call('SADD', backups, id) end
  return 'opened'
end
if state == 'failed' then
  local retry, ended, why, by = unpack(redis.call('HMGET', run, 'retry', 'ended', 'error', 'finisher'))
  if now < tonumber(retry or '0') then return 'waits' end
  if by then attempt_over(ended, why or '') end
  redis.call('HSET', run, 'state', 'queued', 'rings', 1)
  redis.call('HDEL', run, 'ended', 'retry', 'finisher', 'result', 'exit_code', 'tries')
  redis.call('HSET', run, unpack(args, 5))
  redis.call('PERSIST', run)
  redis.call('ZADD', open, now + args[1], id)
  redis.call('LREM', prefix .. 'recent', 0, id)
  redis.call('LREM', prefix .. 'history:' .. redis.call('HGET', run, 'source'), 0, id)
  if args[3] ~= '' then redis.call('SADD', backups, id) end
  return 'reopened'
end
return is_final(state) and 'done' or 'joined'
"""
)

# args: owner, lease in ms, an id for a ledger that has none, the former token.
# Answers: word, token, attempt, how many attempts before it died
CLAIM = (
    _HEAD
    + """
local state, token, lease, cancel = unpack(redis.call('HMGET', run, 'state', 'token', 'lease', 'cancel'))
if not state then return {'unknown', '', 0, 0} end
if is_final(state) then return {'done', '', 0, 0} end
if state == 'waiting' then return {'held', '', 0, 0} end
local kind, parent = unpack(redis.call('HMGET', run, 'kind', 'parent'))
local above = kind == 'shard' and parent and redis.call('HGET', prefix .. 'run:' .. parent, 'state')
if above and is_final(above) and not token then
  cancel_by('the end of its run')
  return {'done', '', 0, 0}
end
local mine = token and token == args[4]
if token and not mine then
  if tonumber(lease) > now then return {'held', '', 0, 0} end
  fence()
  if cancel then
    cancelled()
    return {'done', '', 0, 0}
  end
end
if not mine then
  redis.call('SET', prefix .. 'ledger', args[3], 'NX')
  token = redis.call('GET', prefix .. 'ledger') .. ':' .. redis.call('INCR', prefix .. 'counter')
  redis.call('HINCRBY', run, 'attempt', 1)
  redis.call('HSET', run, 'state', 'claimed', 'token', token, 'owner', args[1], 'started', now)
  redis.call('HDEL', run, 'progress')
end
redis.call('HSET', run, 'lease', now + args[2])
redis.call('ZADD', open, now + args[2], id)
local attempt, deaths = unpack(redis.call('HMGET', run, 'attempt', 'deaths'))
return {'claimed', token, tonumber(attempt), tonumber(deaths or '0')}
"""
)

# args: token, lease in ms, progress as JSON or empty, a state (claimed or running)
RENEW = (
    _HOLDER
    + """
redis.call('HSET', run, 'lease', now + args[2], 'state', args[4])
if args[3] ~= '' then redis.call('HSET', run, 'progress', args[3]) end
redis.call('ZADD', open, now + args[2], id)
return cancel and 'cancel' or 'renewed'
"""
)

# args: token, ms until it is rung again, what went wrong or empty
RELEASE = (
    _HOLDER
    + """
attempt_over(now, args[3])
if cancel then
  cancelled()
  return 'cancelled'
end
if args[3] ~= '' then redis.call('HINCRBY', run, 'deaths', 1) end
redis.call('HSET', run, 'state', 'queued', 'rings', 1)
redis.call('ZADD', open, now + args[2], id)
return 'released'
"""
)

# args: token, state, result as JSON or empty, error, exit code, pause in ms before a failed slot is opened again, the
# site that was asked again or empty, how often
FINISH = (
    _HEAD
    + """
local state, token, by, cancel = unpack(redis.call('HMGET', run, 'state', 'token', 'finisher', 'cancel'))
if not state then return 'unknown' end
if is_final(state) then return by == args[1] and 'finished' or 'done' end
if token ~= args[1] then return 'lost' end
redis.call('HSET', run, 'finisher', args[1])
redis.call('HDEL', run, 'progress')
if args[7] ~= '' then redis.call('HINCRBY', prefix .. 'counts', 'retries|' .. args[7], args[8]) end
if args[3] ~= '' then
  redis.call('HSET', run, 'result', args[3])
  local source, kind = unpack(redis.call('HMGET', run, 'source', 'kind'))
  local uploaded = cjson.decode(args[3]).bytes_stored
  if string.sub(kind, 1, 7) == 'backup-' and type(uploaded) == 'number' then
    redis.call('HINCRBY', prefix .. 'counts', 'uploaded|' .. source, string.format('%.0f', uploaded))
  end
end
if args[2] == 'failed' and cancel then
  cancelled()
  return 'finished'
end
if args[2] == 'failed' then redis.call('HSET', run, 'retry', now + args[6]) end
final(args[2], args[4], args[5])
if args[2] == 'cancelled' then look_for_commit() end
return 'finished'
"""
)

# args: token, ms until a shard is rung again, the shards as JSON: id, whether it is done anew where it is over (1 or
# 0), field and value, ... What the run was cut in before and is not among these is given up.
CUT = (
    _HOLDER
    + """
if cancel then
  attempt_over(now, '')
  cancelled()
  return 'cancelled'
end
local children, wanted = run .. ':children', {}
for _, shard in ipairs(cjson.decode(args[3])) do
  local other, anew, fields = unpack(shard)
  local key = prefix .. 'run:' .. other
  local at = redis.call('HGET', key, 'state')
  wanted[other] = true
  redis.call('SADD', children, other)
  if not at then
    redis.call('HSET', key, 'id', other, 'opened', now, 'attempt', 0)
  elseif anew == 1 and is_final(at) then
    if at == 'succeeded' or at == 'incomplete' then redis.call('HINCRBY', key, 'lost', 1) end
    redis.call('HDEL', key, 'ended', 'retry', 'finisher', 'result', 'exit_code', 'error', 'cancel', 'deaths')
    redis.call('PERSIST', key)
  end
  if not at or (anew == 1 and is_final(at)) then
    redis.call('HSET', key, 'state', 'queued', 'rings', 1, unpack(fields))
    redis.call('ZADD', open, now + args[2], other)
  end
end
for _, other in ipairs(redis.call('SMEMBERS', children)) do
  if not wanted[other] then
    redis.call('SREM', children, other)
    cancel_other(other, 'a new plan')
  end
end
redis.call('PEXPIRE', children, ARGV[3])
redis.call('HSETNX', run, 'began', redis.call('HGET', run, 'started'))
attempt_over(now, '')
redis.call('HSET', run, 'state', 'waiting')
redis.call('ZADD', open, now + args[2], id)
redis.call('ZADD', prefix .. 'cut', now, id)
wake(id)
return 'cut'
"""
)

# args: who asks
CANCEL = (
    _HEAD
    + """
local said = cancel_by(args[1])
if said ~= 'unknown' and said ~= 'done' then
  for _, shard in ipairs(redis.call('SMEMBERS', run .. ':children')) do cancel_other(shard, args[1]) end
end
return said
"""
)

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

# args: ms until a run that was just rung is rung again (doubled at each ring), at most this many ms; attempts that may
# die where the run does not say (`tries`); pause in ms before a failed slot is opened again (doubled at each attempt),
# at most this many ms; 1 where a lease that ran out is to be spared.
# Answers 1 where something was done: the run is to be rung if it is queued now, and is over if not.
REAP = (
    _HEAD
    + """
local state, lease, cancel = unpack(redis.call('HMGET', run, 'state', 'lease', 'cancel'))
if state == 'claimed' or state == 'running' then
  if tonumber(lease) > now then
    redis.call('ZADD', open, lease, id)
    return 0
  end
  if args[6] == '1' then return 0 end
  local deaths = fence()
  if cancel then
    cancelled()
    return 1
  end
  if deaths >= tonumber(redis.call('HGET', run, 'tries') or args[3]) then
    local pause = math.min(args[4] * 2 ^ (redis.call('HGET', run, 'attempt') - 1), args[5])
    redis.call('HSET', run, 'retry', now + pause)
    final('failed', 'given up after ' .. deaths .. ' attempts; the last: its worker stopped answering', 1)
    return 1
  end
  redis.call('HSET', run, 'state', 'queued', 'rings', 1)
  redis.call('ZADD', open, now + args[1], id)
  return 1
end
if state == 'queued' then
  if tonumber(redis.call('ZSCORE', open, id) or '0') > now then return 0 end
  local rings = redis.call('HINCRBY', run, 'rings', 1)
  redis.call('ZADD', open, now + math.min(args[1] * 2 ^ (rings - 1), args[2]), id)
  return 1
end
if state == 'waiting' then
  local woken = wake(id)
  redis.call('ZADD', open, now + args[1], id)
  return woken and 1 or 0
end
if not state or redis.call('HEXISTS', run, 'ended') == 1 then redis.call('ZREM', open, id) end
return 0  -- a state of a newer release is left alone
"""
)

# KEYS: none. ARGV: the realm's prefix, a source, its new name. Answers a run of it that is not over, or nothing.
# What is known under the new name is newer, and stays
RENAME = """
local prefix, old, new = ARGV[1], ARGV[2], ARGV[3]
for _, id in ipairs(redis.call('ZRANGE', prefix .. 'open', 0, -1)) do
  if redis.call('HGET', prefix .. 'run:' .. id, 'source') == old then return id end
end
local history, renamed = prefix .. 'history:' .. old, prefix .. 'history:' .. new
for _, id in ipairs(redis.call('LRANGE', history, 0, -1)) do
  local run = prefix .. 'run:' .. id
  if redis.call('EXISTS', run) == 1 then redis.call('HSET', run, 'source', new) end
  redis.call('RPUSH', renamed, id)
end
local left = redis.call('PTTL', history)
if left > 0 and redis.call('PTTL', renamed) < left then redis.call('PEXPIRE', renamed, left) end
for _, what in ipairs({'evidence:', 'upkeep:'}) do
  local known = redis.call('HGETALL', prefix .. what .. old)
  for i = 1, #known, 2 do redis.call('HSETNX', prefix .. what .. new, known[i], known[i + 1]) end
  redis.call('DEL', prefix .. what .. old)
end
local uploaded = redis.call('HGET', prefix .. 'counts', 'uploaded|' .. old)
if uploaded then redis.call('HINCRBY', prefix .. 'counts', 'uploaded|' .. new, uploaded) end
redis.call('HDEL', prefix .. 'counts', 'uploaded|' .. old)
redis.call('DEL', history, prefix .. 'backups:' .. old)
return ''
"""

# KEYS: evidence. ARGV: site, slot of a snapshot, slot of a full one, each may be empty. Slots only grow; texts compare
# as times
EVIDENCE = """
for i, name in ipairs({ARGV[1] .. '|last', ARGV[1] .. '|full'}) do
  local slot = ARGV[i + 1]
  if slot ~= '' and slot > (redis.call('HGET', KEYS[1], name) or '') then
    redis.call('HSET', KEYS[1], name, slot)
  end
end
return 1
"""

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

# args: a state that is a good end, result as JSON. What is counted as its end stays so
AMEND = (
    _HEAD
    + """
local state = redis.call('HGET', run, 'state')
if not state then return 'unknown' end
if state ~= 'failed' and state ~= 'cancelled' then return 'done' end
redis.call('HSET', run, 'state', args[1], 'result', args[2])
redis.call('HDEL', run, 'error', 'exit_code', 'retry')
redis.call('DEL', run .. ':packs')
return 'finished'
"""
)

# KEYS: fenced. ARGV: id and the engine's process
LOCK_LEFT = """
local t = redis.call('TIME')
return redis.call('ZADD', KEYS[1], t[1] * 1000 + math.floor(t[2] / 1000), ARGV[1])
"""

# KEYS: fenced. ARGV: who was fenced, the time of that as it was read. A later fence stays
UNFENCE = """
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '-1') == tonumber(ARGV[2]) then
  return redis.call('ZREM', KEYS[1], ARGV[1])
end
return 0
"""
