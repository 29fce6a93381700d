#!lua flags=allow-oom
-- gate: close it for one cause, or take that cause away; it opens when no cause is left.
-- ARGV[1] 'paused'|'unauthorized'|'offline'   [2] reason, or '' to take the cause away   [3] ms until claims may begin
-- Returns {changed 0|1, gate}.
expect(3, { [3] = 0 })
insist(ARGV[1] == 'paused' or ARGV[1] == 'unauthorized' or ARGV[1] == 'offline', 'cause')
local cause, reason = ARGV[1], ARGV[2]
local was = redis.call('HEXISTS', GATE, cause) == 1
if was == (reason ~= '') then return { 0, (gate()) } end
if reason ~= '' then
  redis.call('HSET', GATE, cause, int(book.wall) .. ' ' .. reason)
  if cause == 'unauthorized' then redis.call('HSET', GATE, 'trial_at', int(book.now + TRIAL_MS)) end
else
  redis.call('HDEL', GATE, cause)
  put_off(tonumber(ARGV[3])) -- never before a Retry-After that is still running
  redis.call('HSET', GATE, 'since', int(book.wall))
end
commit()
return { 1, (gate()) }
