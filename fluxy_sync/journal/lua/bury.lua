#!lua flags=allow-oom
-- bury: keep an operation that was never accepted as a dead letter, so that a person can look at it. It replaces none.
-- KEYS[20] the lane   ARGV[1] lane   [2] id   [3] reason   [4] sealed
-- Returns 1, or 0 where there is a dead letter with that id.
expect(4, {})
expect_lane(ARGV[1], KEYS[LANE_KEYS + 1])
expect_id(ARGV[2])
expect_reason(ARGV[3])
insist(#ARGV[4] > 0, 'sealed')
if redis.call('HEXISTS', DEAD, ARGV[2]) == 1 then return 0 end
local head = { id = ARGV[2], accepted = book.now, due = 0, expires = 0, replays = 0 }
head.record = build(head, ARGV[4])
-- As if it had been there: it leaves again in the same step, from a lane whose holds it doesn't touch.
book.pending = book.pending + 1
book.bytes = book.bytes + #head.record
if is_held(ARGV[1]) then book.held = book.held + 1 end
bury(ARGV[1], KEYS[LANE_KEYS + 1], head, ARGV[3], '')
commit()
return 1
