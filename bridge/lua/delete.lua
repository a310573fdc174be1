-- delete: forgets ended jobs. completed | failed | cancelled -> absent.
-- KEYS[1]: the partition's index. Item: { job }. Replies a word per item: ok | alive | unknown.
transition('delete', { 'allow-oom' }, function(items)
  local words = {}
  for i, item in ipairs(items) do
    local J = job_load(item[1])
    if not J then words[i] = 'unknown'
    elseif not JOB_ENDED[J.status] then words[i] = 'alive'
    else
      redis.call('DEL', J.key, J.log)
      redis.call('ZREM', INDEX, J.id)
      redis.call('PUBLISH', 'status:' .. J.id, '{"type":"deleted"}')
      words[i] = 'ok'
    end
  end
  return words
end)
