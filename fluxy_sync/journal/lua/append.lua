#!lua
-- append: accept operations, all or none, each once.
-- KEYS[16..]  the lanes, each once
-- ARGV[1] command id   [2] '1' if this may be a repeat of a command whose reply was lost
-- ARGV[3] max pending (0: no bound)   [4] max bytes of memory (0: no bound)   [5] ids to remember   [6] wake's time to live, ms
-- ARGV[7..] per operation: lane number (1 = KEYS[16]), lane, id, countdown ms, expires ms, sealed
-- Returns {'ok', won the wake token 0|1, positions of operations that were known already...},
--         {'full', 'pending'|'bytes'} or {'refused'} (a late copy of a command that was answered 'full').
-- Without allow-oom: a full store refuses it before it begins.
local command, is_repeat, limit, wake_ms = ARGV[1], ARGV[2] == '1', tonumber(ARGV[5]), ARGV[6]
local max_pending, max_bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local FIRST, WIDTH = 7, 6
local RECORD_OVERHEAD, LANE_OVERHEAD = 60, 600 -- bytes

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

local answer, fresh, named, bytes = { 'ok', 0 }, {}, {}, 0
local members = { command }
for at = FIRST, #ARGV, WIDTH do members[#members + 1] = ARGV[at + 2] end
local remembered = known(members)
if remembered[1] > 0 then return { 'refused' } end
for at = FIRST, #ARGV, WIDTH do
  local position, id = (at - FIRST) / WIDTH, ARGV[at + 2]
  if remembered[position + 2] > 0 or named[id] then
    answer[#answer + 1] = position
  else
    named[id] = true
    fresh[#fresh + 1] = at
    bytes = bytes + #ARGV[at + 5] + #ARGV[at + 2] + 8
  end
end
if #fresh == 0 then return answer end

-- What the store needs beside the records (measured): without it a full memory would stop the broker, too.
local function overhead()
  return (book.pending + #fresh) * RECORD_OVERHEAD + (redis.call('ZCARD', OLDEST) + #KEYS - LANE_KEYS) * LANE_OVERHEAD
end

local full = (max_pending > 0 and book.pending + #fresh > max_pending and 'pending')
  or (max_bytes > 0 and book.bytes + bytes + overhead() > max_bytes and 'bytes')
if full then
  -- The first copy may still be on its way: it must not land after the caller was told that nothing was accepted.
  if is_repeat then redis.call('SADD', RECENT, command) end
  return { 'full', full }
end

local due = false
for _, at in ipairs(fresh) do
  local key = KEYS[LANE_KEYS + tonumber(ARGV[at])]
  local became_due = push(ARGV[at + 1], key, ARGV[at + 2], tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), ARGV[at + 5])
  due = due or became_due
  redis.call('SADD', RECENT, ARGV[at + 2])
end
if redis.call('SCARD', RECENT) >= limit then
  redis.call('UNLINK', RECENT_OLD)
  redis.call('RENAME', RECENT, RECENT_OLD)
end
if due then answer[2] = win_wake(wake_ms) end
commit()
return answer
