#!lua flags=allow-oom
-- bury: keep an operation that was never accepted as a dead letter, so that a person can look at it.
-- ARGV[1] lane   [2] id   [3] reason   [4] sealed
-- Returns 1.
local record = build(ARGV[2], 0, 0, ARGV[4])
book.pending = book.pending + 1
book.bytes = book.bytes + #record
bury(ARGV[1], { id = ARGV[2], record = record }, ARGV[3], 0, '')
commit()
return 1
