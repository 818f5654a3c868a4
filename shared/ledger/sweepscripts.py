"""What `sweep` asks Redis: scripts that look at many realms or sources, and change nothing."""

from __future__ import annotations

from shared.ledger.look import DUE_AT_MOST, IDS_AT_MOST, LOOK, OPEN_AT_MOST

# ARGV: prefixes of realms as JSON; only reads. Answers in JSON: the number of each realm that has something, from 0,
# the ids of its runs that are to be looked after now (some, where there are very many), whether a holder was fenced,
# and how many entries are none.
WAITING = (
    LOOK
    + f"""
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local all = {{}}
for i, prefix in ipairs(cjson.decode(ARGV[1])) do
  local most = is_hosts(prefix) and {DUE_AT_MOST} or 10000
  local due, odd = ids(entries('ZCARD', {OPEN_AT_MOST}, 'ZRANGE', prefix .. 'open', '-inf', now, 'BYSCORE',
                               'LIMIT', 0, most))
  local fenced = redis.call('EXISTS', prefix .. 'fenced')
  if #due > 0 or fenced == 1 or odd > 0 then all[#all + 1] = {{i - 1, due, fenced, odd}} end
end
return cjson.encode(all)
"""
)

# ARGV: prefixes of realms as JSON; only reads. Answers in JSON per realm: the run that ended last, when (ms), its open
# runs, and how many entries are none. What ended in a time to come has not.
HEADS = (
    LOOK
    + """
local latest = redis.call('TIME')[1] * 1000 + 86400000
local all = {}
for i, prefix in ipairs(cjson.decode(ARGV[1])) do
  local newest, odd = listed(prefix .. 'recent', 0, 0)
  local ended = '0'
  if newest[1] then
    ended = digits(text(15, prefix .. 'run:' .. newest[1], 'ended')) or '0'
    if tonumber(ended) > latest then ended, odd = '0', odd + 1 end
  end
  local open, more = open_ids(prefix)
  all[i] = {newest[1] or '', ended, open, odd + more}
end
return cjson.encode(all)
"""
)

# ARGV: keys of lists as JSON, two places; only reads. Answers in JSON the ids from one to the other of each, and how
# many entries are none.
LISTED = (
    LOOK
    + """
local all = {}
for i, key in ipairs(cjson.decode(ARGV[1])) do all[i] = {listed(key, ARGV[2], ARGV[3])} end
return cjson.encode(all)
"""
)

# ARGV: prefixes of realms as JSON, a run's id; only reads. Answers in JSON the numbers, from 0, of those that have it.
HOMES = """
local all = {}
for i, prefix in ipairs(cjson.decode(ARGV[1])) do
  if redis.call('EXISTS', prefix .. 'run:' .. ARGV[2]) == 1 then all[#all + 1] = i - 1 end
end
return cjson.encode(all)
"""

# ARGV: prefix, source and site of each as JSON, the ms after which a run waits long; only reads. Answers in JSON, four
# texts a source: the slots of its last snapshot and of its last full one there; of a backup that is not over "waits"
# where each such was not claimed for long, else "open"; the slots of its last upkeep there, by `UPKEEP`, or nothing.
SOURCES = (
    LOOK
    + f"""
local t = redis.call('TIME')
local before = t[1] * 1000 + math.floor(t[2] / 1000) - ARGV[2]
local asked = cjson.decode(ARGV[1])
local all = {{}}
for i = 1, #asked, 3 do
  local prefix, source, site = asked[i], asked[i + 1], asked[i + 2]
  local evidence = prefix .. 'evidence:' .. source
  local slots = texts(20, evidence, site .. '|last', site .. '|full')
  local kept = look({{}}, 'HMGET', 'hf:upkeep:' .. source, site .. '|forget', site .. '|prune', site .. '|verify',
                    site .. '|restore-test', site .. '|replicate')
  local done = {{}}
  for j = 1, 5 do done[j] = kept[j] or '' end
  done = table.concat(done, ' ')
  local backups = ''
  for _, id in ipairs((ids(entries('SCARD', {IDS_AT_MOST}, 'SMEMBERS', prefix .. 'backups:' .. source)))) do
    local run = texts(30, prefix .. 'run:' .. id, 'state', 'opened')
    local waits = run[1] == 'queued' and tonumber(digits(run[2]) or 0) < before
    if run[1] and not waits then backups = 'open' elseif run[1] and backups == '' then backups = 'waits' end
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
