-- drop_consumer: removes a consumer that holds nothing. DELCONSUMER with pending entries would lose them.
-- KEYS[1]: the partition's index. Item: { stream, consumer }. Replies a word per item: ok | holds | unknown.
transition('drop_consumer', { 'allow-oom' }, function(items)
  local words = {}
  for i, item in ipairs(items) do
    local pending = redis.pcall('XPENDING', item[1], GROUP, '-', '+', 1, item[2])
    if pending.err then words[i] = 'unknown'
    elseif pending[1] then words[i] = 'holds'
    else
      redis.call('XGROUP', 'DELCONSUMER', item[1], GROUP, item[2])
      words[i] = 'ok'
    end
  end
  return words
end)
