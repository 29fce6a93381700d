#!lua flags=allow-oom
-- cancel: take one operation out of its lane, unless it is being sent. One call searches one stretch of the lane,
-- counted from its tail: heads that leave meanwhile don't move that, and what is appended only repeats a little.
-- KEYS[16] the lane   ARGV[1] lane   [2] id   [3] [4] the stretch, as LRANGE takes it (negative)
-- Returns {'cancelled', record}, {'sending'}, {'next'} (not in this stretch) or {'absent'} (the lane ends here).
local lane, key, id = ARGV[1], KEYS[LANE_KEYS + 1], ARGV[2]
local from, to = tonumber(ARGV[3]), tonumber(ARGV[4])
local length = redis.call('LLEN', key)
if length + to < 0 then return { 'absent' } end
local first = math.max(from, -length)

local function drop_head(head)
  redis.call('LPOP', key)
  local held = redis.call('HGET', HELD, lane)
  -- A hold that was this head's own fault ends with it.
  if held and string.find(held, ' key:', 1, true) then redis.call('HDEL', HELD, lane) end
  settle_down(lane, advance(lane, key))
end

for i, record in ipairs(redis.call('LRANGE', key, first, to)) do
  local found = parse(record)
  if found.id == id and not found.cancelled then
    local index = first + i - 1
    local at_head = index == -length
    local claim = at_head and claim_of(lane)
    if claim and claim.holder ~= '- -' then return { 'sending' } end
    book.pending = book.pending - 1
    bump('cancelled_total', 1)
    if at_head then
      book.bytes = book.bytes - #record
      drop_head(found)
    else
      redis.call('LSET', key, index, tombstone(found))
      redis.call('HINCRBY', CANCELLED, lane, 1)
      book.bytes = book.bytes - #record
    end
    commit()
    return { 'cancelled', record }
  end
end
return { first == -length and 'absent' or 'next' }
