-- submit: creates jobs with their first entries, or reports those that exist. absent -> queued | scheduled.
-- KEYS[1]: the partition's index. Item: { id, digest, remaining, batches, start_at_ms or 0, max_queued, limit?, webhook?, field, value, ...}.
-- Replies a word per item: ok | same (this very submission) | exists (another with this id) | full | quota | rate MS; last the time, ms.
-- Not flagged allow-oom: at the memory limit no job is accepted and nothing is written.

-- The metatable for the missing fields of a new job: they are not looked up in the store.
local NOTHING_ELSE = { __index = function() return false end }

local function known_digest(id)
  if loaded[id] then return loaded[id].fields.digest end
  return redis.call('HGET', job_key(id), 'digest')
end

transition('submit', {}, function(id, digest, remaining, batches, start_at, max_queued, limit, webhook, ...)
  local known = known_digest(id)
  if known then return known == digest and 'same' or 'exists' end
  alive = alive or redis.call('SCARD', ALIVE)
  if max_queued > 0 and alive >= max_queued then return 'full' end
  local refusal = over(limit)
  if refusal then return refusal end
  local status = start_at > NOW and S.scheduled or S.queued
  local J = job_new(id, setmetatable({ digest = digest, graph = nil, routes = nil, about = nil }, NOTHING_ELSE), status, 0, 0, remaining, 0, 0, 0, 1, '-', '-', NOW_TEXT)
  J.put = { 'state', '', 'digest', digest, ... }
  for k = 5, #J.put, 2 do J.fields[J.put[k]] = J.put[k + 1] end
  if start_at > 0 then field_put(J, 'startAt', text_of[start_at]) end
  redis.call('ZADD', INDEX, NOW_TEXT, id)
  redis.call('SADD', ALIVE, id)
  count(status, 1)
  alive = alive + 1
  count_for(limit, id)
  if webhook then redis.call('ZADD', WEBHOOKS, 0, id) end
  -- Address and secret are stored outside the job: a worker's user may read jobs, but no `webhooks:*`.
  if type(webhook) == 'string' then redis.call('SET', 'webhooks:job:' .. id .. SUFFIX, webhook) end
  status_event(J)
  for k = 1, #batches do dispatch(J, batches[k], is_pending, status == S.scheduled and start_at or nil) end
  return 'ok'
end, function(words)
  words[#words + 1] = NOW_TEXT
  return words
end)
