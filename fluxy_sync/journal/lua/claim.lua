#!lua flags=allow-oom
-- claim: give one worker the lane that has been due longest, and a run of its first operations.
-- It finds its lane in `ready` and builds the lane's key from a prefix with the same hash tag, so that it stays in the
-- slot of the declared keys; so do tick and snapshot.
-- ARGV[1] holder ('<incarnation> <pid>')   [2] the claim's length, ms   [3] most operations   [4] most bytes
-- ARGV[5] prefix of the lanes' keys   [6] takeovers that kill the head   [7] wake's time to live, ms
-- ARGV[8] an epoch, used if the journal has none yet   [9] '1' from a flush that starts: its wake token is used up
-- Returns {'none', gate, ms until a lane comes due or -1, buried}
--      or {'run', lane, fence, the claim's length ms, retries of the head, call a helper 0|1, journal ms, epoch,
--          takeovers, buried, record...}
-- where `buried` lists lane, id, reason and record of each head that was found dead, and `takeovers` how many holders in
-- a row are gone that may have begun to send this head. A holder counts for the next one if the claim is its lane's
-- first, or once it says that it begins (renew): of any other, the reply may have been lost on its way.
expect(9, { [2] = 1, [3] = 1, [4] = 0, [6] = 1, [7] = 1 })
insist(ARGV[5] == LANES, 'prefix')
insist(string.find(ARGV[1], '^%S+ %S+$'), 'holder')
local holder, length_ms, most, most_bytes, prefix = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local poison, wake_ms = tonumber(ARGV[6]), ARGV[7]
local buried = {}

local function bury_unsendable(lane, key, head, reason)
  for _, part in ipairs({ lane, head.id, reason, head.record }) do buried[#buried + 1] = part end
  settle_down(lane, bury_head(lane, key, head, reason, '')) -- the next one is looked at in its turn
end

-- Whether a lane's name is UTF-8 (RFC 3629), as each is that was accepted; of a damaged one nothing can be opened.
local function is_utf8(name)
  if not string.find(name, '[\128-\255]') then return true end
  for _, character in ipairs({ '[\194-\223][\128-\191]', '\224[\160-\191][\128-\191]', '[\225-\236\238\239][\128-\191][\128-\191]',
    '\237[\128-\159][\128-\191]', '\240[\144-\191][\128-\191][\128-\191]',
    '[\241-\243][\128-\191][\128-\191][\128-\191]', '\244[\128-\143][\128-\191][\128-\191]' }) do
    name = string.gsub(name, character, ' ')
  end
  return not string.find(name, '[\128-\255]')
end

-- How many holders in a row the lane has outlived. One that claims again lives: it couldn't settle, or the reply to its
-- claim was lost.
local function takeovers_of(claim)
  if not claim then return 0 end
  return claim.holder == holder and claim.takeovers or claim.takeovers + 1
end

-- The lane that is due, and its head; buries a head that is damaged or killed too many workers.
local function take()
  for _ = 1, 16 do
    local first = redis.call('ZRANGE', READY, 0, 0, 'WITHSCORES')
    local lane, score = first[1], tonumber(first[2] or 0)
    if not lane then return nil, -1 end
    if score > book.now then return nil, score - book.now end
    local key, claim = prefix .. lane, claim_of(lane)
    local head, takeovers = head_of(lane, key), takeovers_of(claim)
    if is_held(lane) then
      settle_down(lane, head) -- it was held while it was claimed, and its holder is gone
    elseif head and head.cancelled then
      settle_down(lane, head) -- there are too many tombstones for one look
      return nil, 0
    elseif head and (head.broken or not is_utf8(lane)) then
      bury_unsendable(lane, key, head, 'corrupt')
    elseif head and takeovers >= poison then
      bury_unsendable(lane, key, head, 'killed-its-worker')
    elseif head and head.due <= book.now then
      return lane, key, head, takeovers
    else
      settle_down(lane, head)
    end
  end
  return nil, 0
end

if ARGV[9] == '1' then redis.call('DEL', WAKE) end
local state, opens_in = gate()
if opens_in ~= 0 then return { 'none', state, opens_in, buried } end
local lane, key, head, takeovers = take()
if not lane then
  if #buried > 0 then commit() end
  return { 'none', state, key, buried }
end
if state == 'unauthorized' then
  -- The trial: one operation finds out whether the credentials work again.
  redis.call('HSET', GATE, 'trial_at', int(book.now + TRIAL_MS))
  most = 1
end

local fence = next_fence()
write_claim(lane, fence, math.max(0, takeovers - 1), holder)
redis.call('ZADD', READY, int(book.now + length_ms), lane)
redis.call('HSETNX', COUNTS, 'epoch', ARGV[8])

local answer = {
  'run', lane, fence, length_ms, retry_of(lane, head.id).count, 0, book.now, redis.call('HGET', COUNTS, 'epoch'),
  takeovers, buried, head.record,
}
local most_at_once = scan_step(lane)
local bytes, at, step, whole = #head.record, 1, 1, true
while whole and at < most and bytes < most_bytes do
  local records = redis.call('LRANGE', key, at, math.min(at + step, most) - 1)
  if #records == 0 then break end
  for _, record in ipairs(records) do
    local next_head = parse(record, true)
    if next_head.broken or next_head.due > book.now or bytes + #record > most_bytes then whole = false; break end
    if not next_head.cancelled then
      answer[#answer + 1] = record
      bytes = bytes + #record
    end
  end
  at, step = at + step, math.min(most_at_once, step * 2)
end

if redis.call('ZCOUNT', READY, '-inf', int(book.now)) > 0 then answer[6] = win_wake(wake_ms) end
commit()
return answer
