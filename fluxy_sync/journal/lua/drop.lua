#!lua flags=allow-oom
-- drop: delete dead letters for good; a lane that waited for one goes on.
-- KEYS[20..] the lanes, each once   ARGV[1] wake's time to live, ms   [2..] per letter: lane number (1 = KEYS[20]), lane, id
-- Returns {won the wake token 0|1, letters that were there}.
expect(1, { [1] = 1 }, 3, { [1] = 1 })
for at = 2, #ARGV, 3 do
  insist(KEYS[LANE_KEYS + tonumber(ARGV[at])], 'key', at)
  expect_lane(ARGV[at + 1], KEYS[LANE_KEYS + tonumber(ARGV[at])])
end
local count, woken = 0, 0
for at = 2, #ARGV, 3 do
  local key, lane, id = KEYS[LANE_KEYS + tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
  local value = redis.call('HGET', DEAD, id)
  if value and read_letter(value).lane == lane then
    exhume(id, value, lane, key)
    count = count + 1
  end
end
if count > 0 then
  woken = wake_if_due(ARGV[1])
  commit()
end
return { woken, count }
