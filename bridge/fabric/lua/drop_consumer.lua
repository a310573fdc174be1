-- drop_consumer: removes a consumer that holds nothing. DELCONSUMER with pending entries would lose them.
-- KEYS[1]: the partition's index. Item: { stream, consumer }. Replies a word per item: ok | holds | unknown.
transition('drop_consumer', { 'allow-oom' }, function(stream, consumer)
  local pending = redis.pcall('XPENDING', stream, GROUP, '-', '+', 1, consumer)
  if pending.err then return 'unknown' end
  if pending[1] then return 'holds' end
  redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, consumer)
  return 'ok'
end)
