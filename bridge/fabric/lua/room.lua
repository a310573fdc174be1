-- room: checks whether a more urgent entry for a slot waits, and assigns its preemption to the caller; changes no job.
-- KEYS[1]: the partition's index. One item: { streams, rank, patience_ms }; the three streams of a place, rank 0 is the first's.
-- Replies 1 or 0. An entry counts when its rank is below the asker's, it has waited for patience_ms, and no worker has
-- declined it. The caller that receives 1 has half a minute to preempt a node; then the entry may be reported again.
local RANKS = { high = 0, normal = 1, low = 2 }
local PAGE, MOST_PAGES = 16, 16

transition('room', { 'allow-oom' }, function(streams, rank, patience)
  for i = 1, rank do
    local after, pages, full, moved = last_delivered(streams[i]).id, 0, true, last_moved(streams[i])
    while full and pages < MOST_PAGES do
      local rows = redis.call('XRANGE', streams[i], '(' .. after, '+', 'COUNT', PAGE)
      for _, row in ipairs(rows) do
        local waits, since = fields_of(row[2]), tonumber(string.match(row[1], '^%d+'))
        local counts = waits.heavy == '1' and not waits.declined and (RANKS[waits.priority] or i - 1) < rank
        if counts and NOW - since >= patience and stands(JOB, streams[i], row[1], waits, moved) and
          redis.call('SET', streams[i] .. ':room:' .. row[1], '1', 'NX', 'PX', '30000') then
          return 1
        end
        after = row[1]
      end
      pages, full = pages + 1, #rows == PAGE
    end
  end
  return 0
end)
