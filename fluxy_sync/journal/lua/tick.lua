#!lua flags=allow-oom
-- tick: keep journal time going, mend what a jumping clock leaves, and tell what there is to do.
-- What only shows who is alive is written past the AOF (REPL_NONE): an idle system writes nothing to disk.
-- ARGV[1] 'beat'|'steward'   [2] its name   [3] '1' to forget a waiting wake token   [4] wake's longest life, ms
-- ARGV[5] ms between two durable writes of journal time
-- Returns {gate, ms until claims may begin, ms until a lane comes due (0: due, -1: none), pending,
--          ms since beat's last tick (-1: unknown), ms since the last delivery (-1: none)}
local role, name, wake_ms, durable_ms = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5])
local OFFERS = 100

if ARGV[3] == '1' or redis.call('PTTL', WAKE) > wake_ms then redis.call('DEL', WAKE) end

local offered = 0
-- Each tick looks at the next stretch of the held lanes: those that stay must not hide the others.
local scan = redis.call('HGET', PULSE, 'held') or '0'
local next_scan, held = unpack(redis.call('HSCAN', HELD, scan, 'COUNT', OFFERS))
for i = 1, #held, 2 do
  local at = tonumber(string.match(held[i + 1], '^%d+'))
  if at > 0 and at <= book.now then
    redis.call('HDEL', HELD, held[i])
    redis.call('ZADD', READY, 'NX', int(book.now), held[i])
    offered = offered + 1
  end
end

local age = book.wall - book.read_wall
local waiting = book.pending > 0 or redis.call('HLEN', HELD) > 0
if offered > 0 then
  commit()
elseif not waiting then
  redis.set_repl(redis.REPL_NONE)
  save()
elseif age < 0 or age >= durable_ms then
  save()
end

redis.set_repl(redis.REPL_NONE)
if next_scan ~= scan then redis.call('HSET', PULSE, 'held', next_scan) end
local beat = tonumber(redis.call('HGET', PULSE, 'beat') or -1)
redis.call('HSET', PULSE, role == 'beat' and 'beat' or 'steward ' .. name, int(book.wall))
local beat_age = beat >= 0 and beat <= book.wall and book.wall - beat or -1

local first = redis.call('ZRANGE', READY, 0, 0, 'WITHSCORES')
local due_in = first[1] and math.max(0, tonumber(first[2]) - book.now) or -1
local last_delivered = tonumber(redis.call('HGET', COUNTS, 'last_delivered') or 0)
local delivered_ago = last_delivered > 0 and book.now - last_delivered or -1
local state, opens_in = gate()
return { state, opens_in, due_in, book.pending, beat_age, delivered_ago }
