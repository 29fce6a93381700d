#!lua flags=allow-oom
-- wake: win the right to publish one wake token; needs an open gate and no token waiting.
-- ARGV[1] its time to live, ms   [2] ms after which one that was won counts as lost   Returns 1 or 0.
expect(2, { [1] = 1, [2] = 1 })
return win_wake(tonumber(ARGV[1]), tonumber(ARGV[2]))
