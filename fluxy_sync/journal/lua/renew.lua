#!lua flags=allow-oom
-- renew: a request in flight takes long; move its claim's end.
-- ARGV[1] lane   [2] fence   [3] the claim's length from now, ms
-- Returns 1, or 0 where the claim was lost.
expect(3, { [2] = 0, [3] = 1 })
local claim = claim_of(ARGV[1])
if not claim or claim.fence ~= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', READY, 'XX', int(book.now + tonumber(ARGV[3])), ARGV[1])
save()
return 1
