-- release: gives up a claim, its nodes going back. running | ready -> ready, under a new entry; the old entry is acked.
-- KEYS[1]: the partition's index. Item: { job, stream, entry, claim, batches, nodes }; nodes: all that can be under the entry.
-- Replies a word per item: ok | gone | stale | left (one of `nodes` that the batches do not name is still under the entry, as after a report that was never
-- written: the entry stays, and what its lease leaves is taken over).
local function is_named(J, name, nodes)
  for first = 1, #nodes, 1000 do
    local keys = {}
    for i = first, math.min(first + 999, #nodes) do keys[#keys + 1] = 'n:' .. nodes[i] end
    for k, raw in ipairs(redis.call('HMGET', job_key(J.id), unpack(keys))) do
      local r = raw and string.find(raw, ' ' .. name .. ' ', 1, true) and node_get(J, nodes[first + k - 1])
      if r and r.entry == name and not NODE_ENDED[r.status] then return true end
    end
  end
  return false
end

transition('release', { 'allow-oom' }, function(id, stream, entry, claimed, batches, nodes)
  local name = entry_name(stream, entry)
  local J = job_load(id)
  if not J then
    entry_ack(stream, entry)
    return 'gone'
  end
  local owned = field(J, 'c:' .. name)
  if owned ~= claimed and (owned or not holds(J, name, batches[1] and batches[1][3][1] or '')) then return 'stale' end
  for _, batch in ipairs(batches) do
    if JOB_STARTS[J.status] then
      dispatch(J, batch, function(r) return r.entry == name and (r.status == S.running or r.status == S.ready) end)
    else
      for _, node in ipairs(batch[3]) do
        local r = node_get(J, node)
        if r.entry == name and not NODE_ENDED[r.status] then node_cancel(J, node, r) end
      end
    end
  end
  if is_named(J, name, nodes) then return 'left' end
  conclude(J)
  claim_drop(J, name)
  entry_ack(stream, entry)
  return 'ok'
end)
