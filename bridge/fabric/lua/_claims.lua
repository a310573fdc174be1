-- Claims: the consumer that has an entry, and the nodes of the entry that it may start.

-- Returns whether an entry covers a node that is ready: no consumer has claimed it, and its reader may start the node.
local function holds(J, name, node)
  local r = node_get(J, node)
  return r.status == S.ready and r.entry == name and r
end

-- Returns whether take may have handed out nodes, which a dead owner may have begun, without a claim (take.lua): light, and they may run twice.
local function is_held(J, fields, ready)
  if fields.heavy or fields.needs or fields.priority or fields.declined then return false end
  local known, routes = pcall(cjson.decode, field(J, 'routes'))
  for i = 1, #ready, 2 do
    local route = known and type(routes) == 'table' and routes[ready[i]]
    if type(route) ~= 'table' or route[2] ~= true or route[4] ~= true or ready[i + 1].deliveries > 0 then return false end
  end
  return true
end

local function claim_drop(J, name)
  field_put(J, 'c:' .. name, false)
  field_put(J, 'e:' .. name, false)
end

local function with_node(list, node, r)
  if not list[1] then return { node, r } end
  list[#list + 1], list[#list + 2] = node, r
  return list
end

-- Returns the nodes of `candidates` that an entry covers: ready and running, each a list { node, record, node, record, ... }.
local function covered(J, name, candidates)
  local ready, running = NONE, NONE
  for k = 1, #candidates do
    local node = candidates[k]
    local r = node_get(J, node)
    if r.entry == name then
      if r.status == S.ready then ready = with_node(ready, node, r)
      elseif r.status == S.running then running = with_node(running, node, r) end
    end
  end
  return ready, running
end

-- A node that has started, or must start alone, in the form of take's answer.
local function begun(list, node, r)
  local text = node .. ' ' .. text_of[r.attempt] .. ' ' .. text_of[r.deliveries]
  if list == '' then return text end
  return list .. ',' .. text
end

-- Takes an entry that this consumer has in its pending list: acks what is garbage or out of date, else writes the claim
-- and starts as many of its nodes as `free` = { light, heavy } says, counting down. Answers { word, stream, entry, ... }, see the end.
-- `new`: no consumer can have claimed it yet. `lost`: the dead owner, whose claim is taken over, so its nodes are looked up in all records,
-- none is started, and what ran, or may have run, counts a delivery. Suspects are light nodes whose owner died with them: they are started
-- one by one when they run alone, so that a node that only waits for its turn when the next owner dies counts no delivery.
local function claim(stream, entry, fields, consumer, nonce, free, new, lost)
  if not fields then
    entry_ack(stream, entry)
    return { 'vanished', stream, entry }
  end
  local id, names, needed = fields.job or '', split(fields.nodes), split(fields.needs)
  -- A text that is not a job's id would name another key; more names than any valid entry has are more than unpack() accepts.
  if not string.find(id, '^[%w._-]+$') or #names == 0 or #names + 2 * #needed > 5000 then
    local seen = {}
    for i = 1, #fields.flat, 2 do seen[#seen + 1] = fields.flat[i] .. '=' .. string.sub(fields.flat[i + 1], 1, 200) end
    dead_letter('', '', 0, 'malformed_entry', string.sub(table.concat(seen, ' '), 1, 1000))
    entry_ack(stream, entry)
    return { 'malformed', stream, entry }
  end
  local name = entry_name(stream, entry)
  local wanted = { 'n:' .. names[1], nil, nil }
  for i = 2, #names do wanted[i] = 'n:' .. names[i] end
  for i = 1, #needed do wanted[#wanted + 1], wanted[#wanted + 2] = 'n:' .. needed[i], 'o:' .. needed[i] end
  if not new then wanted[#wanted + 1] = 'c:' .. name end
  if not fields.graph then wanted[#wanted + 1], wanted[#wanted + 2] = 'graph', 'routes' end
  local J = job_load(id, wanted)
  if not J then
    entry_ack(stream, entry)
    return { 'gone', stream, entry }
  end
  local candidates = lost and names_of(J, 'n:') or names
  local ready, running = covered(J, name, candidates)
  local owned = not new and field(J, 'c:' .. name)
  if owned and not lost and #ready == 0 and #running == 0 then
    candidates = names_of(J, 'n:') -- the entry's own nodes have ended, and it continued with the nodes that they made ready
    ready, running = covered(J, name, candidates)
  end
  if not JOB_STARTS[J.status] then
    for i = 1, #ready, 2 do node_cancel(J, ready[i], ready[i + 1]) end
    for i = 1, #running, 2 do node_cancel(J, running[i], running[i + 1]) end
    conclude(J)
    claim_drop(J, name)
    entry_ack(stream, entry)
    return { 'stale', stream, entry }
  end
  if #ready == 0 and #running == 0 and not (lost and owned) then
    claim_drop(J, name)
    entry_ack(stream, entry)
    return { 'stale', stream, entry }
  end
  field_put(J, 'c:' .. name, consumer .. ' ' .. nonce)
  if lost then
    count('redelivered', 1)
    if not owned and ready[1] and is_held(J, fields, ready) then
      for i = 1, #ready, 2 do node_start(J, ready[i], ready[i + 1], name, lost) end
      ready, running = NONE, ready
    end
  end
  local kind = fields.heavy == '1' and 'heavy' or 'light'
  local started, waiting, suspects = '', '', ''
  for i = 1, #running, 2 do
    local r = running[i + 1]
    if lost then
      r.deliveries = r.deliveries + 1
      node_put(J, running[i], r.status, r)
    end
    started = begun(started, running[i], r)
  end
  for i = 1, #ready, 2 do
    local node, r = ready[i], ready[i + 1]
    if lost or free[kind] <= 0 then
      waiting = waiting == '' and node or waiting .. ',' .. node
    else
      free[kind] = free[kind] - 1
      if r.deliveries > 0 and kind == 'light' then
        suspects = begun(suspects, node, r)
      else
        started = begun(started, node, r)
        node_start(J, node, r, name, consumer)
      end
    end
  end
  local graph, routes = fields.graph, fields.routes
  if not graph then graph, routes = field(J, 'graph'), field(J, 'routes') end
  local answer = { 'ok', stream, entry, J.id, nonce, started, waiting, suspects, graph, routes or '', fields.traceparent or '',
    fields.created or '0', fields.priority or '' }
  local told = lost and candidates or needed
  for k = 1, #told do
    local raw
    if lost then raw = record_raw(J, told[k]) -- the consumer that takes over runs no node, and so needs no outputs
    else raw = record_told(J, told[k]) end
    if raw then answer[#answer + 1], answer[#answer + 2] = told[k], raw end
  end
  return answer
end
