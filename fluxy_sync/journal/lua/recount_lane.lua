#!lua flags=allow-oom
-- recount_lane: make all that is known of a lane anew from its records. Only while nobody else uses the journal: it
-- looks at the whole lane at once. The counts of the whole journal follow by recount.
-- KEYS[20] the lane   KEYS[21] what became later of operations that were found again: id -> another record, or 'gone'
-- ARGV[1] lane   [2] the longest claim, ms
-- Returns {operations, bytes, held 0|1, when the newest one was accepted (journal ms)}.
local lane, key, CHANGES, claim_ms = ARGV[1], KEYS[LANE_KEYS + 1], KEYS[LANE_KEYS + 2], tonumber(ARGV[2])
local OUT = '' -- no record is empty
local JUST_MS = 5000
local seen, out, tombstones, operations, bytes, newest = {}, 0, 0, 0, 0, 0
local has_changes = redis.call('EXISTS', CHANGES) == 1

local function put_right(record, head, index)
  local change = has_changes and not head.broken and redis.call('HGET', CHANGES, head.id)
  if (change == 'gone' or seen[head.id]) and not head.broken then
    redis.call('LSET', key, index, OUT)
    return nil
  end
  if not change or change == record then return record, head end
  redis.call('LSET', key, index, change)
  return change, parse(change)
end

local function visit(record, index)
  local head = parse(record)
  record, head = put_right(record, head, index)
  if not record then
    out = out + 1
    return
  end
  seen[head.id] = true
  if head.cancelled then
    tombstones = tombstones + 1
  else
    note_size(lane, record)
    operations, bytes = operations + 1, bytes + #record
  end
  if not head.broken then
    newest = math.max(newest, head.accepted)
    -- Whoever wasn't told that it was accepted asks again: its id must be known, whatever became of that. By the time
    -- that was last written down; where that was damaged, nothing is near it: all ids of a large journal are too many.
    if math.abs(head.accepted - book.read_now) <= JUST_MS then redis.call('SADD', RECENT, head.id) end
  end
end

redis.call('SREM', LARGE, lane)
local at = 0
repeat
  local _
  _, at = scan(lane, key, at, SCAN_RECORDS, visit)
until at < 0
if out > 0 then redis.call('LREM', key, 0, OUT) end

redis.call('HDEL', CANCELLED, lane)
if tombstones > 0 then redis.call('HSET', CANCELLED, lane, int(tombstones)) end
local head = head_of(lane, key)
while head and head.cancelled do head = head_of(lane, key) end
note_oldest(lane, head)
if not head then redis.call('HDEL', RETRIES, lane) end

local claim = claim_of(lane)
if claim and head and not is_held(lane) then
  -- Its holder may be alive, and sending.
  local ends = tonumber(redis.call('ZSCORE', READY, lane) or book.now)
  redis.call('ZADD', READY, int(math.min(ends, book.now + claim_ms)), lane)
else
  settle_down(lane, head)
end
return { operations, bytes, is_held(lane) and 1 or 0, newest }
