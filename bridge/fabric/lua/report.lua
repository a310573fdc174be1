-- report: commits a worker's reports on its claims. running -> ended | ready; pending -> running | ready | skipped.
-- KEYS[1]: the partition's index. Item: { job, stream, entry, claim, steps, reads, ack, begun? }; claim = "consumer nonce";
-- begun = { nodes, worker, when }: the first report on an entry that was held without a claim (take.lua). It passes where no consumer has claimed
-- the entry since and its nodes are ready under it, and claims it, or ends it where it is acknowledged at once.
-- An item without an entry comes from the scheduler; it may only skip, send and resend, which no claim guards: each
-- passes only if the node is pending, or if the entry that its record names is truly gone.
-- `too_large`: a job's outputs would exceed their limit; the end, every later step (`refused`) and the ack are not written.
-- Order within an item: the steps as given, the end-of-job test, the ack; the reads, which see all of it, last.
-- Replies per item `word status word...`: ok | gone | stale, the job's status (or -), a word for each step; with reads a list of that text and
-- node, raw record, node, raw record, ...

local function own(r, entry) return r.status == S.pending or (r.status == S.ready and r.entry == entry and entry ~= '') end

local steps_of = {}

-- The bytes that every node may store whatever the others have stored: an error of one sentence. Each node exceeds the job's limit by at most this.
local FREE_BYTES = 1024

-- { 'end', node, attempt, status, reason, payload, share, handled, error or '', artifacts or '', nil or the reason of its dead letter }
steps_of['end'] = function(J, entry, step)
  local _, node, attempt, status, reason, payload, share, handled, failure, artifacts, given_up = unpack(step)
  local r = node_get(J, node)
  if NODE_ENDED[r.status] and r.entry == entry and r.attempt == attempt then return 'already' end
  if r.status ~= S.running or r.entry ~= entry or r.attempt ~= attempt then return 'stale' end
  if not NODE_MOVES[S.running][status] then return 'illegal' end
  local size = #payload + #artifacts
  if size > FREE_BYTES and J.outputs + size > OUTPUT_BYTES then return 'too_large' end
  r.status, r.reason = status, reason == '' and '-' or reason
  J.outputs = J.outputs + size
  if payload ~= '' then field_put(J, 'o:' .. node, payload) end
  local moved = share >= 0 and share_set(J, r, share)
  node_put(J, node, S.running, r)
  if status == S.failed and not handled then
    J.broken = J.broken + 1
    if J.broken == 1 then field_put(J, 'error', string.sub(failure, 1, -2) .. ',"nodeId":"' .. node .. '"}') end
  end
  if artifacts ~= '' then
    field_put(J, 'a:' .. node, artifacts)
    local stored = field(J, 'stored')
    field_put(J, 'stored', stored and stored .. ',' .. node or node)
  end
  if given_up then dead_letter(J.id, node, J.attempt, 'worker_lost', given_up) end
  node_event(J, node, r, nil, failure ~= '' and failure or nil)
  if moved and J.remaining > 0 then publish_progress(J, node, '1') end
  return 'ok'
end

-- { 'again', node, attempt, next attempt, failure, batch }: back to ready: later, a retryable failure with attempts left (next =
-- attempt + 1); or at once, or later, to continue in another worker (the same attempt).
steps_of['again'] = function(J, entry, step)
  local _, node, attempt, following, failure, batch = unpack(step)
  local r = node_get(J, node)
  if r.attempt == following and r.entry ~= entry then return 'already' end
  if r.status ~= S.running or r.entry ~= entry or r.attempt ~= attempt then return 'stale' end
  if not JOB_STARTS[J.status] then
    node_cancel(J, node, r)
    return 'cancelled'
  end
  dispatch(J, batch, function(record)
    if following > attempt then record.attempt, record.deliveries = following, 0 end
    return true
  end, nil, failure, following == attempt)
  return 'ok'
end

-- { 'skip', node, reason, share }
steps_of['skip'] = function(J, entry, step)
  local _, node, reason, share = unpack(step)
  local r = node_get(J, node)
  if r.status == S.skipped then return 'already' end
  if not own(r, entry) or not JOB_STARTS[J.status] then return 'taken' end
  node_skip(J, node, r, reason, share)
  return 'ok'
end

-- { 'start', node, worker }
steps_of['start'] = function(J, entry, step)
  if entry == '' then return 'stale' end
  local r = node_get(J, step[2])
  if r.status == S.running and r.entry == entry then return 'already' end
  local started = node_start(J, step[2], r, entry, step[3])
  return started and 'ok' or 'taken'
end

-- { 'send', batch }
steps_of['send'] = function(J, entry, step)
  if not JOB_STARTS[J.status] then return 'taken' end
  local sent = dispatch(J, step[2], function(r) return own(r, entry) end)
  return sent and 'ok' or 'taken'
end

-- { 'resend', entry name, batch }: the records name an entry that is in no delay any more, and on no stream or acknowledged (the group's last one
-- stays on the stream, acks_save()); in a cancelled job the step ends these nodes
steps_of['resend'] = function(J, _, step)
  local _, lost, batch = unpack(step)
  if JOB_ENDED[J.status] then return 'taken' end
  if string.sub(lost, 1, 6) == 'delay:' then
    if redis.call('ZSCORE', DELAYS, string.sub(lost, 7)) then return 'taken' end
  else
    local id, stream = string.match(lost, '^([^@]+)@(.+)$')
    if entry_fields(stream, id) and (id_after(id, last_delivered(stream).id) or entry_owner(stream, id)) then return 'taken' end
  end
  claim_drop(J, lost)
  if not JOB_STARTS[J.status] then
    for _, node in ipairs(batch[3]) do
      local r = node_get(J, node)
      if r.entry == lost and (r.status == S.ready or r.status == S.running) then node_cancel(J, node, r) end
    end
    return 'cancelled'
  end
  local sent = dispatch(J, batch, function(r)
    if r.entry ~= lost or (r.status ~= S.ready and r.status ~= S.running) then return false end
    if r.status == S.running then r.deliveries = r.deliveries + 1 end
    return true
  end)
  return sent and 'ok' or 'taken'
end

-- { 'progress', node, share, node fraction as text }
steps_of['progress'] = function(J, entry, step)
  local r = node_get(J, step[2])
  if r.status ~= S.running or r.entry ~= entry then return 'stale' end
  if step[3] < r.share then return 'behind' end -- within an attempt progress does not decrease
  share_set(J, r, step[3])
  node_put(J, step[2], S.running, r)
  publish_progress(J, step[2], step[4])
  return 'ok'
end

-- { 'event', channel, body, number }: numbered within the delivery, so that a report sent twice logs it once
steps_of['event'] = function(J, entry, step)
  local number = tonumber(field(J, 'e:' .. entry) or '0')
  if step[4] <= number then return 'already' end
  field_put(J, 'e:' .. entry, text_of[step[4]])
  emit(J, step[2] .. ':', 'e', step[3])
  return 'ok'
end

local unclaimed = { skip = true, send = true, resend = true }

-- Returns the fields that an item will need; beyond the limit of unpack() the rest is read one by one.
local function wanted(name, steps, reads, ack)
  local names = { 'c:' .. name, 'log', ack and 'pipeline' or nil, nil } -- the end of a job is counted by its pipeline
  local sends = false
  for k = 1, #steps do
    if #names > 2000 then return names end
    local word = steps[k][1]
    if word == 'send' then
      if not sends then names[#names + 1] = 'changes' end
      sends = true
    elseif word ~= 'resend' and word ~= 'event' then names[#names + 1] = 'n:' .. steps[k][2] end
  end
  for k = 1, #reads do
    if #names > 2000 then return names end
    names[#names + 1], names[#names + 2] = 'n:' .. reads[k], 'o:' .. reads[k]
  end
  return names
end

-- Starts the nodes of an entry that was held without a claim; false where they are no longer to be started under it.
local function begin_held(J, name, begun)
  local nodes = split(begun[1])
  for k = 1, #nodes do
    local r = holds(J, name, nodes[k])
    if not r or r.deliveries > 0 or not JOB_STARTS[J.status] then return false end
  end
  for k = 1, #nodes do node_start(J, nodes[k], J.nodes[nodes[k]], name, begun[2], begun[3]) end
  J.fields['e:' .. name] = false
  return true
end

transition('report', { 'allow-oom' }, function(id, stream, entry, claimed, steps, reads, ack, begun)
  local name = entry ~= '' and entry_name(stream, entry) or ''
  local J = job_load(id, wanted(name, steps, reads, ack))
  if not J then
    if entry ~= '' then entry_ack(stream, entry) end
    return 'gone -'
  end
  local owned = entry ~= '' and field(J, 'c:' .. name)
  if entry ~= '' and owned ~= claimed then
    if owned or not begun then return 'stale ' .. J.status end
    if not begin_held(J, name, begun) then
      entry_ack(stream, entry)
      return 'stale ' .. J.status
    end
  end
  local words, refused = '', false
  for k = 1, #steps do
    local step = steps[k]
    if refused then words = words .. ' refused'
    elseif entry == '' and not unclaimed[step[1]] then words = words .. ' stale'
    else
      local word = steps_of[step[1]](J, name, step)
      refused = word == 'too_large'
      words = words .. ' ' .. word
    end
  end
  conclude(J)
  if ack and not refused and entry ~= '' then
    if owned or field(J, 'e:' .. name) then claim_drop(J, name) end
    entry_ack(stream, entry)
  elseif entry ~= '' and not owned then
    field_put(J, 'c:' .. name, claimed)
  end
  local said = 'ok ' .. J.status .. words
  if #reads == 0 then return said end
  local answer = { said }
  for k = 1, #reads do answer[2 * k], answer[2 * k + 1] = reads[k], record_told(J, reads[k]) or '' end
  return answer
end)
