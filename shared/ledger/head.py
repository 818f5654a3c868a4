"""What begins each transition of `scripts`: its arguments, and the steps that several of them have in common."""

from __future__ import annotations

from shared.ledger.look import FIELDS_AT_MOST, IDS_AT_MOST, LOOK, RUN_AT_MOST

# Invariant: a transition of a run in a host's realm takes a bounded time, whatever that host's agent has written there.
# Where it stands on what no Holdfast writes it fails, or says `unread`, and has changed nothing but that realm.
STEPS = f"""
local run, open = KEYS[1], KEYS[2]
local prefix, id = ARGV[1], ARGV[2]
local args = {{unpack(ARGV, 7)}}
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)

local function is_final(state)
  return state ~= 'queued' and state ~= 'claimed' and state ~= 'running' and state ~= 'waiting'
end

-- Whether the run is none yet, or no larger than any that Holdfast writes.
local function is_sound()
  if not is_hosts(run) then return true end
  local held = held_in(run)
  return not held or held == 'listpack' or (fits('HLEN', {FIELDS_AT_MOST}, run, {RUN_AT_MOST}))
end

-- The ids in a set; of one that is larger than any that Holdfast makes, none.
local function members(key) return (ids(entries('SCARD', {IDS_AT_MOST}, 'SMEMBERS', key))) end

-- A run that was cut: when none of its shards is to be done any more it is queued, and rung for. Whether it is.
local function wake(parent)
  local key = prefix .. 'run:' .. parent
  if text(30, key, 'state') ~= 'waiting' then return false end
  for _, shard in ipairs(members(key .. ':children')) do
    local at = text(30, prefix .. 'run:' .. shard, 'state')
    if at and not is_final(at) then return false end
  end
  redis.call('HSET', key, 'state', 'queued', 'rings', 1)
  redis.call('ZADD', open, now, parent)
  return true
end

-- An attempt is over: note it, and take its lease away.
local function attempt_over(ended, why)
  local number, owner, started, noted = unpack(redis.call('HMGET', run, 'attempt', 'owner', 'started', 'attempts'))
  local list = noted and cjson.decode(noted) or {{}}
  list[#list + 1] = {{tonumber(number), owner, tonumber(started), tonumber(ended), why}}
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
  if state ~= 'failed' then redis.call('UNLINK', run .. ':packs') end
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
  if is_hosts(history) and not fits('LLEN', {IDS_AT_MOST}, history) then redis.call('UNLINK', history) end
  while redis.call('LLEN', history) > tonumber(ARGV[5]) do
    local old = prefix .. 'run:' .. redis.call('RPOP', history)
    redis.call('UNLINK', old, old .. ':packs', old .. ':children')
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
  if is_sound() then cancel_by(who) end
  run, id = own_run, own_id
end
"""

HEAD = LOOK + STEPS

# For whoever is not the run's holder.
SOUND = "if not is_sound() then return 'unread' end\n"

# The holder's door: answers `unknown` or `lost` to everyone but the holder. args[1] is the token.
HOLDER = (
    HEAD
    + """
local state, token, cancel = unpack(redis.call('HMGET', run, 'state', 'token', 'cancel'))
if not state then return 'unknown' end
if token ~= args[1] then return 'lost' end
"""
)
