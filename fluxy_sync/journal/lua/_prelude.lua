-- Shared by every script: the names of the keys, journal time, counters, records, the gate and claims. The loader puts
-- it in front of each script, and `_lanes.lua` behind it.
--
-- KEYS[1..19], in this order in every script:
--   counts ready claims retries held oldest dead dead:index gate wake events pulse recent recent:old cancelled
--   once once:ends held:why large
-- KEYS[20..] the lanes that a script names, where it names any.
local COUNTS, READY, CLAIMS, RETRIES, HELD, OLDEST = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local DEAD, DEAD_INDEX, GATE, WAKE, EVENTS, PULSE = KEYS[7], KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local RECENT, RECENT_OLD, CANCELLED, ONCE, ONCE_ENDS, WHY = KEYS[13], KEYS[14], KEYS[15], KEYS[16], KEYS[17], KEYS[18]
local LARGE = KEYS[19]
local LANE_KEYS = 19

local FORMAT = '\1'
local FLAG_DUE, FLAG_EXPIRES, FLAG_CANCELLED, FLAG_HALT, FLAG_ONCE, FLAG_REPLAYED = 1, 2, 4, 8, 16, 32
local FARTHEST_MS = 100 * 365 * 86400 * 1000 -- nothing is put off for longer: such a time is damaged
local MAX_STEP_MS = 5000 -- no call advances journal time further than this
local SOON_MS = 1000 -- a flush that is woken so early tells its worker's steward when to wake it again
local TRIAL_MS = 30000 -- while the gate is unauthorized, one head is let through this often
local NOBODY = '- -' -- the holder of a claim that was taken from a dead one

-- What one call may look at: it must not hold the store for more than 10 ms. So many are read at once: how large a
-- record is can't be known before it is read.
local SCAN_RECORDS, SCAN_BYTES = 500, 1024 * 1024
local SCAN_STEP, SCAN_STEP_LARGE = 128, 4 -- the second on a lane that has had a large record since it was last empty
local LARGE_BYTES = 16 * 1024

local int = tostring -- exact for whole numbers below 10^14, and all here are

-- A number of the store, or what stands for it where it was damaged: one such value must not stop everything.
local function number(text, otherwise)
  local found = tonumber(text or nil)
  return found and math.abs(found) < 1e15 and found or otherwise
end

-- Where a scan goes on, or its beginning where that was damaged.
local function scan_at(text) return text and string.find(text, '^%d+$') and #text < 20 and text or '0' end

-- Add to a whole number of a hash; gives what it is then. One that was damaged begins anew.
local function add(key, field, by)
  local found = redis.pcall('HINCRBY', key, field, int(by))
  if type(found) == 'table' or math.abs(found) >= 1e14 then
    found = by
    redis.call('HSET', key, field, int(found))
  end
  return found
end

-- Checks come before writes: the arguments that a script takes, else an error. `count` of them; `numbers`: index -> the
-- least that it may be; then groups of `width` until the end, `each` with its index in a group -> the least.
local function is_whole(text, least) return string.find(text, '^%-?%d+$') and #text <= 14 and tonumber(text) >= least end

local function insist(holds, what, at)
  if not holds then error('wrong arguments: ' .. what .. ' ' .. tostring(at or #ARGV), 0) end
end

local function expect(count, numbers, width, each)
  local more = #ARGV - count
  insist(more == 0 or (width and more > 0 and more % width == 0), 'so many')
  for at, least in pairs(numbers) do insist(is_whole(ARGV[at], least), 'number', at) end
  if more == 0 then return end
  for from = count, #ARGV - 1, width do
    for at, least in pairs(each) do insist(is_whole(ARGV[from + at], least), 'number', from + at) end
  end
end

-- A lane's name goes with its key; an id is as `pack_id` of record.py makes it.
local LANES = string.sub(COUNTS, 1, -7) .. 'lane:'
local function expect_lane(lane, key) insist(#lane <= 255 and LANES .. lane == key, 'lane') end
local function expect_id(id)
  local length = string.byte(id) or 0
  insist(#id == 1 + (length == 0 and 16 or length) and not (length > 0 and string.find(id, '[^!-~]', 2)), 'id')
end
local function expect_reason(reason) insist(#reason <= 255 and string.find(reason, '^%S+$'), 'reason') end

-- What almost every script reads: once here, changed in memory, written once by save(). The other counters are
-- bumped where they change.
local book = redis.call('HMGET', COUNTS, 'now', 'rev', 'pending', 'bytes', 'held', 'streak', 'delivered_at', 'forward')
book = {
  read_now = number(book[1] or 1),
  rev = number(book[2], 0), pending = number(book[3], 0), bytes = number(book[4], 0),
  held = number(book[5], 0), -- operations on held lanes
  streak = number(book[6], 0), -- counted retries since the last delivery
  delivered_at = number(book[7], 0), -- the last delivery, 0 for none
  forward = number(book[8]), -- lanes that failed first after this are being brought forward
}
if not book.read_now or book.read_now < 1 then -- damaged: no later than what comes due first, or that would sleep
  book.read_now = math.max(1, math.floor(number(redis.call('ZRANGE', READY, 0, 0, 'WITHSCORES')[2], 1)))
end
do
  local t = redis.call('TIME')
  book.wall = t[1] * 1000 + math.floor(t[2] / 1000) -- to be shown only: it may be years off, and leap
end

-- Journal time. Each call ends with two arguments that are no script's own: the caller's machine, and what its clock
-- says, ms since its boot, on which no correction of the wall clock shows. Journal time is that clock plus an offset,
-- kept for each machine from its first call on; of several machines the one that is ahead counts. So a claim lasts as
-- long here as by its holder's clock. After a silence a call gives MAX_STEP_MS at most, and the rest counts for
-- nobody: what ends in journal time doesn't end because nobody looked.
insist(#ARGV >= 2 and is_whole(ARGV[#ARGV], 0), 'clock')
local host_ms, CLOCK = tonumber(table.remove(ARGV)), 'clock ' .. table.remove(ARGV)
local CLOCKS = 64 -- each boot of a machine is another one

local function set_clock()
  redis.set_repl(redis.REPL_NONE) -- past the AOF: after a restart each begins anew
  if redis.call('HLEN', PULSE) > CLOCKS then
    local clocks = {}
    for _, field in ipairs(redis.call('HKEYS', PULSE)) do
      if string.find(field, '^clock ') then clocks[#clocks + 1] = field end
    end
    if #clocks >= CLOCKS then redis.call('HDEL', PULSE, unpack(clocks, 1, math.min(#clocks, 1000))) end
  end
  redis.call('HSET', PULSE, CLOCK, int(book.now - host_ms))
  redis.set_repl(redis.REPL_ALL)
end

do
  local offset = number(redis.call('HGET', PULSE, CLOCK))
  book.lag = book.read_now - (offset or book.read_now - host_ms) - host_ms -- how far this clock is behind
  book.now = book.read_now + math.max(0, math.min(MAX_STEP_MS, -book.lag))
  if not offset or book.lag < -MAX_STEP_MS then set_clock() end
end

local function bump(name, by) add(COUNTS, name, by) end

local function save()
  redis.call('HSET', COUNTS, 'now', int(book.now), 'rev', int(book.rev),
    'pending', int(book.pending), 'bytes', int(book.bytes), 'held', int(book.held), 'streak', int(book.streak),
    'delivered_at', int(book.delivered_at))
end

-- The end of every transition: counters, then the hint to whoever listens (never the truth, so by pcall and last).
local function commit()
  book.rev = book.rev + 1
  save()
  redis.pcall('PUBLISH', EVENTS, int(book.rev))
end

-- A record: format (1) | id length (1; 0: the 16 bytes of a UUID) | id | flags (1) | accepted (6, ms)
--           | due (6, ms, if flagged) | expires (6, ms, if flagged) | once (16, if flagged) | replays (2, if flagged)
--           | check (2) | sealed
-- Everything before `sealed` is its clear part. The check finds any single damaged byte of it: a weighted sum modulo
-- a prime that is larger than each weight and each byte. It is no seal: who can write here can compute it, too.
local function check_of(clear)
  local sum, rest = 0, 1
  for i = 1, #clear - 7, 8 do -- eight in one call, since each transition comes through here
    local a, b, c, d, e, f, g, h = string.byte(clear, i, i + 7)
    sum = sum + i * (a + b + c + d + e + f + g + h) + b + 2 * c + 3 * d + 4 * e + 5 * f + 6 * g + 7 * h
    rest = i + 8
  end
  for i = rest, #clear do sum = sum + i * string.byte(clear, i) end
  return struct.pack('>I2', sum % 65521)
end

local function has(flags, flag) return flags % (2 * flag) >= flag end

-- The clear part of a record. `broken`: it can't be read, or can't be true; only a tombstone is nothing but that.
-- With `lightly` the check is left out: a run's records are looked at again when they become the head.
local function parse(record, lightly)
  local length = string.byte(record, 2) or 0
  local is_text = length > 0
  if not is_text then length = 16 end
  local at = 3 + length -- of the flags
  local flags = string.byte(record, at) or 0
  local head = { id = string.sub(record, 2, at - 1), flags = flags, due = 0, expires = 0, replays = 0 }
  local ends = at + 6
  if has(flags, FLAG_DUE) then ends = ends + 6 end
  if has(flags, FLAG_EXPIRES) then ends = ends + 6 end
  if has(flags, FLAG_ONCE) then ends = ends + 16 end
  if has(flags, FLAG_REPLAYED) then ends = ends + 2 end
  head.clear = ends + 2 -- its length
  head.cancelled = flags == FLAG_CANCELLED
  head.broken = string.byte(record, 1) ~= 1 or #record < head.clear or head.cancelled ~= (#record == head.clear)
    or flags >= 2 * FLAG_REPLAYED or (is_text and string.find(head.id, '[^!-~]', 2) ~= nil)
  if not (head.broken or lightly) then
    head.broken = string.sub(record, ends + 1, ends + 2) ~= check_of(string.sub(record, 1, ends))
  end
  if not head.broken then
    head.accepted = struct.unpack('>I6', record, at + 1)
    at = at + 7
    if has(flags, FLAG_DUE) then
      head.due, at = struct.unpack('>I6', record, at)
      head.broken = head.due < head.accepted or head.due > head.accepted + FARTHEST_MS
    end
    if has(flags, FLAG_EXPIRES) then head.expires, at = struct.unpack('>I6', record, at) end
    if has(flags, FLAG_ONCE) then head.once, at = string.sub(record, at, at + 15), at + 16 end
    if has(flags, FLAG_REPLAYED) then head.replays = struct.unpack('>I2', record, at) end
  end
  if head.broken then head.accepted, head.due, head.cancelled = book.now, 0, false end
  return head
end

-- A record around a sealed part. `what`: id, accepted, due, expires (ms, 0 for none), halt, once (or nil), replays.
local function build(what, sealed)
  local flags, fields = 0, struct.pack('>I6', what.accepted)
  if what.due > 0 then flags = flags + FLAG_DUE; fields = fields .. struct.pack('>I6', what.due) end
  if what.expires > 0 then flags = flags + FLAG_EXPIRES; fields = fields .. struct.pack('>I6', what.expires) end
  if what.halt then flags = flags + FLAG_HALT end
  if what.once then flags = flags + FLAG_ONCE; fields = fields .. what.once end
  if what.replays > 0 then flags = flags + FLAG_REPLAYED; fields = fields .. struct.pack('>I2', what.replays) end
  local clear = FORMAT .. what.id .. string.char(flags) .. fields
  return clear .. check_of(clear) .. sealed
end

-- The same record around another sealed part.
local function reseal(record, head, sealed) return string.sub(record, 1, head.clear) .. sealed end

local function tombstone(head)
  local clear = FORMAT .. head.id .. string.char(FLAG_CANCELLED) .. struct.pack('>I6', head.accepted)
  return clear .. check_of(clear)
end

-- The gate: 'open', or why nothing may be claimed (paused before unauthorized before offline); then ms until claims
-- may begin: an open one waits for the upstream's Retry-After, an unauthorized one for its next trial.
local function gate()
  local g = redis.call('HMGET', GATE, 'paused', 'unauthorized', 'offline', 'opens_at', 'trial_at')
  local state = (g[1] and 'paused') or (g[2] and 'unauthorized') or (g[3] and 'offline') or 'open'
  -- A trial needs the link and the upstream's leave, too.
  if state == 'unauthorized' and g[3] then return state, -1 end
  local at = math.max(number(g[4], 0), state == 'unauthorized' and number(g[5], 0) or 0)
  if state == 'open' or state == 'unauthorized' then return state, math.max(0, at - book.now) end
  return state, -1
end

-- The gate as a holder must know it: 'waiting' while an open one waits.
local function gate_now()
  local state, opens_in = gate()
  return state == 'open' and opens_in > 0 and 'waiting' or state
end

-- The whole upstream waits: nothing is claimed before then.
local function put_off(ms)
  local at = number(redis.call('HGET', GATE, 'opens_at'), 0)
  if book.now + ms > at then redis.call('HSET', GATE, 'opens_at', int(book.now + ms)) end
end

-- Win the right to publish one wake token: none waits in the broker. Where that was seen to be empty, one that was to
-- be published `lost_ms` ago is lost.
local function win_wake(wake_ms, lost_ms)
  local _, opens_in = gate()
  if opens_in < 0 or opens_in > SOON_MS then return 0 end
  if lost_ms and redis.call('PTTL', WAKE) <= wake_ms - lost_ms then redis.call('DEL', WAKE) end
  return redis.call('SET', WAKE, '1', 'NX', 'PX', wake_ms) and 1 or 0
end

-- The same, where a lane is due.
local function wake_if_due(wake_ms)
  return redis.call('ZCOUNT', READY, '-inf', int(book.now)) > 0 and win_wake(wake_ms) or 0
end

local function claim_of(lane)
  local claim = redis.call('HGET', CLAIMS, lane)
  if not claim then return nil end
  local fence, takeovers, holder = string.match(claim, '^(%d+) (%d+) (.*)$')
  if not fence then return nil end -- damaged: nobody's
  return { fence = tonumber(fence), takeovers = tonumber(takeovers), holder = holder }
end

-- A fence that no claim had before: where the number was damaged, one of a new epoch.
local function next_fence()
  local fence = add(COUNTS, 'fence', 1)
  if fence > 1 then return fence end
  local highest = 0
  for _, lane in ipairs(redis.call('HKEYS', CLAIMS)) do
    local claim = claim_of(lane)
    if claim then highest = math.max(highest, claim.fence) end
  end
  redis.call('HDEL', COUNTS, 'epoch')
  return add(COUNTS, 'fence', highest - fence + 1)
end

local function write_claim(lane, fence, takeovers, holder)
  redis.call('HSET', CLAIMS, lane, int(fence) .. ' ' .. int(takeovers) .. ' ' .. holder)
end

-- Whether somebody may be sending the lane's head: he has a claim that hasn't ended.
local function in_flight(lane)
  local claim = claim_of(lane)
  return claim ~= nil and claim.holder ~= NOBODY and tonumber(redis.call('ZSCORE', READY, lane) or 0) > book.now
end

-- Retry state: '<retries> <first failure> <not before, by the upstream> <next try> <reason> <id>', times in ms of
-- journal time; it counts only while that id is the head.
local function retry_of(lane, id)
  local state = redis.call('HGET', RETRIES, lane)
  if state then
    local count, since, floor, at, reason, owner = string.match(state, '^(%d+) (%d+) (%d+) (%d+) (%S+) (.*)$')
    if owner == id then
      return { count = tonumber(count), since = tonumber(since), floor = tonumber(floor), at = tonumber(at), reason = reason }
    end
  end
  return { count = 0, since = book.now, floor = 0, at = 0, reason = '-' }
end

local function write_retry(lane, id, retry)
  redis.call('HSET', RETRIES, lane, table.concat({
    int(retry.count), int(retry.since), int(retry.floor), int(retry.at), retry.reason, id }, ' '))
end
