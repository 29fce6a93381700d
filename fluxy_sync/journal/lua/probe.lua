#!lua flags=allow-oom
-- probe: the lock under which the upstream is probed, so that two beats do no harm. It never reaches the disk.
-- ARGV[1] ms that must lie between two probes   Returns 1 if the caller may probe, else 0.
expect(1, { [1] = 0 })
local ago = book.wall - number(redis.call('HGET', PULSE, 'probe'), 0)
if ago >= 0 and ago < tonumber(ARGV[1]) then return 0 end
redis.set_repl(redis.REPL_NONE)
redis.call('HSET', PULSE, 'probe', int(book.wall))
return 1
