#!lua flags=allow-oom
-- letters: what stands in a stretch of the dead letters, in the order in which they died, without their sealed parts.
-- ARGV[1] number after which to begin (0: the first)   [2] most letters
-- Returns {number to go on after (-1: the end), then per letter: its number, its value's length, lane, reason, retries,
--          died (wall ms), the record's clear part and the key's id, the letter's field in the hash,
--          the key's id of its detail}
expect(2, { [2] = 1 })
insist(string.find(ARGV[1], '^%d+$'), 'number', 1)
local after, most = ARGV[1], tonumber(ARGV[2])
local answer, bytes = { -1 }, 0
local found = redis.call('ZRANGEBYSCORE', DEAD_INDEX, '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, most)
for i = 1, #found, 2 do
  local value = redis.call('HGET', DEAD, found[i])
  local letter = read_letter(value)
  local head = parse(letter.record, true)
  local clear = string.sub(letter.record, 1, math.min(#letter.record, head.clear + 4))
  for _, part in ipairs({ tonumber(found[i + 1]), #value, letter.lane, letter.reason, letter.retries, letter.died, clear, found[i], string.sub(letter.detail, 1, 4) }) do
    answer[#answer + 1] = part
  end
  bytes = bytes + #value
  if bytes > SCAN_BYTES or i + 2 > 2 * most then answer[1] = tonumber(found[i + 1]); break end
end
return answer
