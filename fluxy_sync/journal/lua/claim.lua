#!lua flags=allow-oom
-- claim: give one worker the lane that has been due longest, and a run of its first operations.
-- The only script that names a key by itself: it finds its lane in `ready` and builds the lane's key from a prefix
-- with the same hash tag, so that it stays in the slot of the declared keys.
-- ARGV[1] holder ('<incarnation> <pid>')   [2] the claim's length, ms   [3] most operations   [4] most bytes
-- ARGV[5] prefix of the lanes' keys   [6] takeovers that kill the head   [7] wake's time to live, ms
-- ARGV[8] an epoch, used if the journal has none yet   [9] '1' from a flush that starts: its wake token is used up
-- Returns {'none', gate, ms until a lane comes due or -1}
--      or {'run', lane, fence, the claim's length ms, retries of the head, call a helper 0|1, journal ms, epoch, record...}
local holder, length_ms, most, most_bytes, prefix = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local poison, wake_ms = tonumber(ARGV[6]), ARGV[7]

local buried = false

-- The lane that is due, and its head; buries a head that killed too many workers.
local function take()
  for _ = 1, 16 do
    local first = redis.call('ZRANGE', READY, 0, 0, 'WITHSCORES')
    local lane, score = first[1], tonumber(first[2] or 0)
    if not lane then return nil, -1 end
    if score > book.now then return nil, score - book.now end
    local key, claim = prefix .. lane, claim_of(lane)
    local head, takeovers = head_of(lane, key), claim and claim.takeovers + 1 or 0
    if head and (head.broken or takeovers >= poison) then
      bury(lane, head, head.broken and 'corrupt' or 'killed-its-worker', retries_of(lane, head.id), '')
      redis.call('LPOP', key)
      buried = true
      settle_down(lane, advance(lane, key)) -- the next one may be damaged, too: it is looked at in its turn
    elseif head and head.due <= book.now then
      return lane, key, head, takeovers
    else
      settle_down(lane, head)
    end
  end
  return nil, 0
end

if ARGV[9] == '1' then redis.call('DEL', WAKE) end
local state, opens_in = gate()
if state ~= 'open' then return { 'none', state, -1 } end
if opens_in > 0 then return { 'none', state, opens_in } end
local lane, key, head, takeovers = take()
if not lane then
  if buried then commit() end
  return { 'none', state, key }
end

local fence = redis.call('HINCRBY', COUNTS, 'fence', 1)
write_claim(lane, fence, takeovers, holder)
redis.call('ZADD', READY, int(book.now + length_ms), lane)
redis.call('HSETNX', COUNTS, 'epoch', ARGV[8])

local answer = {
  'run', lane, fence, length_ms, retries_of(lane, head.id), 0, book.now, redis.call('HGET', COUNTS, 'epoch'), head.record,
}
local bytes, at, step, whole = #head.record, 1, 1, true
while whole and at < most and bytes < most_bytes do
  local records = redis.call('LRANGE', key, at, math.min(at + step, most) - 1)
  if #records == 0 then break end
  for _, record in ipairs(records) do
    local next_head = parse(record)
    if next_head.broken or next_head.due > book.now or bytes + #record > most_bytes then whole = false; break end
    if not next_head.cancelled then
      answer[#answer + 1] = record
      bytes = bytes + #record
    end
  end
  at, step = at + step, step * 2
end

if redis.call('ZCOUNT', READY, '-inf', int(book.now)) > 0 then answer[6] = win_wake(wake_ms) end
commit()
return answer
