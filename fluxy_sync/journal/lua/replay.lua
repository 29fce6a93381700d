#!lua flags=allow-oom
-- replay: put dead letters back into their lanes, past the quota: they count already. In the order given: at the tail
-- one after another; at the head each in front of the one before, but behind an operation that is being sent. What was
-- never accepted stays: accept.lua is its only way.
-- KEYS[20..] the lanes, each once   ARGV[1] 'tail'|'head'   [2] wake's time to live, ms   [3] once's window, ms
-- ARGV[4..] per letter: lane number (1 = KEYS[20]), lane, id, another sealed part or ''
-- Returns {won the wake token 0|1, letters that were put back, those that weren't there...}.
expect(3, { [2] = 1, [3] = 0 }, 4, { [1] = 1 })
for at = 4, #ARGV, 4 do
  insist(KEYS[LANE_KEYS + tonumber(ARGV[at])], 'key', at)
  expect_lane(ARGV[at + 1], KEYS[LANE_KEYS + tonumber(ARGV[at])])
end
local to_head, wake_ms, once_ms = ARGV[1] == 'head', ARGV[2], tonumber(ARGV[3])
local FIRST, WIDTH = 4, 4
local answer = { 0, 0 }

-- As it goes back: its time to live starts anew; one that the server refused goes out under a new key.
local function renewed(letter, id, lane, replacement)
  local old = parse(letter.record)
  if old.broken or old.id ~= id or never_accepted(letter.reason) then return nil end
  local refused = string.find(letter.reason, '^[34]%d%d$') ~= nil
  local head = {
    id = id, accepted = book.now, due = 0, expires = old.expires > 0 and book.now + old.expires - old.accepted or 0,
    halt = has(old.flags, FLAG_HALT), replays = old.replays, once = old.once,
  }
  if refused and replacement == '' then head.replays = math.min(65535, head.replays + 1) end
  if head.once then
    local _, _, first = read_once(head.once)
    if first and first ~= id and first_of(head.once) then
      head.once = nil -- another one has the key by now
    else
      enter_once(head.once, once_ms, lane, id)
    end
  end
  return head, build(head, replacement ~= '' and replacement or string.sub(letter.record, old.clear + 1))
end

local function put_in_front(lane, key, head, record)
  local flies = in_flight(lane)
  local flying = flies and redis.call('LPOP', key) -- none where it was cleared meanwhile
  redis.call('LPUSH', key, record)
  note_size(lane, record)
  if flying then redis.call('LPUSH', key, flying) end
  book.pending = book.pending + 1
  book.bytes = book.bytes + #record
  if is_held(lane) then book.held = book.held + 1 end
  if not flying then head = advance(lane, key) end
  if not flies then settle_down(lane, head) end
end

for at = FIRST, #ARGV, WIDTH do
  local key, lane, id = KEYS[LANE_KEYS + tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
  local value = redis.call('HGET', DEAD, id)
  local letter = value and read_letter(value)
  local head, record
  if letter and letter.lane == lane then head, record = renewed(letter, id, lane, ARGV[at + 3]) end
  if head then
    exhume(id, value, lane, key)
    local put = to_head and put_in_front or push
    put(lane, key, head, record)
    answer[2] = answer[2] + 1
  else
    answer[#answer + 1] = id
  end
end
if answer[2] > 0 then
  answer[1] = wake_if_due(wake_ms)
  commit()
end
return answer
