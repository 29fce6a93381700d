#!lua flags=allow-oom
-- settle: record what became of one operation. It acts only for the claim's holder, and only on the head it names.
-- KEYS[16] the lane   KEYS[17..] lanes of the followers, each once
-- ARGV[1] lane   [2] fence   [3] id   [4] 'delivered'|'retry'|'wait'|'hold'|'dead'
-- ARGV[5] pause, ms (retry, wait; hold: until it is offered again, 0 for never)   [6] reason, no spaces
-- ARGV[7] another sealed part for a retried head, or ''   [8] sealed detail for a dead letter, or ''
-- ARGV[9] '1' to give the claim up   [10] the claim's length, ms   [11] wake's time to live, ms
-- ARGV[12..] per follower (a chain's next step, a link): lane number (1 = KEYS[17]), lane, id, countdown ms, expires ms, sealed
-- Returns {'ok'|'already'|'fenced', next head's id or '', gate, ms until the claim ends (0: given up), won the wake token 0|1}
local lane, key, fence, id, verdict = ARGV[1], KEYS[LANE_KEYS + 1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local pause_ms, reason, sealed, detail = tonumber(ARGV[5]), ARGV[6], ARGV[7], ARGV[8]
local give_up, length_ms, wake_ms = ARGV[9] == '1', tonumber(ARGV[10]), ARGV[11]
local FIRST, WIDTH = 12, 6

local claim = claim_of(lane)
if not claim or claim.fence ~= fence then return { 'fenced', '', (gate()), 0, 0 } end
local head = head_of(lane, key)
local status = head and head.id == id and 'ok' or 'already'
local woken = 0

local function append_followers()
  local due = false
  for at = FIRST, #ARGV, WIDTH do
    local follower_key = KEYS[LANE_KEYS + 1 + tonumber(ARGV[at])]
    local became_due =
      push(ARGV[at + 1], follower_key, ARGV[at + 2], tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), ARGV[at + 5])
    due = due or became_due
    redis.call('SADD', RECENT, ARGV[at + 2])
  end
  if due then woken = win_wake(wake_ms) end
end

local function keep_head_waiting(count)
  if sealed ~= '' then
    local record = reseal(head.record, sealed)
    redis.call('LSET', key, 0, record)
    book.bytes = book.bytes + #record - #head.record
  end
  -- An uncounted wait (the link is down) of an operation that was never retried leaves no trace.
  if count > 0 then redis.call('HSET', RETRIES, lane, int(count) .. ' ' .. reason .. ' ' .. id) end
  redis.call('HDEL', CLAIMS, lane)
  redis.call('ZADD', READY, int(book.now + pause_ms), lane)
end

local function pop_head()
  if verdict == 'dead' then
    bury(lane, head, reason, retries_of(lane, id), detail)
  else
    book.pending = book.pending - 1
    book.bytes = book.bytes - #head.record
    bump('delivered_total', 1)
    redis.call('HSET', COUNTS, 'last_delivered', int(book.now))
  end
  redis.call('LPOP', key)
  head = advance(lane, key)
  if claim.takeovers > 0 then write_claim(lane, fence, 0, claim.holder) end
end

local kept = false
if status == 'ok' then
  append_followers()
  if verdict == 'retry' then
    bump('retried_total', 1)
    keep_head_waiting(retries_of(lane, id) + 1)
  elseif verdict == 'wait' then
    keep_head_waiting(retries_of(lane, id))
  elseif verdict == 'hold' then
    redis.call('HSET', HELD, lane, int(pause_ms > 0 and book.now + pause_ms or 0) .. ' ' .. reason)
    settle_down(lane, head)
  else
    pop_head()
    kept = not give_up and head and not head.broken and head.due <= book.now
    if not kept then settle_down(lane, head) end
  end
elseif give_up or not head or head.broken then
  settle_down(lane, head)
else
  kept = true
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
return { status, kept and head.id or '', (gate()), ends_in, woken }
