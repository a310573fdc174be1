-- submit: creates jobs with their first entries, or answers for those that exist. absent -> queued | scheduled.
-- KEYS[1]: the partition's index. Item: { id, digest, fields (flat), remaining, batches, start_at_ms or 0, max_queued }.
-- Replies a word per item: ok | same (this very submission) | exists (another with this id) | full; last the time, ms.
-- Not flagged allow-oom: at the memory limit nothing is accepted and nothing is written.
local words = {}
local alive = redis.call('SCARD', ALIVE)
for i, item in ipairs(items()) do
  local id, digest, fields, remaining, batches, start_at, max_queued = unpack(item)
  local known
  if loaded[id] then known = loaded[id].fields.digest else known = redis.call('HGET', job_key(id), 'digest') end
  if known then
    words[i] = known == digest and 'same' or 'exists'
  elseif max_queued > 0 and alive >= max_queued then
    words[i] = 'full'
  else
    local status = start_at > NOW and S.scheduled or S.queued
    local J = job_new(id, status, 0, 0, remaining, 0, 0, 0, 1, '-', '-', NOW_TEXT)
    J.fresh = true
    J.put = { 'state', '', 'digest', digest, unpack(fields) }
    J.fields.digest = digest
    for k = 1, #fields, 2 do J.fields[fields[k]] = fields[k + 1] end
    if start_at > 0 then field_put(J, 'startAt', integer(start_at)) end
    redis.call('ZADD', INDEX, NOW, id)
    redis.call('SADD', ALIVE, id)
    count(status, 1)
    alive = alive + 1
    status_event(J)
    for _, batch in ipairs(batches) do
      dispatch(J, batch, is_pending, status == S.scheduled and start_at or nil)
    end
    words[i] = 'ok'
  end
end
save()
words[#words + 1] = NOW_TEXT
return words
