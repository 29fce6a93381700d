-- Shared by every script, behind the prelude: what happens to lanes, and to the operations in them.

-- --- lanes

local function is_held(lane) return redis.call('HEXISTS', HELD, lane) == 1 end

-- The operations in a lane.
local function waiting(lane, key)
  return redis.call('LLEN', key) - number(redis.call('HGET', CANCELLED, lane), 0)
end

local function forget_tombstones(lane, count)
  if add(CANCELLED, lane, -count) <= 0 then redis.call('HDEL', CANCELLED, lane) end
end

local function note_oldest(lane, head)
  if head then
    redis.call('ZADD', OLDEST, int(head.accepted), lane)
  else
    redis.call('ZREM', OLDEST, lane)
    redis.call('SREM', LARGE, lane)
  end
end

local function note_size(lane, record)
  if #record > LARGE_BYTES then redis.call('SADD', LARGE, lane) end
end

local function scan_step(lane) return redis.call('SISMEMBER', LARGE, lane) == 1 and SCAN_STEP_LARGE or SCAN_STEP end

-- Drop tombstones from the front; give the head that stands there then, or nil. Of a great many, some are left: then
-- the head is a tombstone, for which the lane is looked at again.
local function head_of(lane, key)
  local dropped = 0
  while true do
    local record = redis.call('LINDEX', key, 0)
    local head = record and parse(record) or nil
    if head then head.record = record end
    if not head or not head.cancelled or dropped == SCAN_RECORDS then
      if dropped > 0 then
        forget_tombstones(lane, dropped)
        note_oldest(lane, head)
      end
      return head
    end
    redis.call('LPOP', key)
    dropped = dropped + 1
  end
end

-- The head has changed: forget its retry state, and note since when the next one waits.
local function advance(lane, key)
  redis.call('HDEL', RETRIES, lane)
  local head = head_of(lane, key)
  note_oldest(lane, head)
  return head
end

-- When an unclaimed lane with this head may be claimed.
local function due_at(lane, head) return math.max(book.now, head.due, retry_of(lane, head.id).at) end

-- Put an unclaimed lane where it belongs: due, waiting for its head's time, held, or nowhere.
local function settle_down(lane, head)
  redis.call('HDEL', CLAIMS, lane)
  if not head or is_held(lane) then
    redis.call('ZREM', READY, lane)
  else
    redis.call('ZADD', READY, int(due_at(lane, head)), lane)
  end
end

-- --- after an outage: the lanes that wait for their backoff are brought forward, some in each call

local FORWARD_AFTER = 3 -- failures in a row
local FORWARD_JITTER_MS, FORWARD_SOME = 1000, 50

-- The first delivery after failures. A head that failed first in a time of deliveries is itself at fault: it stays.
local function note_delivery()
  if book.streak >= FORWARD_AFTER then
    book.forward = math.min(book.forward or book.delivered_at, book.delivered_at)
    redis.call('HSET', COUNTS, 'forward', int(book.forward), 'forward_at', '0')
  end
  book.streak, book.delivered_at = 0, book.now
end

local function bring_forward(lane, state)
  local since, floor, id = string.match(state, '^%d+ (%d+) (%d+) %d+ %S+ (.*)$')
  if not since or tonumber(since) < book.forward or claim_of(lane) or redis.call('HEXISTS', HELD, lane) == 1 then return end
  local jitter = tonumber(string.sub(redis.sha1hex(lane .. int(book.now)), 1, 6), 16) % FORWARD_JITTER_MS
  local at = math.max(tonumber(floor), book.now + jitter)
  local retry = retry_of(lane, id)
  if at >= retry.at then return end
  retry.at = at
  write_retry(lane, id, retry)
  redis.call('ZADD', READY, 'XX', int(at), lane)
end

local function bring_some_forward()
  if not book.forward then return end
  local cursor = scan_at(redis.call('HGET', COUNTS, 'forward_at'))
  local goes_on, found = unpack(redis.call('HSCAN', RETRIES, cursor, 'COUNT', FORWARD_SOME))
  for i = 1, #found, 2 do bring_forward(found[i], found[i + 1]) end
  if goes_on == '0' then
    redis.call('HDEL', COUNTS, 'forward', 'forward_at')
    book.forward = nil
  else
    redis.call('HSET', COUNTS, 'forward_at', goes_on)
  end
end

-- --- held lanes: '<offered again at, ms; 0: never> <why>', one line for each cause

local function causes_of(lane)
  local causes = {}
  local lines = redis.call('HGET', HELD, lane)
  for line in string.gmatch(lines == '' and '?' or lines or '', '[^\n]+') do
    local at, why = string.match(line, '^(%d+) (.+)$')
    causes[#causes + 1] = { at = tonumber(at or 1), why = why or 'damaged' } -- that one is over at once
  end
  return causes
end

-- Causes as they are counted: a dead letter's id isn't part of that.
local function names_of(causes)
  local names = {}
  for _, cause in ipairs(causes) do names[string.match(cause.why, '^(halted):') or cause.why] = true end
  return names
end

-- `before`: the names of those that were there. Lanes are counted for each.
local function write_causes(lane, before, causes)
  local after, lines = names_of(causes), {}
  for name in pairs(after) do
    if not before[name] then add(WHY, name, 1) end
  end
  for name in pairs(before) do
    if not after[name] and add(WHY, name, -1) <= 0 then redis.call('HDEL', WHY, name) end
  end
  for i, cause in ipairs(causes) do lines[i] = int(cause.at) .. ' ' .. cause.why end
  if #lines == 0 then redis.call('HDEL', HELD, lane) else redis.call('HSET', HELD, lane, table.concat(lines, '\n')) end
end

-- Hold a lane. One that is claimed leaves `ready` when its claim ends. True where that changed something.
local function hold(lane, key, at, why)
  local causes = causes_of(lane)
  local before = names_of(causes)
  for _, cause in ipairs(causes) do
    if cause.why == why then cause.at = at; write_causes(lane, before, causes); return false end
  end
  if #causes == 0 then book.held = book.held + waiting(lane, key) end
  causes[#causes + 1] = { at = at, why = why }
  write_causes(lane, before, causes)
  if not claim_of(lane) then redis.call('ZREM', READY, lane) end
  return true
end

-- Take causes away, those for which `ends(cause)` holds; the lane goes on when none is left. True where one went.
local function unhold(lane, key, ends)
  local causes, left = causes_of(lane), {}
  for _, cause in ipairs(causes) do
    if not ends(cause) then left[#left + 1] = cause end
  end
  if #left == #causes then return false end
  write_causes(lane, names_of(causes), left)
  if #left == 0 then
    book.held = book.held - waiting(lane, key)
    if not claim_of(lane) then settle_down(lane, head_of(lane, key)) end
  end
  return true
end

-- A hold that is the head's own fault goes with that head.
local HEADS_OWN = { credentials = true, key = true, task = true, ['worker-error'] = true }
local function is_heads_own(cause) return HEADS_OWN[string.match(cause.why, '^[^:]+')] == true end

local function hex(text)
  return (string.gsub(text, '.', function(c) return string.format('%02x', string.byte(c)) end))
end

-- --- once: a key names the first operation while it waits, and for a window after it left by any way
-- Value: window (6, ms) | lane length (1) | lane | id

-- Window, lane and id; nil where it was damaged.
local function read_once(once)
  local value = redis.call('HGET', ONCE, once)
  if not value or #value < 7 then return nil end
  local window, length = struct.unpack('>I6B', value)
  return window, string.sub(value, 8, 7 + length), string.sub(value, 8 + length)
end

local function leave_once(head)
  if not head.once then return end
  local window, _, id = read_once(head.once)
  if id ~= head.id then return end -- another one has the key by now
  redis.call('ZADD', ONCE_ENDS, int(book.now + window), head.once)
end

-- The id and lane of the first operation with that key, or nil where its time is over.
local function first_of(once)
  local window, lane, id = read_once(once)
  local ends = tonumber(redis.call('ZSCORE', ONCE_ENDS, once) or book.now + 1)
  if not window or ends <= book.now then return nil end
  return id, lane
end

local function enter_once(once, window_ms, lane, id)
  redis.call('HSET', ONCE, once, struct.pack('>I6Bc0', window_ms, #lane, lane) .. id)
  redis.call('ZREM', ONCE_ENDS, once)
end

-- --- operations come and go

-- Put a record at the end of a lane; true where that made its lane due (the caller may then wake somebody).
local function push(lane, key, head, record)
  local length = redis.call('RPUSH', key, record)
  book.pending = book.pending + 1
  book.bytes = book.bytes + #record
  note_size(lane, record)
  if length == 1 then redis.call('ZADD', OLDEST, 'NX', int(head.accepted), lane) end
  if is_held(lane) then book.held = book.held + 1; return false end
  if length > 1 then return false end
  local at = math.max(book.now, head.due)
  return redis.call('ZADD', READY, 'NX', int(at), lane) == 1 and at == book.now
end

-- An operation's arguments, from ARGV[at] on: lane number (1 = the first of `lane_keys`), lane, id, countdown ms,
-- expires ms, '1' to halt its lane if it dies, once ('' or 16 bytes), sealed
local OPERATION_WIDTH = 8
local OPERATION_NUMBERS = { [1] = 1, [4] = 0, [5] = 0 }

-- The same, checked: `last` is the index of the last lane's key.
local function expect_operations(from, lane_keys, last)
  for at = from, #ARGV, OPERATION_WIDTH do
    local number_of_key = lane_keys + tonumber(ARGV[at])
    insist(number_of_key <= last, 'key', at)
    expect_lane(ARGV[at + 1], KEYS[number_of_key])
    expect_id(ARGV[at + 2])
    insist(#ARGV[at + 6] == 0 or #ARGV[at + 6] == 16, 'once', at)
    insist(#ARGV[at + 7] > 0, 'sealed', at)
  end
end

local function accept(at, lane_keys, once_ms)
  local lane, id, once = ARGV[at + 1], ARGV[at + 2], ARGV[at + 6]
  local countdown_ms, expires_ms = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local head = {
    id = id, accepted = book.now, due = countdown_ms > 0 and book.now + countdown_ms or 0,
    expires = expires_ms > 0 and book.now + expires_ms or 0, halt = ARGV[at + 5] == '1', replays = 0,
  }
  if once ~= '' then
    head.once = once
    enter_once(once, once_ms, lane, id)
  end
  redis.call('SADD', RECENT, id)
  return push(lane, KEYS[lane_keys + tonumber(ARGV[at])], head, build(head, ARGV[at + 7]))
end

-- An operation is taken out of its lane: the counts follow, and its once window starts.
local function leave(lane, head)
  book.pending = book.pending - 1
  book.bytes = book.bytes - #head.record
  if is_held(lane) then book.held = book.held - 1 end
  leave_once(head)
end

-- The next dead letter's place among them.
local function next_position()
  local position = add(COUNTS, 'dead_seq', 1)
  if position > 1 then return position end
  local last = redis.call('ZRANGE', DEAD_INDEX, -1, -1, 'WITHSCORES')[2] -- where the number was damaged
  return last and add(COUNTS, 'dead_seq', last - position + 1) or position
end

-- Why a dead letter is one that was never accepted: REFUSED of record.py.
local function never_accepted(reason) return reason == 'unsealed' or reason == 'misplaced' or reason == 'invalid' end

-- Move a dead letter aside, so that another one can take its field. It keeps its number.
local function set_aside(field, value)
  local position = redis.call('ZSCORE', DEAD_INDEX, field) or int(next_position())
  redis.call('HDEL', DEAD, field)
  redis.call('ZREM', DEAD_INDEX, field)
  redis.call('HSET', DEAD, field .. '\n' .. position, value)
  redis.call('ZADD', DEAD_INDEX, position, field .. '\n' .. position)
end

local function read_letter(value)
  local whole, lane, reason, retries, died, detail, at = pcall(struct.unpack, '>Bc0Bc0I4I6I4c0', value)
  if not whole then -- damaged: it can only be dropped
    return { lane = '', reason = 'corrupt', retries = 0, died = 0, detail = '', record = '' }
  end
  return { lane = lane, reason = reason, retries = retries, died = died, detail = detail, record = string.sub(value, at) }
end

-- Move a record to the dead letters, which count against MAX_BYTES; the caller takes it out of its lane.
-- Value: lane length (1) | lane | reason length (1) | reason | retries (4) | died (6, wall ms) | detail length (4)
--        | detail | record
local function bury(lane, key, head, reason, detail)
  local retries = retry_of(lane, head.id).count
  local value = struct.pack('>Bc0Bc0I4I6I4c0', #lane, lane, #reason, reason, retries, book.wall, #detail, detail) .. head.record
  local field, position = head.id, next_position()
  local earlier = redis.call('HGET', DEAD, field)
  if earlier and head.broken then
    field, earlier = field .. '\n' .. int(position), nil -- its id may be damaged: it must not take another's place
  elseif earlier and never_accepted(read_letter(earlier).reason) then
    set_aside(field, earlier) -- whoever sent that chose this id: neither may replace the other
    earlier = nil
  end
  if earlier then
    book.bytes = book.bytes - #earlier
  else
    bump('dead', 1)
  end
  redis.call('HSET', DEAD, field, value)
  redis.call('ZADD', DEAD_INDEX, int(position), field)
  leave(lane, head)
  book.bytes = book.bytes + #value
  bump('dead_total', 1)
  if has(head.flags or 0, FLAG_HALT) and not head.broken then return 'halted:' .. hex(head.id) end
  return nil
end

-- Take the head of a lane to the dead letters; gives the next head.
local function bury_head(lane, key, head, reason, detail)
  local halts = bury(lane, key, head, reason, detail)
  redis.call('LPOP', key)
  if halts then hold(lane, key, 0, halts) end
  return advance(lane, key)
end

-- A dead letter goes: to its lane again, or for good. The lane that waited for it goes on.
local function exhume(id, value, lane, key)
  redis.call('HDEL', DEAD, id)
  redis.call('ZREM', DEAD_INDEX, id)
  bump('dead', -1)
  book.bytes = book.bytes - #value
  local why = 'halted:' .. hex(id)
  unhold(lane, key, function(cause) return cause.why == why end)
end

-- --- looking at a lane's records in stretches
-- `visit(record, index)` sees each, and ends the look by returning something. Gives that, or nil and where to go on.

local function next_step(most, bytes, seen)
  return math.max(1, math.min(most, math.floor(SCAN_BYTES / 4 / (bytes / seen + 1))))
end

-- From the tail towards the head, from a negative index: heads that leave meanwhile don't move that, and what is
-- appended only repeats a little.
local function scan_back(lane, key, from, visit)
  local length = redis.call('LLEN', key)
  local at, seen, bytes, step, most = length + from, 0, 0, 1, scan_step(lane)
  while at >= 0 and seen < SCAN_RECORDS and bytes < SCAN_BYTES do
    local first = math.max(0, at - step + 1)
    local records = redis.call('LRANGE', key, first, at)
    if #records == 0 then break end
    for i = #records, 1, -1 do
      bytes = bytes + #records[i]
      local found = visit(records[i], first + i - 1)
      if found then return found end
    end
    seen, at = seen + #records, first - 1
    step = next_step(most, bytes, seen)
  end
  return nil, at < 0 and 0 or at - length
end

-- From the head towards the tail, at most `most` records. Where to go on is -1 at the lane's end.
local function scan(lane, key, from, most, visit)
  local at, seen, bytes, step, most_at_once = from, 0, 0, 1, scan_step(lane)
  while seen < most and bytes < SCAN_BYTES do
    local wanted = math.min(step, most - seen)
    local records = redis.call('LRANGE', key, at, at + wanted - 1)
    for i, record in ipairs(records) do
      bytes = bytes + #record
      local found = visit(record, at + i - 1)
      if found then return found end
    end
    seen, at = seen + #records, at + #records
    if #records < wanted then return nil, -1 end
    step = next_step(most_at_once, bytes, seen)
  end
  return nil, at
end

