#!lua flags=allow-oom
-- find: whether an operation waits in a stretch of a lane (see cancel for the stretch), and as what.
-- KEYS[16] the lane   ARGV[1] lane   [2] id   [3] [4] the stretch, as LRANGE takes it (negative)
-- Returns {'pending'|'retrying'|'syncing', record}, {'next'} or {'absent'}.
local lane, key, id = ARGV[1], KEYS[LANE_KEYS + 1], ARGV[2]
local from, to = tonumber(ARGV[3]), tonumber(ARGV[4])
local length = redis.call('LLEN', key)
if length + to < 0 then return { 'absent' } end
local first = math.max(from, -length)
for i, record in ipairs(redis.call('LRANGE', key, first, to)) do
  local found = parse(record)
  if found.id == id and not found.cancelled then
    local claim = claim_of(lane)
    if first + i - 1 > -length then return { 'pending', record } end
    if claim and claim.holder ~= '- -' then return { 'syncing', record } end
    return { retries_of(lane, id) > 0 and 'retrying' or 'pending', record }
  end
end
return { first == -length and 'absent' or 'next' }
