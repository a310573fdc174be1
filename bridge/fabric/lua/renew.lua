-- renew: keeps the entries that a claim, or no claim yet (take.lua), still holds; changes no state.
-- KEYS[1]: the partition's index. Item: { job, stream, entry, claim, consumer }.
-- Replies a word per item: ok | `ok PRIORITY` of a job whose priority was changed | lost | cancelling (also of a job that has ended: nothing of it
-- should run).
transition('renew', { 'allow-oom' }, function(id, stream, entry, claimed, consumer)
  local state = redis.call('HMGET', job_key(id), 'state', 'c:' .. entry_name(stream, entry), 'changes', 'priority')
  if not state[1] or (state[2] or claimed) ~= claimed or entry_owner(stream, entry) ~= consumer then return 'lost' end
  redis.call('XCLAIM', stream, GROUP, consumer, '0', entry, 'JUSTID')
  if not JOB_STARTS[string.match(state[1], '^%S+')] then return 'cancelling' end
  return state[3] and 'ok ' .. (state[4] or 'normal') or 'ok'
end)
