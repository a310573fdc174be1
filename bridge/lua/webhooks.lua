-- webhooks: which ended jobs have somebody to tell, and what became of telling. Items:
--   { 'take', most, lease_ms }: ended jobs that are due; nobody else is given them for lease_ms.
--   { 'done', job, claim }: forgotten. { 'again', job, claim, delay_ms }: due again then.
-- KEYS[1]: the partition's index. Replies per item: { { job, tries so far, claim }, ... }, or ok | stale (put there anew, or taken by another).
-- A claim is the score that the taker gave it: `webhooks<suffix>` has jobs by the time at which they are due, 0 from submit and retry.
transition('webhooks', { 'allow-oom' }, function(items)
  local TRIES = 'webhooks:tries' .. SUFFIX
  local replies = {}
  for i, item in ipairs(items) do
    local act, job, claim = item[1], item[2], item[3]
    if act == 'take' then
      local taken, rows = {}, redis.call('ZDIFF', 2, WEBHOOKS, ALIVE, 'WITHSCORES')
      for k = 1, #rows, 2 do
        if tonumber(rows[k + 1]) <= NOW and #taken < item[2] then
          local due = integer(NOW + item[3])
          redis.call('ZADD', WEBHOOKS, due, rows[k])
          taken[#taken + 1] = { rows[k], integer(redis.call('HINCRBY', TRIES, rows[k], 1) - 1), due }
        end
      end
      replies[i] = taken
    elseif redis.call('ZSCORE', WEBHOOKS, job) ~= claim then
      replies[i] = 'stale'
    else
      if act == 'done' then
        redis.call('ZREM', WEBHOOKS, job)
        redis.call('HDEL', TRIES, job)
      else
        redis.call('ZADD', WEBHOOKS, NOW + item[4], job)
      end
      replies[i] = 'ok'
    end
  end
  return replies
end)
