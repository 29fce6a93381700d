#!lua flags=allow-oom
-- cancel: take one operation out of its lane, unless it is being sent. One call looks at one stretch of the lane.
-- KEYS[20] the lane   ARGV[1] lane   [2] id   [3] where to look from: -1 for the tail, then what the last call gave
-- Returns {'cancelled', record}, {'sending'}, {'next', where to look from} or {'absent'} (the lane ends here).
expect(3, { [3] = -1e14 })
expect_lane(ARGV[1], KEYS[LANE_KEYS + 1])
local lane, key, id = ARGV[1], KEYS[LANE_KEYS + 1], ARGV[2]

local function take_head(head)
  leave(lane, head)
  redis.call('LPOP', key)
  local next_head = advance(lane, key)
  -- A hold that was this head's own fault ends with it.
  unhold(lane, key, is_heads_own)
  settle_down(lane, next_head)
end

local function visit(record, index)
  local head = parse(record)
  if head.id ~= id or head.cancelled then return nil end
  if index == 0 and in_flight(lane) then return { 'sending' } end
  head.record = record
  bump('cancelled_total', 1)
  if index == 0 then
    take_head(head)
  else
    leave(lane, head)
    redis.call('LSET', key, index, tombstone(head))
    add(CANCELLED, lane, 1)
  end
  commit()
  return { 'cancelled', record }
end

local found, from = scan_back(lane, key, tonumber(ARGV[3]), visit)
return found or (from < 0 and { 'next', from } or { 'absent' })
