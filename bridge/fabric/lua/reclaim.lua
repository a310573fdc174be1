-- reclaim: takes an entry over from an owner that is dead by two looks. running stays running, its deliveries + 1.
-- KEYS[1]: the partition's index. Item: { stream, entry, owner, stamp_ms, consumer, nonce }; stamp = TIME - idle as first seen.
-- Replies a claim per item as take does (with every record of the job), or { 'moved', stream, entry }.
transition('reclaim', { 'allow-oom' }, function(stream, entry, owner, stamp, consumer, nonce)
  local holder, idle = entry_owner(stream, entry)
  if holder ~= owner or math.abs(NOW - idle - stamp) > 2 then return { 'moved', stream, entry } end
  redis.call('XCLAIM', stream, GROUP, consumer, '0', entry, 'JUSTID')
  entry_delivered(stream, entry)
  return claim(stream, entry, entry_fields(stream, entry), consumer, nonce, nil, false, owner)
end)
