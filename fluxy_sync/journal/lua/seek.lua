#!lua flags=allow-oom
-- seek: which of some lanes hold which of some operations. One call looks at one stretch of them.
-- KEYS[20..] the lanes, each looked through from its tail
-- ARGV[1] where to look from in the first one: -1 for the tail, then what the last call gave   [2..] the ids
-- Returns {lanes that are done, where to look from in the next one, then for each that was found: id, number of its
-- lane, from 1}. One that was cancelled isn't found.
expect(1, { [1] = -1e14 }, 1, {})
local wanted, answer, seen, bytes = {}, { 0, -1 }, 0, 0
for at = 2, #ARGV do
  expect_id(ARGV[at])
  wanted[ARGV[at]] = true
end

for number = LANE_KEYS + 1, #KEYS do
  local key = KEYS[number]
  insist(string.sub(key, 1, #LANES) == LANES, 'lane')
  local from = number == LANE_KEYS + 1 and tonumber(ARGV[1]) or -1
  local _, goes_on = scan_back(string.sub(key, #LANES + 1), key, from, function(record)
    seen, bytes = seen + 1, bytes + #record
    local length = string.byte(record, 2) or 0
    local id = string.sub(record, 2, 2 + (length == 0 and 16 or length))
    if wanted[id] and not parse(record, true).cancelled then
      answer[#answer + 1], answer[#answer + 2] = id, number - LANE_KEYS
    end
    return nil
  end)
  if goes_on < 0 then
    answer[2] = goes_on
    break
  end
  answer[1] = answer[1] + 1
  if seen >= SCAN_RECORDS or bytes >= SCAN_BYTES then break end
end
return answer
