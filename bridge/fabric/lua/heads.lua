-- heads: returns of each job only what a search looks at, so that a search over many jobs reads little of each.
-- KEYS[1]: the partition's index. Item: { job }. Replies, in MessagePack, per item {} or { owner, pipeline, about }; '' where a field is missing.
transition('heads', { 'no-writes' }, function(id)
  local found = redis.call('HMGET', job_key(id), 'state', 'owner', 'pipeline', 'about')
  if not found[1] then return {} end
  return { found[2] or '', found[3] or '', found[4] or '' }
end, function(replies) return cmsgpack.pack(replies) end)
