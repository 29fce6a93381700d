#!lua flags=allow-oom
-- tick: keep journal time going, mend what a jumping clock leaves, and tell what there is to do.
-- What only shows who is alive is written past the AOF (REPL_NONE): an idle system writes nothing to disk.
-- ARGV[1] 'beat'|'steward'   [2] its name   [3] '1' to forget a waiting wake token   [4] wake's longest life, ms
-- KEYS[20] samples of the counts
-- ARGV[5] ms between two durable writes of journal time   [6] prefix of the lanes' keys (see claim)
-- Returns {gate, ms until claims may begin (-1: closed), ms until a lane comes due (0: due, -1: none), pending,
--          ms since beat's last tick (-1: unknown), ms since the last delivery (-1: none),
--          offline 0|1, whatever else closes the gate}
expect(6, { [4] = 1, [5] = 0 })
insist(ARGV[6] == LANES, 'prefix')
local role, name, wake_ms, durable_ms, prefix = ARGV[1], ARGV[2], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local OFFERS, FORGOTTEN = 100, 100
-- A steward that hasn't ticked for a day is missed by nobody; containers have new names at each start, so of many
-- those go sooner.
local MANY_STEWARDS, REMEMBERED_MS, OF_MANY_MS = 500, 86400000, 3600000

if ARGV[3] == '1' or redis.call('PTTL', WAKE) > wake_ms then redis.call('DEL', WAKE) end

local changed = false
-- Each tick looks at the next stretch of the held lanes: those that stay must not hide the others.
local this_scan = scan_at(redis.call('HGET', PULSE, 'held'))
local next_scan, held = unpack(redis.call('HSCAN', HELD, this_scan, 'COUNT', OFFERS))
local function is_over(cause) return cause.at > 0 and cause.at <= book.now end
for i = 1, #held, 2 do
  if unhold(held[i], prefix .. held[i], is_over) then changed = true end
end

-- Windows of once keys that are over.
local over = redis.call('ZRANGEBYSCORE', ONCE_ENDS, '-inf', int(book.now), 'LIMIT', 0, FORGOTTEN)
if #over > 0 then
  redis.call('HDEL', ONCE, unpack(over))
  redis.call('ZREM', ONCE_ENDS, unpack(over))
  changed = true
end

if book.forward then bring_some_forward(); changed = true end

-- Nothing refused waits any more: the next operation finds out by itself.
if book.pending == 0 and redis.call('HDEL', GATE, 'unauthorized') == 1 then
  redis.call('HSET', GATE, 'since', int(book.wall))
  changed = true
end

-- An hour of samples, '<unix s> <pending> <delivered> <dead>', written where something has changed.
local SAMPLES, SAMPLE_S, SAMPLES_KEPT = KEYS[LANE_KEYS + 1], 10, 360
do
  local last_at, last = string.match(redis.call('LINDEX', SAMPLES, -1) or '0 ', '^(%d+) (.*)$')
  local at, totals = math.floor(book.wall / 1000), redis.call('HMGET', COUNTS, 'delivered_total', 'dead')
  local counted = int(book.pending) .. ' ' .. int(number(totals[1], 0)) .. ' ' .. int(number(totals[2], 0))
  if counted ~= last and math.abs(at - number(last_at, 0)) >= SAMPLE_S then
    if redis.call('RPUSH', SAMPLES, int(at) .. ' ' .. counted) > SAMPLES_KEPT then redis.call('LPOP', SAMPLES) end
  end
end

-- This machine's clock is slower than that of one that is gone, or was: it leads from here on.
if book.lag > MAX_STEP_MS then set_clock() end

local is_waiting = book.pending > 0 or redis.call('HLEN', HELD) > 0
if changed then
  commit()
elseif not is_waiting then
  redis.set_repl(redis.REPL_NONE)
  save()
elseif book.now - book.read_now >= durable_ms then
  save()
end

redis.set_repl(redis.REPL_NONE)
if next_scan ~= this_scan then redis.call('HSET', PULSE, 'held', next_scan) end
local beat = number(redis.call('HGET', PULSE, 'beat'), -1)
local is_new = redis.call('HSET', PULSE, role == 'beat' and 'beat' or 'steward ' .. name, int(book.wall)) == 1
if is_new and role ~= 'beat' then
  local pulse, gone = redis.call('HGETALL', PULSE), {}
  local remembered_ms = #pulse > 2 * MANY_STEWARDS and OF_MANY_MS or REMEMBERED_MS
  for i = 1, #pulse, 2 do
    local is_old = math.abs(book.wall - number(pulse[i + 1], 0)) > remembered_ms
    if is_old and string.find(pulse[i], '^steward ') and #gone < 1000 then gone[#gone + 1] = pulse[i] end
  end
  if #gone > 0 then redis.call('HDEL', PULSE, unpack(gone)) end
end
local beat_age = beat >= 0 and beat <= book.wall and book.wall - beat or -1

local first = redis.call('ZRANGE', READY, 0, 0, 'WITHSCORES')
local due_in = first[1] and math.max(0, tonumber(first[2]) - book.now) or -1
local delivered_ago = book.delivered_at > 0 and book.now - book.delivered_at or -1
local state, opens_in = gate()
return { state, opens_in, due_in, book.pending, beat_age, delivered_ago, redis.call('HEXISTS', GATE, 'offline') }
