#!lua flags=allow-oom
-- reclaim: give up at once the claims of holders that are dead. Each gets a new fence number, so that nothing late
-- settles; the takeover count stays, for the next claim to count on.
-- ARGV[1] incarnation   [2..] processes of it that are alive (none: the whole incarnation is dead)
-- Returns the number of claims given up.
insist(#ARGV >= 1, 'so many')
local alive, count = {}, 0
for i = 2, #ARGV do alive[ARGV[i]] = true end
local claims = redis.call('HGETALL', CLAIMS)
for i = 1, #claims, 2 do
  local lane, claim = claims[i], claim_of(claims[i])
  local incarnation, pid = string.match(claim and claim.holder or '', '^(%S+) (%S+)$')
  if incarnation == ARGV[1] and not alive[pid] then
    write_claim(lane, next_fence(), claim.takeovers, NOBODY)
    redis.call('ZADD', READY, 'XX', int(book.now), lane)
    count = count + 1
  end
end
if count > 0 then
  -- The dead may have taken the last wake token with them.
  redis.call('DEL', WAKE)
  commit()
end
return count
