#!lua flags=allow-oom
-- probe: the lock under which the upstream is probed, so that two beats do no harm. It never reaches the disk.
-- ARGV[1] ms for which nobody else may probe   Returns 1 if the caller may, else 0.
local until_ms = tonumber(redis.call('HGET', PULSE, 'probe') or 0)
local wait = until_ms - book.wall
-- A wait longer than any that is ever asked for means that the clock went back.
if wait > 0 and wait <= 60000 then return 0 end
redis.set_repl(redis.REPL_NONE)
redis.call('HSET', PULSE, 'probe', int(book.wall + tonumber(ARGV[1])))
return 1
