#!lua flags=allow-oom
-- swap: replace a string's value where it is still what it was; its time to live stays.
-- KEYS[20] the string   ARGV[1] its value as it was read   [2] another value
-- Returns 1 or 0.
expect(2, {})
if redis.call('GET', KEYS[LANE_KEYS + 1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[LANE_KEYS + 1], ARGV[2], 'KEEPTTL')
return 1
