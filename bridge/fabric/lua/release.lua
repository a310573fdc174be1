-- release: gives up a claim, its nodes going back. running | ready -> ready, under a new entry; the old entry is acked.
-- KEYS[1]: the partition's index. Item: { job, stream, entry, claim, batches }.
-- Replies a word per item: ok | gone | stale.
transition('release', { 'allow-oom' }, function(id, stream, entry, claimed, batches)
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
  conclude(J)
  claim_drop(J, name)
  entry_ack(stream, entry)
  return 'ok'
end)
