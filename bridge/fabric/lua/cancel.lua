-- cancel: ends every node that no owner is running. scheduled | queued | running -> cancelled, or cancelling.
-- KEYS[1]: the partition's index. Item: { job, node ids }.
-- Replies a word per item: cancelled | cancelling | ended | unknown.
transition('cancel', { 'allow-oom' }, function(id, nodes)
  local J = job_load(id)
  if not J then return 'unknown' end
  if JOB_ENDED[J.status] then return 'ended' end
  if J.running > 0 and job_move(J, S.cancelling) then status_event(J) end
  for _, node in ipairs(nodes) do
    local r = node_get(J, node)
    if r.status == S.pending or r.status == S.ready then node_cancel(J, node, r) end
  end
  if J.running == 0 and not JOB_ENDED[J.status] then job_end(J, S.cancelled) end
  redis.call('PUBLISH', 'cancel', id)
  return J.status
end)
