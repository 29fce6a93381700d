#!lua flags=allow-oom
-- settle: record what became of one operation. It acts only for the claim's holder, and only on the head it names.
-- KEYS[20] the lane   KEYS[21..] lanes of the followers, each once; the last key: the histograms
-- ARGV[1] lane   [2] fence   [3] id   [4] 'delivered'|'retry'|'wait'|'hold'|'dead'
-- ARGV[5] pause, ms (retry, wait; hold: until it is offered again, 0 for never)   [6] reason, no spaces
-- ARGV[7] another sealed part for a retried head, or ''   [8] sealed detail for a dead letter, or ''
-- ARGV[9] '1' to give the claim up   [10] the claim's length, ms   [11] wake's time to live, ms
-- ARGV[12] the part of the pause that the upstream asked for, ms   [13] the same for the whole upstream, ms
-- ARGV[14] once's window, ms   [15] how long the upstream took to answer, ms (-1: it didn't)
-- ARGV[16..] per follower (a chain's next step, a link): see accept(); 1 = KEYS[21]
-- Returns {'ok'|'already'|'fenced', next head's id or '', gate ('waiting': the upstream asked for it),
--          ms until the claim ends (0: given up), won the wake token 0|1, journal ms}
expect(15, { [2] = 0, [5] = 0, [10] = 1, [11] = 1, [12] = 0, [13] = 0, [14] = 0, [15] = -1 }, OPERATION_WIDTH,
  OPERATION_NUMBERS)
expect_lane(ARGV[1], KEYS[LANE_KEYS + 1])
expect_operations(16, LANE_KEYS + 1, #KEYS - 1)
expect_reason(ARGV[6])
insist(string.find(' delivered retry wait hold dead ', ' ' .. ARGV[4] .. ' ', 1, true), 'verdict')
local lane, key, fence, id, verdict = ARGV[1], KEYS[LANE_KEYS + 1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local pause_ms, reason, sealed, detail = tonumber(ARGV[5]), ARGV[6], ARGV[7], ARGV[8]
local give_up, length_ms, wake_ms = ARGV[9] == '1', tonumber(ARGV[10]), ARGV[11]
local floor_ms, upstream_ms, once_ms = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local took_ms, HISTOGRAM = tonumber(ARGV[15]), KEYS[#KEYS]
local FIRST = 16
local LATENCY_MS = { 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 1800000, 3600000, 21600000, 86400000 }
local RESPONSE_MS = { 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000 }

local claim = claim_of(lane)
if not claim or claim.fence ~= fence then return { 'fenced', '', gate_now(), 0, 0, book.now } end
local head = head_of(lane, key)
local status = head and head.id == id and 'ok' or 'already'
local woken = 0

local function append_followers()
  local due = false
  for at = FIRST, #ARGV, OPERATION_WIDTH do
    local became_due = accept(at, LANE_KEYS + 1, once_ms)
    due = due or became_due
  end
  if due then woken = win_wake(wake_ms) end
end

local function keep_head_waiting(counted)
  if sealed ~= '' then
    local record = reseal(head.record, head, sealed)
    redis.call('LSET', key, 0, record)
    note_size(lane, record)
    book.bytes = book.bytes + #record - #head.record
  end
  local retry = retry_of(lane, id)
  retry.count, retry.reason = retry.count + counted, reason
  retry.at, retry.floor = book.now + pause_ms, floor_ms > 0 and book.now + floor_ms or 0
  -- An uncounted wait (the link is down) of an operation that was never retried leaves no trace.
  if retry.count > 0 then write_retry(lane, id, retry) end
  redis.call('HDEL', CLAIMS, lane)
  if is_held(lane) then
    redis.call('ZREM', READY, lane)
  else
    redis.call('ZADD', READY, int(retry.at), lane)
  end
end

local function pop_head()
  if verdict == 'dead' then
    head = bury_head(lane, key, head, reason, detail)
  else
    leave(lane, head)
    bump('delivered_total', 1)
    note_delivery()
    redis.call('LPOP', key)
    head = advance(lane, key)
  end
  if claim.takeovers > 0 then write_claim(lane, fence, 0, claim.holder) end
end

-- Whether the claim goes on with the head that is there now.
local function goes_on()
  return not give_up and head ~= nil and not head.broken and not head.cancelled and head.due <= book.now and not is_held(lane)
end

-- Count a time into its bucket. Past the AOF: a counter that begins anew is worth no write for each operation.
local function observe(what, bounds, ms)
  local bucket = #bounds + 1
  for i, bound in ipairs(bounds) do
    if ms <= bound then bucket = i; break end
  end
  add(HISTOGRAM, what .. bucket, 1)
  add(HISTOGRAM, what .. 'sum', ms)
end

local kept = false
if status == 'ok' then
  redis.set_repl(redis.REPL_NONE)
  if verdict == 'delivered' then observe('latency ', LATENCY_MS, math.max(0, book.now - head.accepted)) end
  if took_ms >= 0 then observe('response ', RESPONSE_MS, took_ms) end
  redis.set_repl(redis.REPL_ALL)
  append_followers()
  if upstream_ms > 0 then put_off(upstream_ms) end
  if verdict == 'retry' then
    bump('retried_total', 1)
    book.streak = book.streak + 1
    keep_head_waiting(1)
  elseif verdict == 'wait' then
    keep_head_waiting(0)
  elseif verdict == 'hold' then
    redis.call('HDEL', CLAIMS, lane)
    hold(lane, key, pause_ms > 0 and book.now + pause_ms or 0, reason)
    redis.call('ZREM', READY, lane)
  else
    pop_head()
    kept = goes_on()
    if not kept then settle_down(lane, head) end
    if verdict == 'delivered' then bring_some_forward() end
  end
else
  kept = goes_on()
  if not kept then settle_down(lane, head) end
end

-- The next operation of the run gets a claim of nearly full length.
local ends_in = 0
if kept then
  ends_in = tonumber(redis.call('ZSCORE', READY, lane) or 0) - book.now
  if ends_in < length_ms - 3000 then
    redis.call('ZADD', READY, int(book.now + length_ms), lane)
    ends_in = length_ms
  end
end
commit()
return { status, kept and head.id or '', gate_now(), ends_in, woken, book.now }
