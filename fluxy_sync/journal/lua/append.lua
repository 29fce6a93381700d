#!lua
-- append: accept operations, all or none, each once.
-- KEYS[20..]  the lanes, each once
-- ARGV[1] command id   [2] '1' if this may be a repeat of a command whose reply was lost
-- ARGV[3] max pending (0: no bound)   [4] max bytes of memory (0: no bound)   [5] max pending of one lane (0: no bound)
-- ARGV[6] 'reject'|'drop_oldest', when full   [7] ids to remember   [8] wake's time to live, ms   [9] once's window, ms
-- ARGV[10..] per operation: see accept()
-- Returns {'ok', won the wake token 0|1, operations dropped for these, then for each whose once key is taken: its
--          position, the first operation's id, its lane},
--         {'full', 'pending'|'bytes'|'lane'} or {'refused'} (a late copy of a command that was answered 'full').
-- Without allow-oom: a full store refuses it before it begins.
expect(9, { [3] = 0, [4] = 0, [5] = 0, [7] = 1, [8] = 1, [9] = 0 }, OPERATION_WIDTH, OPERATION_NUMBERS)
expect_operations(10, LANE_KEYS, #KEYS)
local command, is_repeat, limit, wake_ms = ARGV[1], ARGV[2] == '1', tonumber(ARGV[7]), ARGV[8]
local max_pending, max_bytes, max_lane = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local drops, once_ms = ARGV[6] == 'drop_oldest', tonumber(ARGV[9])
local FIRST = 10
local RECORD_OVERHEAD, LANE_OVERHEAD, LETTER_OVERHEAD, ONCE_OVERHEAD = 60, 600, 160, 300 -- bytes

-- Which of the members are remembered: a table of 0|1.
local function known(members)
  local now, before = {}, {}
  for from = 1, #members, 1000 do
    local to = math.min(from + 999, #members)
    for _, found in ipairs(redis.call('SMISMEMBER', RECENT, unpack(members, from, to))) do now[#now + 1] = found end
    for _, found in ipairs(redis.call('SMISMEMBER', RECENT_OLD, unpack(members, from, to))) do
      before[#before + 1] = found
    end
  end
  for i, found in ipairs(before) do now[i] = now[i] + found end
  return now
end

local answer, fresh, named, onces, bytes = { 'ok', 0, 0 }, {}, {}, {}, 0
local members = { command }
for at = FIRST, #ARGV, OPERATION_WIDTH do members[#members + 1] = ARGV[at + 2] end
local remembered = known(members)
if remembered[1] > 0 then return { 'refused' } end

-- The first operation with that once key: one that is in the journal, or an earlier one of these.
local function taken(once)
  if once == '' then return nil end
  if onces[once] then return onces[once].id, onces[once].lane end
  return first_of(once)
end

local lanes, order = {}, {} -- number -> how many come, and what must be dropped; the same as they are named
for at = FIRST, #ARGV, OPERATION_WIDTH do
  local position, number, lane, id, once = (at - FIRST) / OPERATION_WIDTH, tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2], ARGV[at + 6]
  if remembered[position + 2] == 0 and not named[id] then
    named[id] = true
    local first, first_lane = taken(once)
    if first then
      answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = position, first, first_lane
    else
      if once ~= '' then onces[once] = { id = id, lane = lane } end
      fresh[#fresh + 1] = at
      if not lanes[number] then
        lanes[number] = { name = lane, key = KEYS[LANE_KEYS + number], come = 0, drop = 0 }
        order[#order + 1] = lanes[number]
      end
      lanes[number].come = lanes[number].come + 1
      bytes = bytes + #ARGV[at + 7] + #id + 10
    end
  end
end
if #fresh == 0 then return answer end

-- What the store needs beside the records (measured): without it a full memory would stop the broker, too.
local function overhead(dropped)
  return (book.pending + #fresh) * RECORD_OVERHEAD + (redis.call('ZCARD', OLDEST) + #KEYS - LANE_KEYS) * LANE_OVERHEAD
    + (redis.call('HLEN', DEAD) + dropped) * LETTER_OVERHEAD + redis.call('HLEN', ONCE) * ONCE_OVERHEAD
end

-- Plan how many of which lane must go, before anything is written. Gives what is full nevertheless, or nil.
local function plan()
  local dropped = 0
  if max_lane > 0 or drops then
    for _, lane in ipairs(order) do
      local there = waiting(lane.name, lane.key)
      lane.may_go = drops and there - (in_flight(lane.name) and there > 0 and 1 or 0) or 0
      lane.drop = max_lane > 0 and math.max(0, there + lane.come - max_lane) or 0
      if drops then lane.drop = math.min(lane.drop, lane.come) end -- one over its limit only doesn't grow
      if lane.drop > lane.may_go then return 'lane' end
      dropped = dropped + lane.drop
    end
  end
  local over = max_pending > 0 and book.pending + #fresh - dropped - max_pending or 0
  if drops then over = math.min(over, #fresh - dropped) end
  for _, at in ipairs(fresh) do
    if over <= 0 then break end
    local lane = lanes[tonumber(ARGV[at])]
    if drops and lane.drop < lane.may_go then
      lane.drop, dropped, over = lane.drop + 1, dropped + 1, over - 1
    end
  end
  if over > 0 then return 'pending' end
  -- A dropped operation is kept as a dead letter: that frees no memory.
  if max_bytes > 0 and book.bytes + bytes + overhead(dropped) > max_bytes then return 'bytes' end
  return nil
end

local full = plan()
if full then
  -- The first copy may still be on its way: it must not land after the caller was told that nothing was accepted.
  if is_repeat then redis.call('SADD', RECENT, command) end
  return { 'full', full }
end

-- The oldest one that nobody may be sending: the head, or the one behind it.
local function drop_oldest(lane)
  local flying = in_flight(lane.name) and redis.call('LPOP', lane.key)
  local record, head = nil, nil
  repeat
    record = redis.call('LINDEX', lane.key, 0)
    head = parse(record)
    if head.cancelled then redis.call('LPOP', lane.key); forget_tombstones(lane.name, 1) end
  until not head.cancelled
  head.record = record
  local halts = bury(lane.name, lane.key, head, 'dropped', '')
  redis.call('LPOP', lane.key)
  if flying then
    redis.call('LPUSH', lane.key, flying)
  else
    local next_head = advance(lane.name, lane.key)
    unhold(lane.name, lane.key, is_heads_own)
    settle_down(lane.name, next_head)
  end
  if halts then hold(lane.name, lane.key, 0, halts) end
  bump('dropped_total', 1)
end

for _, lane in ipairs(order) do
  for _ = 1, lane.drop do drop_oldest(lane) end
  answer[3] = answer[3] + lane.drop
end
local due = false
for _, at in ipairs(fresh) do
  local became_due = accept(at, LANE_KEYS, once_ms)
  due = due or became_due
end
if redis.call('SCARD', RECENT) >= limit then
  redis.call('UNLINK', RECENT_OLD)
  redis.call('RENAME', RECENT, RECENT_OLD)
end
if due then answer[2] = win_wake(wake_ms) end
commit()
return answer
