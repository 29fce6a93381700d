#!lua flags=allow-oom
-- find: whether an operation waits in a stretch of a lane, and as what.
-- KEYS[20] the lane   ARGV[1] lane   [2] id   [3] where to look from: -1 for the tail, then what the last call gave
-- Returns {'pending'|'retrying'|'syncing', record, index, journal ms, in flight 0|1, retry state or ''},
--         {'next', where to look from} or {'absent'}.
expect(3, { [3] = -1e14 })
expect_lane(ARGV[1], KEYS[LANE_KEYS + 1])
local lane, id = ARGV[1], ARGV[2]
local found, from = scan_back(lane, KEYS[LANE_KEYS + 1], tonumber(ARGV[3]), function(record, index)
  local head = parse(record, true)
  if head.id ~= id or head.cancelled then return nil end
  if index > 0 then return { 'pending', record, index, book.now, 0, '' } end
  local flying, retry = in_flight(lane), redis.call('HGET', RETRIES, lane) or ''
  local state = flying and 'syncing' or retry_of(lane, id).count > 0 and 'retrying' or 'pending'
  return { state, record, index, book.now, flying and 1 or 0, retry }
end)
return found or (from < 0 and { 'next', from } or { 'absent' })
