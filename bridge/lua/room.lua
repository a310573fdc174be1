-- room: asks whether entries for slots wait on these streams, and takes it on to make room for them; changes no job.
-- KEYS[1]: the partition's index. One item: { streams, most, patience_ms }. Replies how many, at most `most`.
-- An entry counts when it has waited for so long and was not given back by a worker. Whoever is told of it has half a minute to make
-- room; then it may be told again.
transition('room', { 'allow-oom' }, function(streams, most, patience)
  local found = 0
  for _, stream in ipairs(streams) do
    local rows = redis.call('XRANGE', stream, '(' .. last_delivered(stream).id, '+', 'COUNT', '16')
    for _, row in ipairs(rows) do
      local waits = fields_of(row[2])
      local since = tonumber(string.match(row[1], '^%d+'))
      if found < most and waits.heavy == '1' and not waits.priority and NOW - since >= patience and
        redis.call('SET', stream .. ':room:' .. row[1], '1', 'NX', 'PX', '30000') then
        found = found + 1
      end
    end
  end
  return found
end)
