-- delete: forgets ended jobs. completed | failed | cancelled -> absent.
-- KEYS[1]: the partition's index. Item: { job }. Replies a word per item: ok | alive | unknown.
transition('delete', { 'allow-oom' }, function(id)
  local J = job_load(id)
  if not J then return 'unknown' end
  if not JOB_ENDED[J.status] then return 'alive' end
  redis.call('DEL', job_key(id), job_key(id) .. ':events')
  redis.call('DEL', 'webhooks:job:' .. id .. SUFFIX)
  redis.call('ZREM', INDEX, id)
  redis.call('PUBLISH', 'status:' .. id, '{"type":"deleted"}')
  return 'ok'
end)
