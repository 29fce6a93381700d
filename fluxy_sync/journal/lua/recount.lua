#!lua flags=allow-oom
-- recount: make the counts of a whole journal anew, and begin a new epoch: fences may have been lost. Only while
-- nobody else uses the journal, and after recount_lane for each lane.
-- KEYS[20] see recount_lane, which is through with it
-- ARGV[1] operations   [2] bytes in lanes   [3] operations on held lanes   [4] when the newest was accepted (journal ms)
-- ARGV[5] the new epoch
-- Returns {dead letters, bytes in all}.
local CHANGES = KEYS[LANE_KEYS + 1]
book.pending, book.bytes, book.held = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
book.now = math.max(book.now, tonumber(ARGV[4])) -- else what is there would lie in the future

-- Each letter under its own id: the field, which is the id once more, may be what was damaged.
local position, dead, cursor, strayed = 0, 0, '0', {}
repeat
  local found
  cursor, found = unpack(redis.call('HSCAN', DEAD, cursor, 'COUNT', 100))
  for i = 1, #found, 2 do
    local head = parse(read_letter(found[i + 1]).record)
    if not head.broken and head.id ~= found[i] then strayed[found[i]] = head.id end
  end
until cursor == '0'
for field, id in pairs(strayed) do
  if redis.call('HSETNX', DEAD, id, redis.call('HGET', DEAD, field)) == 1 then
    local score = redis.call('ZSCORE', DEAD_INDEX, field)
    if score then redis.call('ZADD', DEAD_INDEX, 'NX', score, id) end
    redis.call('HDEL', DEAD, field)
  end
end

for _, field in ipairs(redis.call('ZRANGE', DEAD_INDEX, 0, -1)) do
  if redis.call('HEXISTS', DEAD, field) == 0 then redis.call('ZREM', DEAD_INDEX, field) end
end
local last = redis.call('ZRANGE', DEAD_INDEX, -1, -1, 'WITHSCORES')
position = math.max(number(redis.call('HGET', COUNTS, 'dead_seq'), 0), number(last[2], 0))
local missing = {}
repeat
  local found
  cursor, found = unpack(redis.call('HSCAN', DEAD, cursor, 'COUNT', 100))
  for i = 1, #found, 2 do
    if not redis.call('ZSCORE', DEAD_INDEX, found[i]) then missing[#missing + 1] = found[i] end
  end
until cursor == '0'
for _, field in ipairs(missing) do
  position = position + 1
  redis.call('ZADD', DEAD_INDEX, int(position), field)
end
for _, field in ipairs(redis.call('ZRANGE', DEAD_INDEX, 0, -1)) do
  dead = dead + 1
  book.bytes = book.bytes + redis.call('HSTRLEN', DEAD, field)
end
redis.call('HSET', COUNTS, 'dead_seq', int(position), 'dead', int(dead), 'epoch', ARGV[5])

redis.call('DEL', WHY)
local held, fence = redis.call('HKEYS', HELD), number(redis.call('HGET', COUNTS, 'fence'), 0)
for _, lane in ipairs(held) do
  for name in pairs(names_of(causes_of(lane))) do add(WHY, name, 1) end
end
for _, lane in ipairs(redis.call('HKEYS', CLAIMS)) do
  local claim = claim_of(lane)
  if claim then fence = math.max(fence, claim.fence) end
end
redis.call('HSET', COUNTS, 'fence', int(fence))
redis.call('DEL', CHANGES, WAKE)
commit()
return { dead, book.bytes }
