"""The changes of an upload's state, as scripts that Redis runs whole or not at all.

An upload is a hash with the fields of :class:`~hmacfs.uploads.state.UploadRecord` and the lease's *holder*. The lease
itself is a key that Redis lets lapse by its own clock. For each status there is a shelf: a sorted set of uids by their
expiry.

Answers are one string: ``ok``, ``ok <record>`` (JSON of what HGETALL gives), or a word that says why not. More than one
string would cost more: txredisapi takes a turn of the reactor for each.
"""

from __future__ import annotations

from typing import Final

# All keys have one hash tag, so that they are on one node of a cluster. KEYS and ARGV begin alike in all of these.
_COMMON: Final = """
local rec, lease = KEYS[1], KEYS[2]
local shelves = {active = KEYS[3], complete = KEYS[4], failed = KEYS[5]}
local uid, channel = ARGV[1], ARGV[2]
local epoch, holder, lease_ms = ARGV[3], ARGV[4], ARGV[5]

local function answer(word)
  return word .. ' ' .. cjson.encode(redis.call('HGETALL', rec))
end

local function over()
  local at = redis.call('HMGET', rec, 'epoch', 'holder')
  if not at[1] then return 'unknown' end
  if at[1] ~= epoch or at[2] ~= holder then return 'fenced' end
end

local function hold()
  redis.call('SET', lease, holder, 'PX', lease_ms)
end

local function keep(status, expires, keep_ms)
  redis.call('PEXPIRE', rec, keep_ms)
  for name, shelf in pairs(shelves) do
    if name == status then redis.call('ZADD', shelf, expires, uid) else redis.call('ZREM', shelf, uid) end
  end
end

local function set(from)
  redis.call('HSET', rec, unpack(ARGV, from))
end
"""

CREATE: Final = (
    _COMMON
    + """
if redis.call('EXISTS', rec) == 1 then
  return answer(redis.call('HGET', rec, 'holder') == holder and 'ok' or 'there')
end
set(8)
redis.call('HSET', rec, 'holder', holder)
keep('active', ARGV[6], ARGV[7])
hold()
return answer('ok')
"""
)

GET: Final = _COMMON + "return redis.call('EXISTS', rec) == 1 and answer('ok') or 'unknown'"

ACQUIRE: Final = (
    _COMMON
    + """
local steal, attempt = ARGV[6], ARGV[7]
local at = redis.call('HMGET', rec, 'epoch', 'holder', 'status')
if not at[1] then return 'unknown' end
if at[2] ~= holder then
  if at[2] ~= '' then redis.call('PUBLISH', channel, at[1] .. ' ' .. uid) end
  if steal == '0' and redis.call('EXISTS', lease) == 1 then return 'busy ' .. at[2] end
  redis.call('HINCRBY', rec, 'epoch', 1)
  redis.call('HSET', rec, 'holder', holder)
  if at[3] == 'active' then redis.call('HINCRBY', rec, 'attempts_without_progress', attempt) end
end
hold()
return answer('ok')
"""
)

COMMIT: Final = (
    _COMMON
    + """
local offset, expires, keep_ms = ARGV[6], ARGV[7], ARGV[8]
local out = over()
if out then return out end
local at = redis.call('HMGET', rec, 'status', 'offset', 'total')
if at[1] ~= 'active' then return 'fenced' end
local before, after, total = tonumber(at[2]), tonumber(offset), tonumber(at[3])
if after < before or (total and after > total) then return 'offset ' .. at[2] end
set(9)
if after > before then redis.call('HSET', rec, 'attempts_without_progress', 0) end
keep('active', expires, keep_ms)
hold()
return 'ok'
"""
)

RENEW: Final = _COMMON + "local out = over() if out then return out end hold() return 'ok'"

RELEASE: Final = (
    _COMMON + "if not over() then redis.call('HSET', rec, 'holder', '') redis.call('DEL', lease) end return 'ok'"
)

# The holder stays named, so that the same call made again is known for what it is.
FINISH: Final = (
    _COMMON
    + """
local size, expires, keep_ms = ARGV[6], ARGV[7], ARGV[8]
local out = over()
if out then return out end
local at = redis.call('HMGET', rec, 'status', 'offset', 'total')
if at[1] == 'failed' then return 'fenced' end
if tonumber(size) < tonumber(at[2]) or (at[3] ~= '' and size ~= at[3]) then return 'offset ' .. at[2] end
set(9)
keep('complete', expires, keep_ms)
redis.call('DEL', lease)
return 'ok'
"""
)

FAIL: Final = (
    _COMMON
    + """
local expires, keep_ms = ARGV[6], ARGV[7]
local out = over()
if out then return out end
if redis.call('HGET', rec, 'status') == 'complete' then return 'fenced' end
set(8)
keep('failed', expires, keep_ms)
redis.call('DEL', lease)
return 'ok'
"""
)

RESTART: Final = (
    _COMMON
    + """
local expires, keep_ms = ARGV[6], ARGV[7]
local out = over()
if out then return out end
set(8)
keep('active', expires, keep_ms)
hold()
return answer('ok')
"""
)

DISCARD: Final = (
    _COMMON
    + """
if over() == 'fenced' then return 'fenced' end
keep('', 0, 0)
redis.call('DEL', rec, lease)
return 'ok'
"""
)

# A record that Redis dropped by itself leaves its uid on the shelf, until somebody comes by.
EXPIRED: Final = """
local found = {}
for _, shelf in ipairs(KEYS) do
  for _, uid in ipairs(redis.call('ZRANGEBYSCORE', shelf, '-inf', '(' .. ARGV[2], 'LIMIT', 0, ARGV[3])) do
    local record = redis.call('HGETALL', ARGV[1] .. uid)
    if #record == 0 then redis.call('ZREM', shelf, uid) else found[#found + 1] = record end
  end
end
return cjson.encode(found)
"""

UNFINISHED: Final = """
local scanned, found = redis.call('ZSCAN', KEYS[1], ARGV[2], 'COUNT', ARGV[3]), {}
for i = 1, #scanned[2], 2 do
  local record = redis.call('HGETALL', ARGV[1] .. scanned[2][i])
  if #record > 0 then found[#found + 1] = record end
end
return cjson.encode({scanned[1], found})
"""

KNOWN: Final = """
local generations = {}
for i, rec in ipairs(KEYS) do generations[i] = redis.call('HGET', rec, 'generation') end
return cjson.encode(generations)
"""

COUNTS: Final = """
local counts = {}
for i, shelf in ipairs(KEYS) do counts[i] = redis.call('ZCARD', shelf) end
return cjson.encode(counts)
"""
