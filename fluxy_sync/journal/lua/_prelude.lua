-- Shared by every script: the names of the keys, journal time, the counters, and the few moves that all
-- transitions are made of. The loader puts it in front of each script.
--
-- KEYS[1..15], in this order in every script:
--   counts ready claims retries held oldest dead dead:index gate wake events pulse recent recent:old cancelled
-- KEYS[16..] the lanes that a script names, where it names any.
local COUNTS, READY, CLAIMS, RETRIES, HELD, OLDEST = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local DEAD, DEAD_INDEX, GATE, WAKE, EVENTS, PULSE = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local RECENT, RECENT_OLD, CANCELLED = KEYS[13], KEYS[14], KEYS[15]
local LANE_KEYS = 15

local FORMAT = '\1'
local FLAG_DUE, FLAG_EXPIRES, FLAG_CANCELLED = 1, 2, 4
local FARTHEST_MS = 100 * 365 * 86400 * 1000 -- nothing is put off for longer: such a time is damaged
local MAX_STEP_MS = 5000 -- journal time never advances further than this between two looks at the clock

local int = tostring -- exact for whole numbers below 10^14, and all here are

-- What almost every script reads: once here, changed in memory, written once by save(). The other counters are
-- bumped where they change.
local book = redis.call('HMGET', COUNTS, 'now', 'wall', 'rev', 'pending', 'bytes')
book = {
  read_wall = tonumber(book[2] or 0),
  now = tonumber(book[1] or 1), rev = tonumber(book[3] or 0), pending = tonumber(book[4] or 0), bytes = tonumber(book[5] or 0),
}
do
  local t = redis.call('TIME')
  book.wall = t[1] * 1000 + math.floor(t[2] / 1000)
  if book.read_wall > 0 then
    book.now = book.now + math.max(0, math.min(MAX_STEP_MS, book.wall - book.read_wall))
  end
end

local function bump(name, by) redis.call('HINCRBY', COUNTS, name, int(by)) end

local function save()
  redis.call('HSET', COUNTS, 'now', int(book.now), 'wall', int(book.wall), 'rev', int(book.rev),
    'pending', int(book.pending), 'bytes', int(book.bytes))
end

-- The end of every transition: counters, then the hint to whoever listens (never the truth, so by pcall and last).
local function commit()
  book.rev = book.rev + 1
  save()
  redis.pcall('PUBLISH', EVENTS, int(book.rev))
end

-- A record: format (1) | id length (1; 0: the 16 bytes of a UUID) | id | flags (1) | accepted (6, ms)
--           | due (6, ms, if flagged) | expires (6, ms, if flagged) | sealed
local function parse(record)
  local length = string.byte(record, 2) or 0
  local is_text = length > 0
  if not is_text then length = 16 end
  local at = 3 + length -- of the flags
  local head = { id = string.sub(record, 2, at - 1), flags = string.byte(record, at) or 0, due = 0 }
  local ends = at + 6
  if head.flags % 2 >= FLAG_DUE then ends = ends + 6 end
  if head.flags % 4 >= FLAG_EXPIRES then ends = ends + 6 end
  -- Damaged: its clear part can't be read, or can't be true. Only a tombstone is nothing but a clear part.
  head.broken = #record < ends or head.flags > FLAG_CANCELLED or (head.flags == FLAG_CANCELLED and #record > ends)
    or (is_text and string.find(head.id, '[^!-~]', 2) ~= nil)
  if not head.broken then
    head.accepted = struct.unpack('>I6', record, at + 1)
    if head.flags % 2 >= FLAG_DUE then
      head.due = struct.unpack('>I6', record, at + 7)
      head.broken = head.due < head.accepted or head.due > head.accepted + FARTHEST_MS
    end
  end
  if head.broken then head.accepted, head.due = book.now, 0 end
  head.cancelled = not head.broken and head.flags == FLAG_CANCELLED
  return head
end

local function build(id, countdown_ms, expires_ms, sealed)
  local flags, times = 0, struct.pack('>I6', book.now)
  if countdown_ms > 0 then flags = flags + FLAG_DUE; times = times .. struct.pack('>I6', book.now + countdown_ms) end
  if expires_ms > 0 then flags = flags + FLAG_EXPIRES; times = times .. struct.pack('>I6', book.now + expires_ms) end
  return FORMAT .. id .. string.char(flags) .. times .. sealed
end

-- The same record (id, times) around another sealed part.
local function reseal(record, sealed)
  local length = string.byte(record, 2)
  if length == 0 then length = 16 end
  local flags = string.byte(record, 3 + length)
  local header = 3 + length + 6
  if flags % 2 >= 1 then header = header + 6 end
  if flags % 4 >= 2 then header = header + 6 end
  return string.sub(record, 1, header) .. sealed
end

local function tombstone(head)
  return FORMAT .. head.id .. string.char(FLAG_CANCELLED) .. struct.pack('>I6', head.accepted)
end

-- The gate: 'open', or why nothing may be claimed (paused before unauthorized before offline).
local function gate()
  local g = redis.call('HMGET', GATE, 'paused', 'unauthorized', 'offline', 'opens_at')
  local state = (g[1] and 'paused') or (g[2] and 'unauthorized') or (g[3] and 'offline') or 'open'
  return state, math.max(0, tonumber(g[4] or 0) - book.now)
end

-- Win the right to publish one wake token.
local function win_wake(wake_ms)
  if gate() ~= 'open' then return 0 end
  return redis.call('SET', WAKE, '1', 'NX', 'PX', wake_ms) and 1 or 0
end

local function claim_of(lane)
  local claim = redis.call('HGET', CLAIMS, lane)
  if not claim then return nil end
  local fence, takeovers, holder = string.match(claim, '^(%d+) (%d+) (.*)$')
  return { fence = tonumber(fence), takeovers = tonumber(takeovers), holder = holder }
end

local function write_claim(lane, fence, takeovers, holder)
  redis.call('HSET', CLAIMS, lane, int(fence) .. ' ' .. int(takeovers) .. ' ' .. holder)
end

-- Retry state: '<retries> <reason> <id>'; it counts only while that id is the head.
local function retries_of(lane, id)
  local state = redis.call('HGET', RETRIES, lane)
  if not state then return 0 end
  local count, owner = string.match(state, '^(%d+) %S+ (.*)$')
  return owner == id and tonumber(count) or 0
end

-- Drop tombstones from the front; give the head that stands there then, or nil.
local function head_of(lane, key)
  while true do
    local record = redis.call('LINDEX', key, 0)
    if not record then return nil end
    local head = parse(record)
    if not head.cancelled then head.record = record; return head end
    redis.call('LPOP', key)
    if redis.call('HINCRBY', CANCELLED, lane, -1) <= 0 then redis.call('HDEL', CANCELLED, lane) end
  end
end

-- The head is gone: forget its retry state, and note since when the next one waits.
local function advance(lane, key)
  redis.call('HDEL', RETRIES, lane)
  local head = head_of(lane, key)
  if head then
    redis.call('ZADD', OLDEST, int(head.accepted), lane)
  else
    redis.call('ZREM', OLDEST, lane)
  end
  return head
end

-- Put an unclaimed lane where it belongs: due, waiting for its head's time, held, or nowhere.
local function settle_down(lane, head)
  redis.call('HDEL', CLAIMS, lane)
  if not head or redis.call('HEXISTS', HELD, lane) == 1 then
    redis.call('ZREM', READY, lane)
  else
    redis.call('ZADD', READY, int(math.max(book.now, head.due)), lane)
  end
end

-- Append one record; true where that made its lane due (the caller may then wake somebody).
local function push(lane, key, id, countdown_ms, expires_ms, sealed)
  local record = build(id, countdown_ms, expires_ms, sealed)
  local length = redis.call('RPUSH', key, record)
  book.pending = book.pending + 1
  book.bytes = book.bytes + #record
  if length > 1 then return false end
  redis.call('ZADD', OLDEST, 'NX', int(book.now), lane)
  if redis.call('HEXISTS', HELD, lane) == 1 then return false end
  local added = redis.call('ZADD', READY, 'NX', int(book.now + countdown_ms), lane)
  return added == 1 and countdown_ms == 0
end

-- Move a popped record to the dead letters, which count against MAX_BYTES.
-- Value: lane length (1) | lane | reason length (1) | reason | retries (4) | died (6, ms) | detail length (4) | detail | record
local function bury(lane, head, reason, retries, detail)
  local value = struct.pack('>Bc0Bc0I4I6I4c0', #lane, lane, #reason, reason, retries, book.now, #detail, detail) .. head.record
  local earlier = redis.call('HGET', DEAD, head.id)
  if earlier then
    book.bytes = book.bytes - #earlier
  else
    bump('dead', 1)
  end
  redis.call('HSET', DEAD, head.id, value)
  redis.call('ZADD', DEAD_INDEX, int(book.now), head.id)
  book.pending = book.pending - 1
  book.bytes = book.bytes - #head.record + #value
  bump('dead_total', 1)
end

