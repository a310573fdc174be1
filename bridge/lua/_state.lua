-- What every transition shares: a job's header, its node records, its event log, and the entries that carry it.
--
-- This text stands behind `#!lua`, the tables of lifecycle.py (S, NODE_MOVES, ...) and before each transition file.
-- ARGV[1] is the call's header: { tag, suffix, ttl_ms, log_length, group, protocol }. Every other ARGV is one item, an array in
-- MessagePack. User JSON is opaque text here: it is stored, concatenated and published, never decoded.
--
-- A record is `status entry attempt deliveries started ended reason place` + newline + payload (JSON or nothing);
-- "-" stands for nothing. Counters move only in node_put, by the difference between a node's old and new status.

local H = cmsgpack.unpack(ARGV[1])
local TAG, SUFFIX, TTL, LOG, GROUP, PROTOCOL = H[1], H[2], H[3], H[4], H[5], H[6]
local clock = redis.call('TIME')
local NOW = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

-- RFC 3339 with milliseconds; days to civil date after Howard Hinnant's "chrono-compatible low-level date algorithms".
local function rfc3339(ms)
  local seconds = math.floor(ms / 1000)
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
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', y, m, d, math.floor(rest / 3600),
    math.floor(rest / 60) % 60, rest % 60, ms % 1000)
end
local STAMP = rfc3339(NOW)

local function items()
  local list = {}
  for i = 2, #ARGV do list[i - 1] = cmsgpack.unpack(ARGV[i]) end
  return list
end

local INDEX, ALIVE = 'jobs' .. SUFFIX, 'jobs:alive' .. SUFFIX
local DELAYS, DELAY_ENTRIES, DEAD = 'delays' .. SUFFIX, 'delays:entries' .. SUFFIX, 'stream:dead' .. SUFFIX

local function job_key(id)
  if TAG == '' then return 'job:' .. id end
  return 'job:' .. TAG .. ':' .. id
end

-- Jobs -----------------------------------------------------------------------------------------------------------

local HEADER = { 'status', 'seq', 'trimmed', 'remaining', 'running', 'broken', 'progress', 'attempt', 'error', 'started',
  'finished' }
local loaded = {}

-- The header of a job, or nil where there is no such job. Changes are kept in memory until save_jobs().
local function job_load(id)
  local J = loaded[id]
  if J ~= nil then return J or nil end
  local key = job_key(id)
  local row = redis.call('HMGET', key, unpack(HEADER))
  if not row[1] then
    loaded[id] = false
    return nil
  end
  J = { id = id, key = key, log = key .. ':events', changed = false }
  for i, name in ipairs(HEADER) do J[name] = row[i] or '' end
  for _, name in ipairs({ 'seq', 'trimmed', 'remaining', 'running', 'broken', 'progress', 'attempt' }) do
    J[name] = tonumber(J[name]) or 0
  end
  loaded[id] = J
  return J
end

local function integer(n) return string.format('%.0f', n) end

local function save_jobs()
  for _, J in pairs(loaded) do
    if J and J.changed then
      redis.call('HSET', J.key, 'status', J.status, 'seq', integer(J.seq), 'trimmed', integer(J.trimmed),
        'remaining', integer(J.remaining), 'running', integer(J.running), 'broken', integer(J.broken),
        'progress', integer(J.progress), 'attempt', integer(J.attempt), 'error', J.error, 'started', J.started,
        'finished', J.finished, 'updated', integer(NOW))
      if JOB_ENDED[J.status] then
        redis.call('PEXPIRE', J.key, TTL)
        redis.call('PEXPIRE', J.log, TTL)
      end
    end
  end
end

-- Event log: one JSON text, the same bytes in the list and on the channel. `body` lacks braces, seq and created.
local function emit(J, channel, body)
  J.seq = J.seq + 1
  J.changed = true
  local text = '{"seq":' .. integer(J.seq) .. ',"created":"' .. STAMP .. '",' .. body .. '}'
  if redis.call('RPUSH', J.log, text) > LOG then
    redis.call('LPOP', J.log)
    J.trimmed = J.trimmed + 1
  end
  redis.call('PUBLISH', channel .. ':' .. J.id, text)
end

local function fraction(share) return string.format('%.9g', share / 1e9) end

local function null(text) if text == nil or text == '' then return 'null' end return text end

local function status_event(J)
  emit(J, 'status', '"type":"status","status":"' .. J.status .. '","progress":' .. fraction(J.progress) ..
    ',"attempt":' .. integer(J.attempt) .. ',"error":' .. null(J.error))
end

local function job_move(J, to)
  if not JOB_MOVES[J.status][to] then return false end
  J.status = to
  J.changed = true
  return true
end

local function publish_progress(J, node, node_progress)
  redis.call('PUBLISH', 'progress:' .. J.id, '{"type":"progress","seq":' .. integer(J.seq) .. ',"created":"' .. STAMP ..
    '","progress":' .. fraction(J.progress) .. ',"nodeId":"' .. node .. '","nodeProgress":' .. node_progress .. '}')
end

-- The end-of-job test; harmless when repeated.
local function conclude(J)
  if J.remaining > 0 or JOB_ENDED[J.status] then return end
  local to = S.completed
  if J.status == S.cancelling then to = S.cancelled
  elseif J.broken > 0 then to = S.failed end
  if not job_move(J, to) then return end
  if to == S.completed then J.progress = 1e9 end
  J.finished = integer(NOW)
  redis.call('SREM', ALIVE, J.id)
  status_event(J)
end

-- Nodes ----------------------------------------------------------------------------------------------------------

local function record_parse(raw)
  if not raw then
    return { status = S.pending, entry = '-', attempt = 1, deliveries = 0, started = '-', ended = '-', reason = '-',
      place = '-', payload = '' }
  end
  local line_end = string.find(raw, '\n', 1, true)
  local w = {}
  for word in string.gmatch(string.sub(raw, 1, line_end - 1), '%S+') do w[#w + 1] = word end
  return { status = w[1], entry = w[2], attempt = tonumber(w[3]), deliveries = tonumber(w[4]), started = w[5], ended = w[6],
    reason = w[7], place = w[8], payload = string.sub(raw, line_end + 1) }
end

local function node_get(J, node) return record_parse(redis.call('HGET', J.key, 'n:' .. node)) end

local function node_event(J, node, r, worker, failure)
  local quoted = function(text) if text == nil or text == '-' or text == '' then return 'null' end return '"' .. text .. '"' end
  emit(J, 'status', '"type":"node","nodeId":"' .. node .. '","status":"' .. r.status .. '","attempt":' ..
    integer(r.attempt) .. ',"error":' .. null(failure) .. ',"worker":' .. quoted(worker) .. ',"reason":' .. quoted(r.reason))
end

-- Writes record `r` over a node that was `before`; false where the table has no such move.
local function node_put(J, node, before, r)
  if not NODE_MOVES[before][r.status] then return false end
  if before == S.running and r.status ~= S.running then J.running = J.running - 1 end
  if before ~= S.running and r.status == S.running then J.running = J.running + 1 end
  if NODE_ENDED[r.status] then
    J.remaining = J.remaining - 1
    r.ended = integer(NOW)
  end
  J.changed = true
  redis.call('HSET', J.key, 'n:' .. node, table.concat({ r.status, r.entry, integer(r.attempt), integer(r.deliveries),
    r.started, r.ended, r.reason, r.place }, ' ') .. '\n' .. r.payload)
  return true
end

local function share_put(J, node, share)
  local old = tonumber(redis.call('HGET', J.key, 'p:' .. node) or '0')
  if share == old then return end
  redis.call('HSET', J.key, 'p:' .. node, integer(share))
  J.progress = J.progress + share - old
  J.changed = true
end

-- Starts a node under an entry; the caller has checked that the claim is its own.
local function node_start(J, node, entry, worker)
  local r = node_get(J, node)
  if not JOB_STARTS[J.status] then return nil end
  if not (r.status == S.pending or (r.status == S.ready and r.entry == entry)) then return nil end
  local before = r.status
  r.status, r.entry, r.reason, r.started, r.ended, r.payload = S.running, entry, '-', integer(NOW), '-', ''
  node_put(J, node, before, r)
  if J.status == S.queued and job_move(J, S.running) then
    if J.started == '' then J.started = integer(NOW) end
    status_event(J)
  end
  node_event(J, node, r, worker)
  return r
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
  local list = {}
  for word in string.gmatch(text or '', '[^,]+') do list[#list + 1] = word end
  return list
end

-- How records and claims name an entry. Ids are unique within a stream only: two entries of one job, sent to two places in
-- the same millisecond, have the same id.
local function entry_name(stream, entry) return entry .. '@' .. stream end

-- Puts an entry for `nodes` on a stream, or into the delays, and names it in their records.
-- batch = { stream, place, nodes, needs, inline, nonce, delay_ms, reason, heavy }; `keep(r)` says which nodes it may take.
local function dispatch(J, batch, keep, due, failure)
  local stream, place, nonce, delay, reason, heavy = batch[1], batch[2], batch[6], batch[7], batch[8], batch[9]
  local nodes, records = {}, {}
  for _, node in ipairs(batch[3]) do
    local r = node_get(J, node)
    if keep(r) then
      nodes[#nodes + 1] = node
      records[#records + 1] = r
    end
  end
  if #nodes == 0 then return nil end
  local entry
  if delay > 0 or due then
    entry = 'delay:' .. nonce
    redis.call('HSET', DELAY_ENTRIES, nonce,
      cmsgpack.pack({ J.id, stream, place, nodes, batch[4], batch[5], heavy }))
    redis.call('ZADD', DELAYS, due or (NOW + delay), nonce)
  else
    local fields = { 'job', J.id, 'nodes', table.concat(nodes, ','), 'needs', table.concat(batch[4], ','),
      'created', integer(NOW), 'v', integer(PROTOCOL), 'heavy', heavy and '1' or '0' }
    local carried = redis.call('HMGET', J.key, 'traceparent', batch[5] and 'graph' or '-', batch[5] and 'routes' or '-')
    for i, name in ipairs({ 'traceparent', 'graph', 'routes' }) do
      if carried[i] and carried[i] ~= '' then
        fields[#fields + 1] = name
        fields[#fields + 1] = carried[i]
      end
    end
    entry = entry_name(stream, redis.call('XADD', stream, '*', unpack(fields)))
  end
  for i, node in ipairs(nodes) do
    local r = records[i]
    local before = r.status
    if before ~= S.ready and before ~= S.pending then share_put(J, node, 0) end
    r.status, r.entry, r.place, r.reason, r.ended, r.payload = S.ready, entry, place, reason, '-', ''
    node_put(J, node, before, r)
    if before == S.running then node_event(J, node, r, nil, failure) end
  end
  return entry
end

-- XACK, then XDEL, but never the group's last-delivered id: without it `lag` is nil and autoscalers go blind.
local function entry_ack(stream, entry)
  redis.call('XACK', stream, GROUP, entry)
  local kept = stream .. ':kept'
  if redis.call('GET', stream .. ':delivered') == entry then
    local former = redis.call('GET', kept)
    redis.call('SET', kept, entry)
    if former and former ~= entry then redis.call('XDEL', stream, former) end
  else
    redis.call('XDEL', stream, entry)
  end
end

-- Notes an entry as delivered, never backwards: one that is handed over or reclaimed may be older than the group's last.
local function entry_delivered(stream, entry)
  local key = stream .. ':delivered'
  local ms, nth = string.match(entry, '^(%d+)-(%d+)$')
  local last_ms, last_nth = string.match(redis.call('GET', key) or '0-0', '^(%d+)-(%d+)$')
  ms, nth, last_ms, last_nth = tonumber(ms), tonumber(nth), tonumber(last_ms), tonumber(last_nth)
  if ms > last_ms or (ms == last_ms and nth > last_nth) then redis.call('SET', key, entry) end
end

local function entry_fields(stream, entry)
  local rows = redis.call('XRANGE', stream, entry, entry)
  if not rows[1] then return nil end
  local flat, fields = rows[1][2], {}
  for i = 1, #flat, 2 do fields[flat[i]] = flat[i + 1] end
  return fields
end

-- The consumer that has an entry in its pending list, and the idle time; nil when nobody has.
local function entry_owner(stream, entry)
  local rows = redis.pcall('XPENDING', stream, GROUP, entry, entry, 1)
  if rows.err or not rows[1] then return nil end
  return rows[1][2], rows[1][3]
end

local function dead_letter(job, node, reason, detail)
  redis.call('XADD', DEAD, 'MAXLEN', '~', '10000', '*', 'job', job, 'node', node, 'reason', reason, 'detail', detail,
    'created', integer(NOW))
end

-- Claims -----------------------------------------------------------------------------------------------------------

local function claim_drop(J, name) redis.call('HDEL', J.key, 'c:' .. name, 'e:' .. name) end

-- Takes an entry that this consumer has in its pending list: acks what is garbage or out of date, else writes the claim
-- and starts as many of its nodes as `free` = { light, heavy } says, counting down. Answers { word, ... }. `lost`: the claim of a
-- dead owner is taken over, so its nodes are looked up in all records, none is started, and what ran counts a delivery.
-- Suspects are light nodes whose owner died with them: they are started one by one when they run alone, so that one that only
-- waits for its turn when the next owner dies counts nothing.
local function claim(stream, entry, fields, consumer, nonce, free, lost)
  entry_delivered(stream, entry)
  if not fields then
    redis.call('XACK', stream, GROUP, entry)
    return { 'vanished', stream, entry }
  end
  local id, names = fields.job, split(fields.nodes)
  if not id or #names == 0 then
    local seen = {}
    for name, value in pairs(fields) do seen[#seen + 1] = name .. '=' .. string.sub(value, 1, 200) end
    dead_letter('', '', 'malformed_entry', string.sub(table.concat(seen, ' '), 1, 1000))
    entry_ack(stream, entry)
    return { 'malformed', stream, entry }
  end
  local J = job_load(id)
  if not J then
    entry_ack(stream, entry)
    return { 'gone', stream, entry }
  end
  local name = entry_name(stream, entry)
  local candidates = names
  if lost then
    candidates = {}
    for _, field in ipairs(redis.call('HKEYS', J.key)) do
      if string.sub(field, 1, 2) == 'n:' then candidates[#candidates + 1] = string.sub(field, 3) end
    end
  end
  local ready, running = {}, {}
  for _, node in ipairs(candidates) do
    local r = node_get(J, node)
    if r.entry == name and r.status == S.ready then ready[#ready + 1] = node end
    if r.entry == name and r.status == S.running then running[#running + 1] = { node, r } end
  end
  if not JOB_STARTS[J.status] then
    for _, node in ipairs(ready) do node_cancel(J, node, node_get(J, node)) end
    for _, pair in ipairs(running) do node_cancel(J, pair[1], pair[2]) end
    conclude(J)
    claim_drop(J, name)
    entry_ack(stream, entry)
    return { 'stale', stream, entry }
  end
  local owned = redis.call('HGET', J.key, 'c:' .. name)
  if #ready == 0 and #running == 0 and not (lost and owned) then
    claim_drop(J, name)
    entry_ack(stream, entry)
    return { 'stale', stream, entry }
  end
  redis.call('HSET', J.key, 'c:' .. name, consumer .. ' ' .. nonce)
  local kind = fields.heavy == '1' and 'heavy' or 'light'
  local started, waiting, suspects = {}, {}, {}
  for _, pair in ipairs(running) do
    local r = pair[2]
    if lost then
      r.deliveries = r.deliveries + 1
      node_put(J, pair[1], r.status, r)
    end
    started[#started + 1] = { pair[1], integer(r.attempt), integer(r.deliveries) }
  end
  for _, node in ipairs(ready) do
    if lost or free[kind] <= 0 then
      waiting[#waiting + 1] = node
    else
      local r = node_get(J, node)
      local begun = { node, integer(r.attempt), integer(r.deliveries) }
      free[kind] = free[kind] - 1
      if r.deliveries > 0 and kind == 'light' then
        suspects[#suspects + 1] = begun
      else
        node_start(J, node, name, consumer)
        started[#started + 1] = begun
      end
    end
  end
  local graph, routes = fields.graph, fields.routes
  if not graph then
    local stored = redis.call('HMGET', J.key, 'graph', 'routes')
    graph, routes = stored[1], stored[2]
  end
  local records = {}
  local wanted = lost and candidates or split(fields.needs)
  for _, node in ipairs(wanted) do
    local raw = redis.call('HGET', J.key, 'n:' .. node)
    if raw then records[#records + 1] = { node, raw } end
  end
  return { 'ok', stream, entry, J.id, nonce, started, waiting, records, graph, routes or '', fields.traceparent or '',
    fields.created or '0', fields.v or '0', suspects }
end
