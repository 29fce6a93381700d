#!lua flags=allow-oom
-- hold: a person, or a long replay, makes one lane wait, or lets it go on.
-- KEYS[20] the lane   ARGV[1] lane   [2] why   [3] '1' to hold, '0' to let go   [4] ms until it goes on by itself (0: never)
-- ARGV[5] wake's time to live, ms
-- Returns {changed 0|1, an operation of it is being sent 0|1, won the wake token 0|1}.
expect(5, { [3] = 0, [4] = 0, [5] = 1 })
expect_lane(ARGV[1], KEYS[LANE_KEYS + 1])
insist(string.find(ARGV[2], '^[^\n]+$'), 'why')
local lane, key, why = ARGV[1], KEYS[LANE_KEYS + 1], ARGV[2]
local changed, woken = false, 0
if ARGV[3] == '1' then
  local ms = tonumber(ARGV[4])
  changed = hold(lane, key, ms > 0 and book.now + ms or 0, why)
else
  changed = unhold(lane, key, function(cause) return cause.why == why end)
  if changed then woken = wake_if_due(ARGV[5]) end
end
if changed then commit() end
return { changed and 1 or 0, in_flight(lane) and 1 or 0, woken }
