-- Entries: on streams, in the delays, among the dead letters.

local function split(text)
  if not text or text == '' then return NONE end
  if not string.find(text, ',', 1, true) then return { text } end
  local list = {}
  for word in string.gmatch(text, '[^,]+') do list[#list + 1] = word end
  return list
end

-- Returns the name of an entry in records and claims. Ids are unique within a stream only: two entries of one job, sent to two places in
-- the same millisecond, have the same id.
local function entry_name(stream, entry) return entry .. '@' .. stream end

local function is_pending(r) return r.status == S.pending end

-- Returns the stream of the job's priority, and the entry's own priority where `own` says that it stands on the stream of a higher one. Who planned
-- an entry may not know yet that the priority was changed: a job of which it was names its entries' lines itself.
local function in_line(J, stream, own)
  if not field(J, 'changes') then return stream, own end
  local priority = field(J, 'priority') or 'normal'
  if own ~= '' then return stream, priority ~= 'high' and priority or '' end
  local name = string.sub(stream, 1, -1 - #SUFFIX)
  name = string.match(name, '^(.*):high$') or string.match(name, '^(.*):low$') or name
  return (priority == 'normal' and name or name .. ':' .. priority) .. SUFFIX, ''
end

-- Puts an entry for `nodes` on a stream, or into the delays, and names it in their records.
-- batch = { stream, place, nodes, needs, inline, nonce, delay_ms, reason, heavy, priority, declined }; `keep(r)` says which nodes it may
-- take. `failure`: why it goes back; `goes_on`: the node will continue from its checkpoint, so its progress stays. priority: the entry's own where it is on the stream of a higher one, else ''. declined: a worker could not run it.
local function dispatch(J, batch, keep, due, failure, goes_on)
  local place, nonce, delay, reason, heavy, declined = batch[2], batch[6], batch[7], batch[8], batch[9], batch[11]
  local stream, priority = in_line(J, batch[1], batch[10])
  local nodes, records, given = { nil }, { nil }, batch[3]
  for k = 1, #given do
    local r = node_get(J, given[k])
    if keep(r) then nodes[#nodes + 1], records[#records + 1] = given[k], r end
  end
  if #nodes == 0 then return nil end
  local entry
  if delay > 0 or due then
    entry = 'delay:' .. nonce
    redis.call('HSET', DELAY_ENTRIES, nonce,
      cmsgpack.pack({ J.id, stream, place, nodes, batch[4], batch[5], heavy, priority, declined }))
    redis.call('ZADD', DELAYS, due or (NOW + delay), nonce)
  else
    local fields = { 'job', J.id, 'nodes', table.concat(nodes, ','), 'created', NOW_TEXT, 'v', text_of[PROTOCOL], nil, nil, nil, nil }
    if heavy then fields[#fields + 1], fields[#fields + 2] = 'heavy', '1' end
    if priority ~= '' then fields[#fields + 1], fields[#fields + 2] = 'priority', priority end
    if declined then fields[#fields + 1], fields[#fields + 2] = 'declined', '1' end
    if #batch[4] > 0 then fields[#fields + 1], fields[#fields + 2] = 'needs', table.concat(batch[4], ',') end
    if batch[5] then
      local last = #fields
      fields[last + 1], fields[last + 2], fields[last + 3], fields[last + 4] = 'graph', field(J, 'graph'), 'routes', field(J, 'routes')
    end
    local traced = field(J, 'traceparent')
    if traced then fields[#fields + 1], fields[#fields + 2] = 'traceparent', traced end
    local id = redis.call('XADD', stream, '*', unpack(fields))
    if heavy or not batch[5] or #nodes > 1 or #batch[4] > 0 then redis.call('SET', stream .. ':careful', id) end
    entry = entry_name(stream, id)
  end
  for i = 1, #nodes do
    local node, r = nodes[i], records[i]
    local before = r.status
    if before ~= S.ready and before ~= S.pending and not goes_on then share_set(J, r, 0) end
    r.status, r.entry, r.place, r.reason, r.ended = S.ready, entry, place, reason, '-'
    node_put(J, node, before, r)
    if before == S.running then node_event(J, node, r, nil, failure) end
  end
  return entry
end

-- XACK, then XDEL, but never the group's last-delivered id: without it `lag` is nil and autoscalers go blind. The entries that a call has
-- acknowledged are removed in save(), stream by stream.

local function entry_ack(stream, entry)
  local list = acked[stream] or {}
  acked[stream] = list
  list[#list + 1] = entry
end

local function id_after(id, other)
  -- ms of 13 digits, as they are until 2286, and counts of the same length: the order of texts is that of numbers
  if #id == #other and string.byte(id, 14) == 45 and string.byte(other, 14) == 45 then return id > other end
  local ms, nth = string.match(id, '^(%d+)-(%d+)$')
  local other_ms, other_nth = string.match(other, '^(%d+)-(%d+)$')
  ms, nth, other_ms, other_nth = tonumber(ms), tonumber(nth), tonumber(other_ms), tonumber(other_nth)
  return ms > other_ms or (ms == other_ms and nth > other_nth)
end

-- Returns whether an entry that no worker has been given still stands in its line. A record names it, unless change.lua put another in its place,
-- up to `moved`, the last one of its stream that it did so with. `job`: what a job's key begins with.
local function stands(job, stream, row, fields, moved)
  if id_after(row, moved) then return true end
  if not fields.job or not string.find(fields.job, '^[%w._-]+$') then return false end
  for _, node in ipairs(split(fields.nodes)) do
    local status, under = string.match(redis.call('HGET', job .. fields.job, 'n:' .. node) or '', '^(%S+) (%S+)')
    if status == S.ready and under == entry_name(stream, row) then return true end
  end
  return false
end

local function last_moved(stream) return redis.call('GET', stream .. ':moved') or '0-0' end

-- Returns the group's last-delivered id, as far as it is known.
local function last_delivered(stream)
  local known = delivered[stream]
  if not known then
    known = { id = redis.call('GET', stream .. ':delivered') or '0-0', moved = false }
    delivered[stream] = known
  end
  return known
end

-- Notes an entry as delivered, never backwards: one that is handed over or reclaimed may be older than the group's last.
local function entry_delivered(stream, entry)
  local last = last_delivered(stream)
  if id_after(entry, last.id) then last.id, last.moved = entry, true end
end

local function acks_save(stream, list)
  call_with(list, 'XACK', stream, GROUP)
  local last, spared, drop = last_delivered(stream).id, false, {}
  for _, entry in ipairs(list) do
    if entry == last then spared = true else drop[#drop + 1] = entry end
  end
  if spared then
    local former = redis.call('SET', stream .. ':kept', last, 'GET')
    if former and former ~= last then drop[#drop + 1] = former end
  end
  call_with(drop, 'XDEL', stream)
end

-- Writes all changes of the call.
local function save()
  for _, J in pairs(loaded) do
    if J and is_changed(J) then job_save(J) end
  end
  call_with(ended, 'SREM', ALIVE)
  for name, by in pairs(counted) do
    if by ~= 0 then redis.call('HINCRBY', COUNTS, name, text_of[by]) end
  end
  for stream, last in pairs(delivered) do
    if last.moved then redis.call('SET', stream .. ':delivered', last.id) end
  end
  for stream, list in pairs(acked) do acks_save(stream, list) end
end

-- Returns the fields of an entry by name; the constructor reserves a place for each name, so that the table need not grow.
local function fields_of(flat)
  local fields = { job = nil, nodes = nil, created = nil, v = nil, graph = nil, routes = nil, needs = nil, flat = nil }
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  fields.flat = flat
  return fields
end

local function entry_fields(stream, entry)
  local rows = redis.call('XRANGE', stream, entry, entry)
  return rows[1] and fields_of(rows[1][2])
end

-- Returns the consumer that has an entry in its pending list, and the idle time; nil when no consumer has it.
local function entry_owner(stream, entry)
  local rows = redis.pcall('XPENDING', stream, GROUP, entry, entry, 1)
  if rows.err or not rows[1] then return nil end
  return rows[1][2], rows[1][3]
end

local function dead_letter(job, node, attempt, reason, detail)
  count('dead ' .. reason, 1)
  redis.call('XADD', DEAD, 'MAXLEN', '~', '10000', '*', 'job', job, 'node', node, 'attempt', text_of[attempt], 'reason', reason,
    'detail', detail, 'created', NOW_TEXT)
end
