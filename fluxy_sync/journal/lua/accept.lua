#!lua flags=allow-oom
-- accept: a dead letter that was never accepted becomes a new operation at the end of its lane, past the quota: it
-- counts already. Only if nothing has changed it since it was read.
-- KEYS[20] the lane
-- ARGV[1] the letter's field in the hash   [2] its value as it was read   [3] wake's time to live, ms
-- ARGV[4..] the operation: see accept(); its id must be unused
-- Returns {1 where it was accepted, 0 where the letter is gone or another one; won the wake token 0|1}.
expect(3 + OPERATION_WIDTH, { [3] = 1, [4] = 1, [7] = 0, [8] = 0 })
expect_operations(4, LANE_KEYS, LANE_KEYS + 1)
local value, id = redis.call('HGET', DEAD, ARGV[1]), ARGV[6]
if value ~= ARGV[2] then return { 0, 0 } end
local letter = read_letter(value)
local is_used = redis.call('SISMEMBER', RECENT, id) + redis.call('SISMEMBER', RECENT_OLD, id) + redis.call('HEXISTS', DEAD, id)
if letter.lane ~= ARGV[5] or not never_accepted(letter.reason) or is_used > 0 then return { 0, 0 } end
exhume(ARGV[1], value, letter.lane, KEYS[LANE_KEYS + 1])
local is_due = accept(4, LANE_KEYS, 0)
local woken = is_due and win_wake(ARGV[3]) or 0
commit()
return { 1, woken }
