-- webhooks: returns the ended jobs whose subscribers must be notified, and records the results. Items:
--   { 'take', most, lease_ms }: ended jobs that are due; no other process receives them for lease_ms.
--   { 'done', job, claim, ttl_ms }: removed, its address and secret after that time. { 'again', job, claim, delay_ms }: due again then.
-- KEYS[1]: the partition's index. Replies per item: { { job, tries so far, claim }, ... }, or ok | stale (put there anew, or taken by another).
-- A claim is the score that the taker gave it: `webhooks<suffix>` has jobs by the time at which they are due, 0 from submit and retry.
transition('webhooks', { 'allow-oom' }, function(act, job, claim, delay)
  local tries = 'webhooks:tries' .. SUFFIX
  if act == 'take' then
    local most, lease = job, claim
    local taken, rows = {}, redis.call('ZDIFF', 2, WEBHOOKS, ALIVE, 'WITHSCORES')
    for k = 1, #rows, 2 do
      if tonumber(rows[k + 1]) <= NOW and #taken < most then
        local due = text_of[NOW + lease]
        redis.call('ZADD', WEBHOOKS, due, rows[k])
        taken[#taken + 1] = { rows[k], text_of[redis.call('HINCRBY', tries, rows[k], 1) - 1], due }
      end
    end
    return taken
  end
  if redis.call('ZSCORE', WEBHOOKS, job) ~= claim then return 'stale' end
  if act == 'done' then
    redis.call('ZREM', WEBHOOKS, job)
    redis.call('HDEL', tries, job)
    redis.call('PEXPIRE', 'webhooks:job:' .. job .. SUFFIX, delay or 0) -- as long as a retry may need it
  else
    redis.call('ZADD', WEBHOOKS, NOW + delay, job)
  end
  return 'ok'
end)
