-- retry: begins the next attempt of an ended job. failed | cancelled -> queued; the nodes named become pending again.
-- KEYS[1]: the partition's index. Item: { job, expected status, expected attempt, nodes to reset, batches, skips, limit,
-- max_queued }; skip = { node, reason, share }: decisions that the kept nodes have already made. limit: of the calling key, and max_queued: as in submit.
-- Replies a word per item: ok | conflict | unknown | full | quota | rate MS.
transition('retry', { 'allow-oom' }, function(id, status, attempt, reset, batches, skips, limit, max_queued)
  local J = job_load(id)
  if not J then return 'unknown' end
  if J.status ~= status or J.attempt ~= attempt or not JOB_MOVES[status][S.queued] then return 'conflict' end
  if max_queued > 0 and redis.call('SCARD', ALIVE) >= max_queued then return 'full' end
  local refusal = over(limit)
  if refusal then return refusal end
  for _, node in ipairs(reset) do
    field_put(J, 'n:' .. node, false)
    J.nodes[node] = nil
    field_put(J, 'a:' .. node, false)
    field_put(J, 'o:' .. node, false)
  end
  for _, kind in ipairs({ 'c:', 'e:' }) do
    for _, name in ipairs(names_of(J, kind)) do field_put(J, kind .. name, false) end
  end
  J.progress = 0
  for _, node in ipairs(names_of(J, 'n:')) do J.progress = J.progress + node_get(J, node).share end
  J.outputs = 0
  for _, kind in ipairs({ 'o:', 'a:' }) do
    for _, node in ipairs(names_of(J, kind)) do J.outputs = J.outputs + redis.call('HSTRLEN', job_key(id), kind .. node) end
  end
  local stored = names_of(J, 'a:')
  field_put(J, 'stored', stored[1] and table.concat(stored, ',') or false)
  job_move(J, S.queued)
  J.attempt, J.remaining, J.running, J.broken = attempt + 1, #reset, 0, 0
  J.finished = '-'
  field_put(J, 'error', false)
  redis.call('PERSIST', job_key(id))
  redis.call('PERSIST', job_key(id) .. ':events')
  redis.call('SADD', ALIVE, id)
  count_for(limit, id)
  redis.call('ZADD', INDEX, 'NX', J.created, id)
  if field(J, 'webhook') then
    redis.call('ZADD', WEBHOOKS, 0, id)
    redis.call('PERSIST', 'webhooks:job:' .. id .. SUFFIX)
  end
  status_event(J)
  for _, skip in ipairs(skips) do node_skip(J, skip[1], node_get(J, skip[1]), skip[2], skip[3]) end
  for _, batch in ipairs(batches) do dispatch(J, batch, is_pending) end
  conclude(J) -- after a cancel that came too late no node is left to run again
  return 'ok'
end)
