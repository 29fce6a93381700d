#!lua flags=allow-oom
-- page: what stands in a stretch of a lane, without the sealed parts.
-- KEYS[20] the lane   ARGV[1] lane   [2] index to begin at   [3] id of the record before that, or '' at the front:
--   heads that left meanwhile are seen by it   [4] most records
-- Returns {index to go on at (-1: the end), id of the record before that, journal ms, head in flight 0|1,
--          the head's retry state or '', then per operation: its index, the length of its record, its clear part and the key's id}
expect(4, { [2] = 0, [4] = 0 })
expect_lane(ARGV[1], KEYS[LANE_KEYS + 1])
local lane, key, from, before = ARGV[1], KEYS[LANE_KEYS + 1], tonumber(ARGV[2]), ARGV[3]
local most = math.min(tonumber(ARGV[4]), SCAN_RECORDS)
local KEY_ID_BYTES = 4

-- Where the operation after `before` stands now: heads may have left since, so it moved to the front.
if before ~= '' and from > 0 then
  local length = redis.call('LLEN', key)
  local found, stopped = scan_back(lane, key, math.min(from, length) - 1 - length, function(record, index)
    return parse(record, true).id == before and index + 1 or nil
  end)
  if not found and stopped < 0 then most = 0 end -- the next call looks for it from there
  from = found or (stopped < 0 and length + stopped + 1 or 0) -- rather repeated than left out
end

local answer = { -1, before, book.now, in_flight(lane) and 1 or 0, redis.call('HGET', RETRIES, lane) or '' }
local _, goes_on = scan(lane, key, from, most, function(record, index)
  local head = parse(record, true)
  answer[2] = head.id
  if not head.cancelled then
    local size = #answer
    answer[size + 1], answer[size + 2] = index, #record
    answer[size + 3] = string.sub(record, 1, math.min(#record, head.clear + KEY_ID_BYTES))
  end
  return nil
end)
answer[1] = goes_on
return answer
