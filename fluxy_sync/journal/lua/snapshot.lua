#!lua flags=allow-oom
-- snapshot: the counts and what is exact only now.
-- Returns {pending, syncing, retrying, held, dead, bytes, lanes, oldest age ms (-1: none), gate, since (wall ms, 0: unknown),
--          reason or '', delivered_total, rev, retried_total, dead_total, cancelled_total, dropped_total, offline 0|1,
--          ms until an open gate lets claims begin, {why, lanes held for it, ...}}
expect(0, {})
local LATEST_MS = 253402300799000 -- the end of the year 9999: a later time is damaged
local syncing, claims = 0, redis.call('HGETALL', CLAIMS)
for i = 1, #claims, 2 do
  local claim = claim_of(claims[i])
  if claim and claim.holder ~= NOBODY and tonumber(redis.call('ZSCORE', READY, claims[i]) or 0) > book.now then
    syncing = syncing + 1
  end
end

local totals =
  redis.call('HMGET', COUNTS, 'dead', 'delivered_total', 'retried_total', 'dead_total', 'cancelled_total', 'dropped_total')
local function total(i) return number(totals[i], 0) end

local why = redis.call('HGETALL', WHY)
for i = 2, #why, 2 do why[i] = number(why[i], 0) end

local retrying = redis.call('HLEN', RETRIES)
local first = redis.call('ZRANGE', OLDEST, 0, 0, 'WITHSCORES')
local oldest = first[1] and math.max(0, book.now - tonumber(first[2])) or -1
local state, opens_in = gate()
local cause = redis.call('HGET', GATE, state) or ''
local since, reason = string.match(cause, '^(%d+) (.*)$')
since = number(since or redis.call('HGET', GATE, 'since'), 0)
if since < 0 or since > LATEST_MS then since = 0 end
return {
  book.pending, syncing, retrying, book.held, total(1), book.bytes, redis.call('ZCARD', OLDEST), oldest, state,
  since, reason or '', total(2), book.rev, total(3), total(4), total(5), total(6),
  redis.call('HEXISTS', GATE, 'offline'), state == 'open' and opens_in or 0, why,
}
