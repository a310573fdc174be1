-- room: asks whether more urgent entries for slots wait, and takes it on to make room for them; changes no job.
-- KEYS[1]: the partition's index. One item: { streams, rank, most, patience_ms }; the three streams of a place, rank 0 is the first's.
-- Replies how many, at most `most`. An entry counts when its rank is below the asker's, it has waited for so long, and no worker has
-- declined it. Whoever is told of it has half a minute to make room; then it may be told again.
local RANKS = { high = 0, normal = 1, low = 2 }
local PAGE, MOST_PAGES = 16, 16

transition('room', { 'allow-oom' }, function(streams, rank, most, patience)
  local found = 0
  for i = 1, rank do
    local after, pages, full = last_delivered(streams[i]).id, 0, true
    while full and found < most and pages < MOST_PAGES do
      local rows = redis.call('XRANGE', streams[i], '(' .. after, '+', 'COUNT', PAGE)
      for _, row in ipairs(rows) do
        local waits, since = fields_of(row[2]), tonumber(string.match(row[1], '^%d+'))
        local counts = waits.heavy == '1' and not waits.declined and (RANKS[waits.priority] or i - 1) < rank
        if found < most and counts and NOW - since >= patience and
          redis.call('SET', streams[i] .. ':room:' .. row[1], '1', 'NX', 'PX', '30000') then
          found = found + 1
        end
        after = row[1]
      end
      pages, full = pages + 1, #rows == PAGE
    end
  end
  return found
end)
