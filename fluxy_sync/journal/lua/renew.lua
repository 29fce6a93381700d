#!lua flags=allow-oom
-- renew: what was claimed is under way and takes long, or begins now; move its claim's end.
-- ARGV[1] lane   [2] fence   [3] the claim's length from now, ms
-- ARGV[4] takeovers, as the claim's answer told them: its holder begins, and counts from here on; -1: it began before
-- Returns 1, or 0 where the claim was lost.
expect(4, { [2] = 0, [3] = 1, [4] = -1 })
local lane, claim, takeovers = ARGV[1], claim_of(ARGV[1]), tonumber(ARGV[4])
if not claim or claim.fence ~= tonumber(ARGV[2]) then return 0 end
if takeovers >= 0 then write_claim(lane, claim.fence, takeovers, claim.holder) end
redis.call('ZADD', READY, 'XX', int(book.now + tonumber(ARGV[3])), lane)
save()
return 1
