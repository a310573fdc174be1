-- What every transition shares: a job's header, its node records, its event log, and the entries that carry it.
--
-- This text stands behind the library's name (VERSION is its hash) and the tables of lifecycle.py (S, NODE_MOVES, ...), and before
-- each transition file. ARGV[1] of a call is its header: { tag, suffix, ttl_ms, log_length, group, protocol }. Every other ARGV is one
-- item, its values in MessagePack one behind the other (an array would be a table that grows). User JSON is opaque text here: it is
-- stored, concatenated and published, never decoded.
--
-- A record is `status entry attempt deliveries started ended reason place share` + newline + payload (JSON or nothing); "-" stands
-- for nothing, share is the node's part of the progress so far, of 10^9. Counters move only in node_put, by the difference
-- between a node's old and new status.
--
-- What costs here is Lua itself: a table that grows costs more than a command, so what is small is built at once, or is a text.

-- Of one call: begin() sets all of it, so that a call that failed leaves nothing to the next.
local NOW, NOW_TEXT, CREATED
local loaded, ended, counted, acked, delivered
local alive -- how many jobs are, for submit.lua

-- Of the header, which few callers change: read again where its bytes are others.
local HEADER, SUFFIX, TTL, LOG, GROUP, PROTOCOL
local JOB, INDEX, ALIVE, DELAYS, DELAY_ENTRIES, DEAD
local COUNTS -- jobs by live status, ended ones by `status pipeline`, and what happened (`redelivered`, `dead reason`)
local WEBHOOKS -- jobs of which somebody is to be told when they have ended

-- For ever: texts that come again.
local SECOND, SECOND_TEXT
local NONE = {}

-- text_of[n]: a number as the store writes it. Spelling one costs as much as a read, so those that come again are kept: counters, the
-- whole of a progress. Made by the first call: while a library is loaded there is no setmetatable.
local text_of

local function spell(kept, n)
  local text = string.format('%d', n)
  if n >= 0 and n < 1000 then kept[n] = text end
  return text
end

-- RFC 3339 without its end; days to civil date after Howard Hinnant's "chrono-compatible low-level date algorithms".
local function date_and_time(seconds)
  local days, rest = math.floor(seconds / 86400), seconds % 86400
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local d = doy - math.floor((153 * mp + 2) / 5) + 1
  local m = mp < 10 and mp + 3 or mp - 9
  local y = yoe + era * 400 + (m <= 2 and 1 or 0)
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d', y, m, d, math.floor(rest / 3600), math.floor(rest / 60) % 60, rest % 60)
end

local function header_read(bytes)
  HEADER = nil -- of one that cannot be read nothing may count for the next call
  local tag
  tag, SUFFIX, TTL, LOG, GROUP, PROTOCOL = unpack(cmsgpack.unpack(bytes))
  JOB = tag == '' and 'job:' or 'job:' .. tag .. ':'
  INDEX, ALIVE, COUNTS, WEBHOOKS = 'jobs' .. SUFFIX, 'jobs:alive' .. SUFFIX, 'counts' .. SUFFIX, 'webhooks' .. SUFFIX
  DELAYS, DELAY_ENTRIES, DEAD = 'delays' .. SUFFIX, 'delays:entries' .. SUFFIX, 'stream:dead' .. SUFFIX
  text_of = text_of or setmetatable({ [1e9] = '1000000000' }, { __index = spell })
  HEADER = bytes
end

local function begin(header)
  if header ~= HEADER then header_read(header) end
  local clock = redis.call('TIME')
  if clock[1] ~= SECOND then SECOND, SECOND_TEXT = clock[1], date_and_time(tonumber(clock[1])) end
  local ms = string.sub('00000' .. clock[2], -6, -4)
  NOW_TEXT = clock[1] .. ms
  NOW = NOW_TEXT + 0
  CREATED = ',"created":"' .. SECOND_TEXT .. '.' .. ms .. 'Z",'
  loaded, ended, counted, acked, delivered, alive = {}, {}, {}, {}, {}, nil
end

local function job_key(id) return JOB .. id end

-- Counts in COUNTS; save() writes what a call has changed of it.
local function count(name, by) counted[name] = (counted[name] or 0) + by end

-- Jobs -----------------------------------------------------------------------------------------------------------

-- A job is loaded once in a call, changed in memory, and written once, by save(): one read and one write for whatever a report has to
-- say of it. Entries, delays and messages go out at once; one that goes out for a job that is not written then is stale, or dropped.

-- What every transition needs of a job is one field, `state`, twelve words (job_new, and when it was last written); the rest stands
-- beside it, `error` only where a node has failed unhandled.
local STATE_WORDS = '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)'

-- A table of 16 names, no more: the next would double it. Lists have room for what most jobs put there.
local function job_new(id, fields, status, seq, trimmed, remaining, running, broken, progress, attempt, started, finished, created)
  local J = { id = id, fields = fields, put = { 'state', '', nil, nil, nil, nil }, drop = false, events = { nil, nil, nil },
    status = status, seq = seq + 0, trimmed = trimmed + 0, remaining = remaining + 0, running = running + 0, broken = broken + 0,
    progress = progress + 0, attempt = attempt + 0, started = started, finished = finished, created = created }
  loaded[id] = J
  return J
end

-- A job, or nil where there is none. `wanted`: fields that will be asked for, read in the same call.
local function job_load(id, wanted)
  local J = loaded[id]
  if J ~= nil then return J or nil end
  wanted = wanted or NONE
  local row = redis.call('HMGET', job_key(id), 'state', unpack(wanted))
  if not row[1] then
    loaded[id] = false
    return nil
  end
  local fields = { [wanted[1] or ''] = row[2], [wanted[2] or ''] = row[3], [wanted[3] or ''] = row[4] }
  for i = 4, #wanted do fields[wanted[i]] = row[i + 1] end
  return job_new(id, fields, string.match(row[1], STATE_WORDS))
end

-- A field beside the state; nil where the job has none of that name.
local function field(J, name)
  local value = J.fields[name]
  if value == nil then
    value = redis.call('HGET', job_key(J.id), name)
    J.fields[name] = value
  end
  return value or nil
end

-- Writes a field, or removes it where `value` is false.
local function field_put(J, name, value)
  J.fields[name] = value
  if value then
    local put = J.put
    local last = #put
    put[last + 1], put[last + 2] = name, value
  elseif J.drop then
    J.drop[#J.drop + 1] = name
  else
    J.drop = { name, nil }
  end
end

-- The names of a kind (`n:`, `c:`, ...) that a job has, without the kind; of those that this call has written, only what it removed.
local function names_of(J, kind)
  local found = {}
  for _, name in ipairs(redis.call('HKEYS', job_key(J.id))) do
    if string.sub(name, 1, 2) == kind and J.fields[name] ~= false then found[#found + 1] = string.sub(name, 3) end
  end
  return found
end

-- Calls a command with a list of any length: unpack() has its limits. The last reply.
local function call_with(list, name, key, group)
  if #list <= 1000 then
    if #list == 0 then return nil end
    if group then return redis.call(name, key, group, unpack(list)) end
    return redis.call(name, key, unpack(list))
  end
  local reply
  for first = 1, #list, 1000 do
    local command = { name, key, group }
    for i = first, math.min(first + 999, #list) do command[#command + 1] = list[i] end
    reply = redis.call(unpack(command))
  end
  return reply
end

-- Of a field that was removed and written again, the last word counts.
local function drop_save(J, key)
  local drop, last = J.drop, 0
  for k = 1, #drop do
    if J.fields[drop[k]] == false then
      last = last + 1
      drop[last] = drop[k]
    end
  end
  for k = #drop, last + 1, -1 do drop[k] = nil end
  call_with(drop, 'HDEL', key)
end

local function job_save(J)
  local key = job_key(J.id)
  local log = key .. ':events'
  if #J.events > 0 then
    local over = call_with(J.events, 'RPUSH', log) - LOG
    if over > 0 then
      redis.call('LTRIM', log, over, -1)
      J.trimmed = J.trimmed + over
    end
  end
  J.put[2] = J.status .. ' ' .. text_of[J.seq] .. ' ' .. text_of[J.trimmed] .. ' ' .. text_of[J.remaining] .. ' ' ..
    text_of[J.running] .. ' ' .. text_of[J.broken] .. ' ' .. text_of[J.progress] .. ' ' .. text_of[J.attempt] .. ' ' ..
    J.started .. ' ' .. J.finished .. ' ' .. J.created .. ' ' .. NOW_TEXT
  call_with(J.put, 'HSET', key)
  if J.drop then drop_save(J, key) end
  if JOB_ENDED[J.status] then
    redis.call('PEXPIRE', key, TTL)
    redis.call('PEXPIRE', log, TTL)
  end
end

-- Every change of a job's status or of a node goes with an event or a field.
local function is_changed(J) return J.events[1] or J.put[3] or J.drop end

-- Event log: one JSON text, the same bytes in the list and on the channel. `rest` is what follows seq and created.
local function emit(J, channel, rest)
  J.seq = J.seq + 1
  local text = '{"seq":' .. text_of[J.seq] .. CREATED .. rest
  J.events[#J.events + 1] = text
  redis.call('PUBLISH', channel, text)
end

local function fraction(share)
  if share == 0 then return '0' elseif share == 1e9 then return '1' end
  return string.format('%.9g', share / 1e9)
end

local function null(text) if text == nil or text == '' then return 'null' end return text end

local function quoted(text) if text == nil or text == '-' or text == '' then return 'null' end return '"' .. text .. '"' end

local function job_error(J) return J.broken > 0 and field(J, 'error') or nil end

local function status_event(J)
  emit(J, 'status:' .. J.id, '"type":"status","status":"' .. J.status .. '","progress":' .. fraction(J.progress) ..
    ',"attempt":' .. text_of[J.attempt] .. ',"error":' .. null(job_error(J)) .. '}')
end

local function job_move(J, to)
  if not JOB_MOVES[J.status][to] then return false end
  if not JOB_ENDED[J.status] then count(J.status, -1) end
  count(JOB_ENDED[to] and to .. ' ' .. (field(J, 'pipeline') or 'graph') or to, 1)
  J.status = to
  return true
end

local function publish_progress(J, node, node_progress)
  redis.call('PUBLISH', 'progress:' .. J.id, '{"type":"progress","seq":' .. text_of[J.seq] .. CREATED ..
    '"progress":' .. fraction(J.progress) .. ',"nodeId":"' .. node .. '","nodeProgress":' .. node_progress .. '}')
end

-- Moves a job to its end, if it may go there.
local function job_end(J, to)
  if not job_move(J, to) then return end
  if to == S.completed then J.progress = 1e9 end
  J.finished = NOW_TEXT
  ended[#ended + 1] = J.id
  status_event(J)
end

-- The end-of-job test; harmless when repeated.
local function conclude(J)
  if J.remaining > 0 or JOB_ENDED[J.status] then return end
  local to = S.completed
  if J.status == S.cancelling then to = S.cancelled
  elseif J.broken > 0 then to = S.failed end
  job_end(J, to)
end

-- Nodes ----------------------------------------------------------------------------------------------------------

local function record_parse(raw)
  if not raw then
    return { status = S.pending, entry = '-', attempt = 1, deliveries = 0, started = '-', ended = '-', reason = '-',
      place = '-', share = 0, payload = '' }
  end
  local status, entry, attempt, deliveries, started, ended_at, reason, place, share, payload =
    string.match(raw, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)\n(.*)$')
  return { status = status, entry = entry, attempt = attempt + 0, deliveries = deliveries + 0, started = started,
    ended = ended_at, reason = reason, place = place, share = share + 0, payload = payload }
end

local function node_get(J, node) return record_parse(field(J, 'n:' .. node)) end

local function node_event(J, node, r, worker, failure)
  emit(J, 'status:' .. J.id, '"type":"node","nodeId":"' .. node .. '","status":"' .. r.status .. '","attempt":' ..
    text_of[r.attempt] .. ',"error":' .. null(failure) .. ',"worker":' .. quoted(worker) .. ',"reason":' .. quoted(r.reason) .. '}')
end

-- Writes record `r` over a node that was `before`; false where the table has no such move.
local function node_put(J, node, before, r)
  if not NODE_MOVES[before][r.status] then return false end
  if before == S.running and r.status ~= S.running then J.running = J.running - 1 end
  if before ~= S.running and r.status == S.running then J.running = J.running + 1 end
  if NODE_ENDED[r.status] then
    J.remaining = J.remaining - 1
    r.ended = NOW_TEXT
  end
  field_put(J, 'n:' .. node, r.status .. ' ' .. r.entry .. ' ' .. text_of[r.attempt] .. ' ' .. text_of[r.deliveries] .. ' ' ..
    r.started .. ' ' .. r.ended .. ' ' .. r.reason .. ' ' .. r.place .. ' ' .. text_of[r.share] .. '\n' .. r.payload)
  return true
end

-- Sets the share in a record that is written next; whether it has moved.
local function share_set(J, r, share)
  if share == r.share then return false end
  J.progress = J.progress + share - r.share
  r.share = share
  return true
end

-- Starts a node, whose record is `r`, under an entry; the caller has checked that the claim is its own.
local function node_start(J, node, r, entry, worker)
  if not JOB_STARTS[J.status] then return nil end
  if not (r.status == S.pending or (r.status == S.ready and r.entry == entry)) then return nil end
  local before = r.status
  r.status, r.entry, r.reason, r.started, r.ended, r.payload = S.running, entry, '-', NOW_TEXT, '-', ''
  node_put(J, node, before, r)
  if J.status == S.queued and job_move(J, S.running) then
    if J.started == '-' then J.started = NOW_TEXT end
    status_event(J)
  end
  node_event(J, node, r, worker)
  return r
end

local function node_skip(J, node, r, reason, share)
  local before = r.status
  r.status, r.reason = S.skipped, reason
  local moved = share_set(J, r, share)
  node_put(J, node, before, r)
  node_event(J, node, r)
  if moved and J.remaining > 0 then publish_progress(J, node, '1') end
end

local function node_cancel(J, node, r)
  local before, nonce = r.status, string.match(r.entry, '^delay:(.+)$')
  if nonce then
    redis.call('ZREM', DELAYS, nonce)
    redis.call('HDEL', DELAY_ENTRIES, nonce)
  end
  r.status, r.reason = S.cancelled, '-'
  if node_put(J, node, before, r) then node_event(J, node, r) end
end

-- Entries --------------------------------------------------------------------------------------------------------

local function split(text)
  if not text or text == '' then return NONE end
  if not string.find(text, ',', 1, true) then return { text } end
  local list = {}
  for word in string.gmatch(text, '[^,]+') do list[#list + 1] = word end
  return list
end

-- How records and claims name an entry. Ids are unique within a stream only: two entries of one job, sent to two places in
-- the same millisecond, have the same id.
local function entry_name(stream, entry) return entry .. '@' .. stream end

local function is_pending(r) return r.status == S.pending end

-- Puts an entry for `nodes` on a stream, or into the delays, and names it in their records.
-- batch = { stream, place, nodes, needs, inline, nonce, delay_ms, reason, heavy, priority, declined }; `keep(r)` says which nodes it may
-- take. `failure`: why it goes back; `goes_on`: it will, from where it is, so its progress stays. priority: of what stands on the stream of a higher one, else ''. declined: a worker could not run it.
local function dispatch(J, batch, keep, due, failure, goes_on)
  local stream, place, nonce, delay, reason, heavy = batch[1], batch[2], batch[6], batch[7], batch[8], batch[9]
  local priority, declined = batch[10], batch[11]
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
    local traced = field(J, 'traceparent')
    if traced then fields[#fields + 1], fields[#fields + 2] = 'traceparent', traced end
    if batch[5] then
      local last = #fields
      fields[last + 1], fields[last + 2], fields[last + 3], fields[last + 4] = 'graph', field(J, 'graph'), 'routes', field(J, 'routes')
    end
    local id = redis.call('XADD', stream, '*', unpack(fields))
    if heavy or not batch[5] or #nodes > 1 or #batch[4] > 0 then redis.call('SET', stream .. ':careful', id) end
    entry = entry_name(stream, id)
  end
  for i = 1, #nodes do
    local node, r = nodes[i], records[i]
    local before = r.status
    if before ~= S.ready and before ~= S.pending and not goes_on then share_set(J, r, 0) end
    r.status, r.entry, r.place, r.reason, r.ended, r.payload = S.ready, entry, place, reason, '-', ''
    node_put(J, node, before, r)
    if before == S.running then node_event(J, node, r, nil, failure) end
  end
  return entry
end

-- XACK, then XDEL, but never the group's last-delivered id: without it `lag` is nil and autoscalers go blind. All that a call has
-- acknowledged goes in save(), stream by stream.

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

-- The group's last-delivered id, as far as we know.
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

-- Writes all that the call has changed.
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

-- What an entry says, by name; a name in the constructor has its place, so that the table need not grow.
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

-- The consumer that has an entry in its pending list, and the idle time; nil when nobody has.
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

-- Claims -----------------------------------------------------------------------------------------------------------

local function claim_drop(J, name)
  field_put(J, 'c:' .. name, false)
  field_put(J, 'e:' .. name, false)
end

local function with_node(list, node, r)
  if not list[1] then return { node, r } end
  list[#list + 1], list[#list + 2] = node, r
  return list
end

-- Those of `candidates` that an entry covers: ready and running, each a list { node, record, node, record, ... }.
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

-- A node that has begun, or is to begin alone, as the answer of take says it.
local function begun(list, node, r)
  local text = node .. ' ' .. text_of[r.attempt] .. ' ' .. text_of[r.deliveries]
  if list == '' then return text end
  return list .. ',' .. text
end

-- Takes an entry that this consumer has in its pending list: acks what is garbage or out of date, else writes the claim
-- and starts as many of its nodes as `free` = { light, heavy } says, counting down. Answers { word, stream, entry, ... }, see the end.
-- `new`: nobody can have claimed it yet. `lost`: the claim of a dead owner is taken over, so its nodes are looked up in all records,
-- none is started, and what ran counts a delivery. Suspects are light nodes whose owner died with them: they are started
-- one by one when they run alone, so that one that only waits for its turn when the next owner dies counts nothing.
local function claim(stream, entry, fields, consumer, nonce, free, new, lost)
  if not fields then
    entry_ack(stream, entry)
    return { 'vanished', stream, entry }
  end
  local id, names, needed = fields.job or '', split(fields.nodes), split(fields.needs)
  -- What is no job's id would be the name of another key; more names than any entry of ours has are more than unpack() takes.
  if not string.find(id, '^[%w._-]+$') or #names == 0 or #names + #needed > 4000 then
    local seen = {}
    for i = 1, #fields.flat, 2 do seen[#seen + 1] = fields.flat[i] .. '=' .. string.sub(fields.flat[i + 1], 1, 200) end
    dead_letter('', '', 0, 'malformed_entry', string.sub(table.concat(seen, ' '), 1, 1000))
    entry_ack(stream, entry)
    return { 'malformed', stream, entry }
  end
  local name = entry_name(stream, entry)
  local wanted = { 'n:' .. names[1], nil, nil }
  for i = 2, #names do wanted[i] = 'n:' .. names[i] end
  for i = 1, #needed do wanted[#wanted + 1] = 'n:' .. needed[i] end
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
    candidates = names_of(J, 'n:') -- its own nodes have ended, and it went on with what they made ready
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
  if lost then count('redelivered', 1) end
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
    fields.created or '0', fields.v or '0', fields.priority or '' }
  local told = lost and candidates or needed
  for k = 1, #told do
    local raw = field(J, 'n:' .. told[k])
    if raw then answer[#answer + 1], answer[#answer + 2] = told[k], raw end
  end
  return answer
end

-- Transitions -----------------------------------------------------------------------------------------------------

local function register(name, flags, callback)
  redis.register_function({ function_name = name .. '_' .. VERSION, flags = flags, callback = callback })
end

-- `commit` is given what an item says and answers its reply; what it has changed is written behind the last. `reply`, if given, makes
-- the call's of theirs. Flags: at the memory limit only submit is refused; read is served also where nothing may be written
-- (min-replicas-to-write).
local function transition(name, flags, commit, reply)
  register(name, flags, function(_, arguments)
    begin(arguments[1])
    local replies = {}
    for i = 2, #arguments do replies[i - 1] = commit(cmsgpack.unpack(arguments[i])) end
    save()
    if reply then replies = reply(replies) end
    loaded, ended, counted, acked, delivered = nil
    return replies
  end)
end
