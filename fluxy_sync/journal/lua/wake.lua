#!lua flags=allow-oom
-- wake: win the right to publish one wake token; needs an open gate and no token waiting.
-- ARGV[1] its time to live, ms   Returns 1 or 0.
expect(1, { [1] = 1 })
return win_wake(ARGV[1])
