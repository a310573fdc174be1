-- upgrade: moves a job of layout 3 to layout 4: a node's result, which was in its record after a newline, becomes a separate field,
-- and the nodes that stored artifacts are listed. Nothing else changes, whatever the job's status.
-- KEYS[1]: the partition's index. Item: { job }. Replies a word per item: ok | unknown | same.
transition('upgrade', { 'allow-oom' }, function(id)
  local J = job_load(id)
  if not J then return 'unknown' end
  for _, node in ipairs(names_of(J, 'n:')) do
    local record, left = string.match(field(J, 'n:' .. node), '^([^\n]*)\n(.*)$')
    if record then
      field_put(J, 'n:' .. node, record)
      if left ~= '' then
        field_put(J, 'o:' .. node, left)
        J.outputs = J.outputs + #left
      end
    end
  end
  local stored = names_of(J, 'a:')
  if stored[1] and not field(J, 'stored') then
    field_put(J, 'stored', table.concat(stored, ','))
    for _, node in ipairs(stored) do J.outputs = J.outputs + redis.call('HSTRLEN', job_key(id), 'a:' .. node) end
  end
  if not is_changed(J) then return 'same' end
  for _, text in ipairs(redis.call('LRANGE', job_key(id) .. ':events', 0, -1)) do J.logged = J.logged + #text end
  return 'ok'
end)
