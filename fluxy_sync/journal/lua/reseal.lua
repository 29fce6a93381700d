#!lua flags=allow-oom
-- reseal: put other sealed parts into records of a lane, where nothing else has changed them meanwhile.
-- KEYS[20] the lane   ARGV[1] lane   [2] index of the last one when it was read: since then they can only have moved
--   to the front   [3..] per record: id, the first bytes of its sealed part as it was read, another sealed part
-- Returns the number of records that were resealed.
expect(2, { [2] = -1e14 }, 3, {})
expect_lane(ARGV[1], KEYS[LANE_KEYS + 1])
for at = 3, #ARGV, 3 do insist(#ARGV[at + 2] > 0, 'sealed', at) end
local key, last, wanted, left, count = KEYS[LANE_KEYS + 1], tonumber(ARGV[2]), {}, 0, 0
for at = 3, #ARGV, 3 do
  wanted[ARGV[at]] = { was = ARGV[at + 1], sealed = ARGV[at + 2] }
  left = left + 1
end
local length = redis.call('LLEN', key)
scan_back(ARGV[1], key, math.min(last, length - 1) - length, function(record, index)
  local head = parse(record, true)
  local new = not head.cancelled and wanted[head.id]
  if new then
    if string.sub(record, head.clear + 1, head.clear + #new.was) == new.was then
      local resealed = reseal(record, head, new.sealed)
      redis.call('LSET', key, index, resealed)
      book.bytes = book.bytes + #resealed - #record
      count = count + 1
    end
    wanted[head.id] = nil
    left = left - 1
  end
  return left == 0 or nil
end)
if count > 0 then save() end
return count
