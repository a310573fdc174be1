-- submit: creates jobs with their first entries, or answers for those that exist. absent -> queued | scheduled.
-- KEYS[1]: the partition's index. Item: { id, digest, fields (flat), remaining, batches, start_at_ms or 0, max_queued }.
-- Replies a word per item: ok | same (this very submission) | exists (another with this id) | full.
-- Not flagged allow-oom: at the memory limit nothing is accepted and nothing is written.
local words = {}
for i, item in ipairs(items()) do
  local id, digest, fields, remaining, batches, start_at, max_queued = unpack(item)
  local key = job_key(id)
  local known = redis.call('HGET', key, 'digest')
  if known then
    words[i] = known == digest and 'same' or 'exists'
  elseif max_queued > 0 and redis.call('SCARD', ALIVE) >= max_queued then
    words[i] = 'full'
  else
    local status = start_at > NOW and S.scheduled or S.queued
    local J = job_new(id, { status, '0', '0', integer(remaining), '0', '0', '0', '1' })
    J.row = {} -- nothing of it is stored yet
    field_put(J, 'digest', digest)
    field_put(J, 'created', integer(NOW))
    if start_at > 0 then field_put(J, 'startAt', integer(start_at)) end
    for k = 1, #fields, 2 do field_put(J, fields[k], fields[k + 1]) end
    redis.call('ZADD', INDEX, NOW, id)
    redis.call('SADD', ALIVE, id)
    status_event(J)
    for _, batch in ipairs(batches) do
      dispatch(J, batch, function(r) return r.status == S.pending end, status == S.scheduled and start_at or nil)
    end
    words[i] = 'ok'
  end
end
save()
return words
