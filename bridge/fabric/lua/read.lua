-- read: a job's header, records and log in one look, so that a snapshot and the events after it fit together.
-- KEYS[1]: the partition's index. Item: { job, after or -1 (no events), graph? }.
-- Replies, in MessagePack, per item {} or { fields (flat, without the graph unless asked for), events }.
transition('read', { 'no-writes' }, function(id, after, with_graph)
  local key = job_key(id)
  local flat, events = {}, {}
  local all = redis.call('HGETALL', key)
  local trimmed, seq = 0, 0
  for k = 1, #all, 2 do
    local name = all[k]
    if name == 'state' then
      local _, last, cut = string.match(all[k + 1], STATE_WORDS)
      seq, trimmed = tonumber(last), tonumber(cut)
    end
    if with_graph or name ~= 'graph' then flat[#flat + 1], flat[#flat + 2] = name, all[k + 1] end
  end
  if #flat == 0 then return {} end
  if after >= 0 and after < seq then events = redis.call('LRANGE', key .. ':events', math.max(0, after - trimmed), -1) end
  return { flat, events }
end, function(replies) return cmsgpack.pack(replies) end)
