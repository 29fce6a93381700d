#!lua flags=allow-oom
-- snapshot: the counts and what is exact only now.
-- ARGV[1] prefix of the lanes' keys (only lanes of declared hashes are read; see claim)
-- Returns {pending, syncing, retrying, held, dead, bytes, lanes, oldest age ms (-1: none), gate, since (wall ms, 0: unknown),
--          reason or '', delivered_total, rev, retried_total, dead_total, cancelled_total, offline 0|1}
local prefix = ARGV[1]
local syncing, claims = 0, redis.call('HGETALL', CLAIMS)
for i = 1, #claims, 2 do
  local claim = claim_of(claims[i])
  if claim.holder ~= '- -' and tonumber(redis.call('ZSCORE', READY, claims[i]) or 0) > book.now then
    syncing = syncing + 1
  end
end

local held = 0
for _, lane in ipairs(redis.call('HKEYS', HELD)) do
  held = held + redis.call('LLEN', prefix .. lane) - tonumber(redis.call('HGET', CANCELLED, lane) or 0)
end

local totals = redis.call('HMGET', COUNTS, 'dead', 'delivered_total', 'retried_total', 'dead_total', 'cancelled_total')
local function total(i) return tonumber(totals[i] or 0) end

local retrying = redis.call('HLEN', RETRIES)
local first = redis.call('ZRANGE', OLDEST, 0, 0, 'WITHSCORES')
local oldest = first[1] and math.max(0, book.now - tonumber(first[2])) or -1
local state = gate()
local cause = redis.call('HGET', GATE, state) or ''
local since, reason = string.match(cause, '^(%d+) (.*)$')
since = since or redis.call('HGET', GATE, 'since') or 0
return {
  book.pending, syncing, retrying, held, total(1), book.bytes, redis.call('ZCARD', OLDEST), oldest, state,
  tonumber(since), reason or '', total(2), book.rev, total(3), total(4), total(5),
  redis.call('HEXISTS', GATE, 'offline'),
}
