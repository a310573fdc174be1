-- change: changes what a job is called, its priority, and where its entries stand that no worker has been given. No status changes.
-- KEYS[1]: the partition's index. Item: { job, priority, moves = { { entry name, stream, own }, ... }, before, after }; priority: the job's from now
-- on, '' leaves it; own: the entry's own priority where it is on the stream of a higher one, '' none, false: as it was; moved entries stand
-- behind what the stream has; before, after: what the job stores of its identity, and is to store, or false.
-- Replies a word per item: ok | unknown | ended | conflict (the identity is not `before`) | often (the priority was changed too many times).
-- The old entry stays, since the group's `lag` is lost with an entry that is deleted unread: no record names it, so a worker acks it as stale. An
-- entry that a worker holds, with or without a claim, is not touched: of a moved one no node has begun.

local MOST_CHANGES = 20 -- each leaves an entry behind for every node that is ready, until a worker takes it

local function move_entry(J, name, stream, own)
  local entry, old = string.match(name, '^([^@]+)@(.+)$')
  local fields = entry and entry_fields(old, entry)
  if not fields or fields.job ~= J.id or not id_after(entry, last_delivered(old).id) then return end
  local nodes, records = { nil }, { nil }
  for _, node in ipairs(split(fields.nodes)) do
    local r = holds(J, name, node)
    if r then nodes[#nodes + 1], records[#records + 1] = node, r end
  end
  if not nodes[1] then return end
  local put = { 'job', J.id, 'nodes', table.concat(nodes, ',') }
  if own == false then own = fields.priority or '' else stream, own = in_line(J, stream, own) end
  if own ~= '' then put[5], put[6] = 'priority', own end
  for _, field in ipairs({ 'created', 'v', 'heavy', 'declined', 'needs', 'traceparent' }) do
    if fields[field] then put[#put + 1], put[#put + 2] = field, fields[field] end
  end
  local id = redis.call('XADD', stream, '*', unpack(put))
  redis.call('SET', stream .. ':careful', id)
  local last = redis.call('GET', old .. ':moved')
  if not last or id_after(entry, last) then redis.call('SET', old .. ':moved', entry) end
  for k = 1, #nodes do
    records[k].entry = entry_name(stream, id)
    node_put(J, nodes[k], S.ready, records[k])
  end
  return true
end

transition('change', { 'allow-oom' }, function(id, priority, moves, before, after)
  local J = string.find(id, '^[%w._-]+$') and job_load(id) -- an id from a malformed entry would name another key
  if not J then return 'unknown' end
  if before then
    if (field(J, 'about') or '') ~= before then return 'conflict' end
    if after ~= before then field_put(J, 'about', after ~= '' and after) end
  end
  if JOB_ENDED[J.status] then return (priority ~= '' or moves[1]) and 'ended' or 'ok' end
  local changes = tonumber(field(J, 'changes') or '0')
  local differs = priority ~= '' and priority ~= (field(J, 'priority') or 'normal')
  if differs or (priority ~= '' and moves[1]) then -- what stands at the front is taken back by the priority that the job has
    if changes >= MOST_CHANGES then return 'often' end
  end
  local counts = differs
  if differs then
    field_put(J, 'changes', text_of[changes]) -- in_line() looks at it
    field_put(J, 'priority', priority ~= 'normal' and priority)
    redis.call('PUBLISH', 'cancel', '/priority ' .. id .. ' ' .. priority)
  end
  for _, each in ipairs(moves) do
    local moved = move_entry(J, each[1], each[2], each[3])
    if moved and priority ~= '' then counts = true end
  end
  if counts then field_put(J, 'changes', text_of[changes + 1]) end
  return 'ok'
end)
