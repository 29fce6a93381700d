#!lua flags=allow-oom
-- reseal_letter: put other sealed parts into a dead letter that isn't damaged, where nothing has changed it meanwhile.
-- ARGV[1] id   [2] its value as it was read   [3] another sealed detail   [4] another sealed part of its record
-- Returns 1 or 0.
expect(4, {})
local value = redis.call('HGET', DEAD, ARGV[1])
if value ~= ARGV[2] then return 0 end
insist(#ARGV[4] > 0, 'sealed')
local letter = read_letter(value)
local head = parse(letter.record)
if head.broken then return 0 end
local record = reseal(letter.record, head, ARGV[4])
local new = struct.pack('>Bc0Bc0I4I6I4c0', #letter.lane, letter.lane, #letter.reason, letter.reason, letter.retries,
  letter.died, #ARGV[3], ARGV[3]) .. record
redis.call('HSET', DEAD, ARGV[1], new)
book.bytes = book.bytes + #new - #value
save()
return 1
