#!lua flags=allow-oom
-- audit: note what a person did. The oldest notes go when there are very many.
-- KEYS[20] the log (a stream)   ARGV[1] about how many notes are kept   [2] who   [3] what   [4] which
-- Returns the note's id.
expect(4, { [1] = 1 })
return redis.call('XADD', KEYS[LANE_KEYS + 1], 'MAXLEN', '~', ARGV[1], '*', 'wall', int(book.wall), 'who', ARGV[2],
  'what', ARGV[3], 'which', ARGV[4])
