#!lua flags=allow-oom
-- release: give a claim up. The lane is due at once if operations remain, else it leaves `ready`.
-- KEYS[20] the lane   ARGV[1] lane   [2] fence
-- Returns 1, or 0 where the claim was somebody else's by then.
expect(2, { [2] = 0 })
expect_lane(ARGV[1], KEYS[LANE_KEYS + 1])
local lane, key = ARGV[1], KEYS[LANE_KEYS + 1]
local claim = claim_of(lane)
if not claim or claim.fence ~= tonumber(ARGV[2]) then return 0 end
settle_down(lane, head_of(lane, key))
commit()
return 1
