"""The transitions as Lua, each atomic. Time is Redis's own, read inside the script, in milliseconds.

KEYS are always: the run, `open`. Other keys of the realm are named from its prefix: Redis Cluster, which alone would
mind, can't carry Celery's queues either.
ARGV are always: the realm's prefix, the run's id, ms for which an ended run is remembered, lengths of `recent` and of a
source's history, attempts that are kept; then each script's own, in `args`.
A run's hash holds `token` and `lease` (until, ms) only while it is claimed or running, and `cancel` (who asked) only
while that and when it is over; `began` (ms) once it was cut; a shard's `lost`: how often it was done in vain.
"""

from __future__ import annotations

from shared.ledger.head import HEAD, HOLDER, SOUND, STEPS
from shared.ledger.look import LOOK

# args: ms until it is rung again, the parent's id or empty, the source of a backup or empty, which backup of its source
# it joins (`any`, one of a kind, or empty for none), then field and value, ...
# Answers `joined` and an id where it joined another run.
# A slot that is opened again is what the request says now: its queue or its policy's attempts may have changed
_OPEN = (
    STEPS
    + SOUND
    + """
local state = redis.call('HGET', run, 'state')
local backups = prefix .. 'backups:' .. args[3]
if args[4] ~= '' and (not state or state == 'failed') then
  for _, other in ipairs(members(backups)) do
    local key = prefix .. 'run:' .. other
    local at, kind = text(30, key, 'state'), text(30, key, 'kind')
    local cancel = redis.call('HEXISTS', key, 'cancel') == 1
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
  local history = prefix .. 'history:' .. redis.call('HGET', run, 'source')
  redis.call('LTRIM', prefix .. 'recent', 0, ARGV[4] - 1)
  redis.call('LTRIM', history, 0, ARGV[5] - 1)
  redis.call('LREM', prefix .. 'recent', 0, id)
  redis.call('LREM', history, 0, id)
  if args[3] ~= '' then redis.call('SADD', backups, id) end
  return 'reopened'
end
return is_final(state) and 'done' or 'joined'
"""
)
OPEN = LOOK + _OPEN

# ARGV: KEYS and ARGV of each run's OPEN as JSON. Answers in JSON what OPEN says to each; `unread` where what lies in a
# host's realm makes that impossible. What Redis refuses for itself (it is full, or a replica) ends it.
OPEN_MANY = f"""
{LOOK}
local function one(KEYS, ARGV)
{_OPEN}
end
local said = {{}}
for i, call in ipairs(cjson.decode(ARGV[1])) do
  local fine, word = pcall(one, call[1], call[2])
  if not fine then
    local why = type(word) == 'table' and word.err or tostring(word)
    local code = string.match(why, '^%-?(%u%u+) ') or 'ERR'
    if code ~= 'WRONGTYPE' and not (is_hosts(call[1][1]) and code == 'ERR') then return redis.error_reply(why) end
    word = 'unread'
  end
  said[i] = word
end
return cjson.encode(said)
"""

# args: owner, lease in ms, an id for a ledger that has none, the former token.
# Answers: word, token, attempt, how many attempts before it died
CLAIM = (
    HEAD
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
    HOLDER
    + """
redis.call('HSET', run, 'lease', now + args[2], 'state', args[4])
if args[3] ~= '' then redis.call('HSET', run, 'progress', args[3]) end
redis.call('ZADD', open, now + args[2], id)
return cancel and 'cancel' or 'renewed'
"""
)

# args: token, ms until it is rung again, what went wrong or empty
RELEASE = (
    HOLDER
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
    HEAD
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
    HOLDER
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
for _, other in ipairs(members(children)) do
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
    HEAD
    + SOUND
    + """
local said = cancel_by(args[1])
if said ~= 'unknown' and said ~= 'done' then
  for _, shard in ipairs(members(run .. ':children')) do cancel_other(shard, args[1]) end
end
return said
"""
)

# args: ms until a run that was just rung is rung again (doubled at each ring), at most this many ms; attempts that may
# die where the run does not say (`tries`); pause in ms before a failed slot is opened again (doubled at each attempt),
# at most this many ms; 1 where a lease that ran out is to be spared.
# Answers 1 where something was done: the run is to be rung if it is queued now, and is over if not.
REAP = (
    HEAD
    + SOUND
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

# args: a state that is a good end, result as JSON. What is counted as its end stays so
AMEND = (
    HEAD
    + SOUND
    + """
local state = redis.call('HGET', run, 'state')
if not state then return 'unknown' end
if state ~= 'failed' and state ~= 'cancelled' then return 'done' end
redis.call('HSET', run, 'state', args[1], 'result', args[2])
redis.call('HDEL', run, 'error', 'exit_code', 'retry')
redis.call('UNLINK', run .. ':packs')
return 'finished'
"""
)
