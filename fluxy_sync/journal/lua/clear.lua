#!lua flags=allow-oom
-- clear: take operations off the front of a lane, whatever they wait for. One call takes a part. A claim stays with
-- its deadline: the lane reopens when its holder finds its head gone, so that nothing overtakes what is in flight.
-- KEYS[20] the lane   ARGV[1] lane   [2] most records
-- Returns {operations taken, records taken, tombstones included}.
expect(2, { [2] = 0 })
expect_lane(ARGV[1], KEYS[LANE_KEYS + 1])
local lane, key, most = ARGV[1], KEYS[LANE_KEYS + 1], tonumber(ARGV[2])
local taken, seen, bytes, tombstones, step, most_at_once = 0, 0, 0, 0, 1, scan_step(lane)
most = math.min(most, 500)
while seen < most and bytes < SCAN_BYTES do
  local records = redis.call('LPOP', key, math.min(step, most - seen)) or {}
  if #records == 0 then break end
  for _, record in ipairs(records) do
    local head = parse(record, true)
    head.record = record
    seen, bytes = seen + 1, bytes + #record
    if head.cancelled then
      tombstones = tombstones + 1
    else
      leave(lane, head)
      taken = taken + 1
    end
  end
  step = next_step(most_at_once, bytes, seen)
end
if tombstones > 0 then forget_tombstones(lane, tombstones) end
if seen > 0 then
  local head = advance(lane, key)
  unhold(lane, key, is_heads_own)
  if in_flight(lane) then
    local claim = claim_of(lane)
    write_claim(lane, claim.fence, 0, claim.holder) -- what killed workers is gone
  else
    settle_down(lane, head)
  end
  bump('cancelled_total', taken)
  commit()
end
return { taken, seen }
