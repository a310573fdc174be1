-- retry: begins the next attempt of an ended job. failed | cancelled -> queued; the nodes named become pending again.
-- KEYS[1]: the partition's index. Item: { job, expected status, expected attempt, nodes to reset, batches }.
-- Replies a word per item: ok | conflict | unknown.
local words = {}
for i, item in ipairs(items()) do
  local id, status, attempt, reset, batches = unpack(item)
  local J = job_load(id)
  if not J then words[i] = 'unknown'
  elseif J.status ~= status or J.attempt ~= attempt or not JOB_MOVES[status][S.queued] then words[i] = 'conflict'
  else
    for _, node in ipairs(reset) do redis.call('HDEL', J.key, 'n:' .. node, 'p:' .. node, 'a:' .. node) end
    J.progress = 0
    for _, name in ipairs(redis.call('HKEYS', J.key)) do
      local kind = string.sub(name, 1, 2)
      if kind == 'c:' or kind == 'e:' then redis.call('HDEL', J.key, name) end
      if kind == 'p:' then J.progress = J.progress + tonumber(redis.call('HGET', J.key, name)) end
    end
    job_move(J, S.queued)
    J.attempt, J.remaining, J.running, J.broken = attempt + 1, #reset, 0, 0
    J.error, J.finished = '', ''
    redis.call('PERSIST', J.key)
    redis.call('PERSIST', J.log)
    redis.call('SADD', ALIVE, id)
    redis.call('ZADD', INDEX, 'NX', redis.call('HGET', J.key, 'created'), id)
    status_event(J)
    for _, batch in ipairs(batches) do dispatch(J, batch, function(r) return r.status == S.pending end) end
    conclude(J) -- a cancel that came too late leaves nothing to run again
    words[i] = 'ok'
  end
end
save_jobs()
return words
