-- take: reads new entries and claims them with those handed to it. ready -> running for as many nodes as are free.
-- KEYS[1]: the partition's index. One item: { consumer, nonce, count, light, heavy, streams, handed = { {stream, entry} }, devices, holding };
-- light and heavy: how many nodes of each kind it can start. An entry for a slot is left to others while no slot is free.
-- devices: where the caller has no device, the key with the workers of its pool that have one, else ''. While one of them lives, the lane of
-- nodes that prefer a device is closed to the caller: it reads nothing there, starts nothing handed to it from there, and is told so by
-- a last claim { 'closed', lane, '' }.
-- holding: an entry of light nodes is answered as held = { job, nodes, attempts, now, created, graph, routes, traceparent } (empty ones: those of the job's answer before) and nothing is
-- written: that it is pending for the consumer is its claim until its first report, which says that the nodes began (report.lua).
-- Replies a list of claims { word, stream, entry, ... } (see claim in _claims.lua); the words: ok | held | gone | stale |
-- malformed | vanished | not_yours. It stops reading when the reply exceeds 1 MiB, so that one call stays bounded.
local LIVE_MS, CLOSED = 15000, { light = 0, heavy = 0 }

transition('take', { 'allow-oom' }, function(consumer, nonce, count, light, heavy, streams, handed, devices, holding)
  local free = { light = light, heavy = heavy }
  local claims, size, taken = {}, 0, 0
  local sent = {} -- the jobs whose graph stands in an answer before
  local lane = devices and string.match(devices, '%+%w+')
  local closed = lane and redis.call('ZRANGEBYSCORE', devices, text_of[NOW - LIVE_MS], '+inf', 'LIMIT', '0', '1')[1]

  local function is_closed(stream) return closed and string.find(stream, lane, 1, true) end

  local function note(stream, entry, fields, new)
    taken = taken + 1
    local may = is_closed(stream) and CLOSED or free
    local answer = claim(stream, entry, fields, consumer, nonce .. '.' .. text_of[taken], may, new)
    if answer[1] == 'ok' then
      size = size + #answer[9]
      for i = 15, #answer, 2 do size = size + #answer[i] end
    end
    claims[#claims + 1] = answer
  end

  -- The answer for an entry whose nodes are ready and may be started without a claim; nil: claim it.
  local function held(stream, entry, flat)
    local id, names, last, graph, routes = flat[2], flat[4], 8, nil, nil
    if flat[1] ~= 'job' or flat[3] ~= 'nodes' or not string.find(id, '^[%w._-]+$') then return end
    if flat[9] == 'graph' and flat[11] == 'routes' then last, graph, routes = 12, flat[10], flat[12] end
    local traced = flat[last + 1] == 'traceparent'
    if sent[id] then graph, routes = '', '' end
    local name, nodes = entry .. '@' .. stream, split(names)
    if #flat ~= last + (traced and 2 or 0) or #nodes == 0 or #nodes > math.min(free.light, 1000) then return end
    local wanted = { 'n:' .. nodes[1], nil, nil, nil }
    for k = 2, #nodes do wanted[k] = 'n:' .. nodes[k] end
    if not graph then wanted[#nodes + 1], wanted[#nodes + 2] = 'graph', 'routes' end
    local row = redis.call('HMGET', JOB .. id, 'state', unpack(wanted))
    if not graph then graph, routes = row[#nodes + 2], row[#nodes + 3] end
    if not JOB_STARTS[string.match(row[1] or '', '^%S+')] or not graph then return end
    local attempts = ''
    for k = 1, #nodes do
      local status, under, attempt, deliveries = string.match(row[k + 1] or '', '^(%S+) (%S+) (%S+) (%S+)')
      if status ~= S.ready or deliveries ~= '0' or under ~= name then return end
      attempts = k == 1 and attempt or attempts .. ',' .. attempt
    end
    taken, free.light, size, sent[id] = taken + 1, free.light - #nodes, size + #graph, true
    return { 'held', stream, entry, id, names, attempts, NOW_TEXT, flat[6], graph, routes, traced and flat[last + 2] or '' }
  end

  -- The number of entries to read next. Those behind the last one that has to be read singly (for a slot, of several nodes, with a graph
  -- or outputs of any size) are of one light node each and 16 KiB at most, so as many are read as can be started, 64 at a time; else
  -- one at a time, and an entry that could not be started here is left to others.
  local function next_count(stream)
    local last = last_delivered(stream).id
    local careful = redis.call('GET', stream .. ':careful')
    if not careful or not id_after(careful, last) then return math.min(count - taken, free.light, 64) end
    if free.light > 0 and free.heavy > 0 then return 1 end
    local rows = redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', '1')
    if not rows[1] then return 1 end
    local heavy = false
    for i = 1, #rows[1][2], 2 do heavy = heavy or (rows[1][2][i] == 'heavy' and rows[1][2][i + 1] == '1') end
    return free[heavy and 'heavy' or 'light'] > 0 and 1 or 0
  end

  for _, pair in ipairs(handed) do
    if entry_owner(pair[1], pair[2]) == consumer then
      entry_delivered(pair[1], pair[2])
      note(pair[1], pair[2], entry_fields(pair[1], pair[2]))
    else
      claims[#claims + 1] = { 'not_yours', pair[1], pair[2] }
    end
  end
  for _, stream in ipairs(streams) do
    while taken < count and size < 1048576 and not is_closed(stream) do
      local wanted = next_count(stream)
      if wanted < 1 then break end
      local reply = redis.pcall('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', text_of[wanted], 'STREAMS', stream, '>')
      if type(reply) == 'table' and reply.err then
        if not string.find(reply.err, 'NOGROUP') then break end
        redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
        reply = redis.pcall('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', text_of[wanted], 'STREAMS', stream, '>')
      end
      if not reply or reply.err or not reply[1] then break end
      local rows = reply[1][2]
      entry_delivered(stream, rows[#rows][1])
      for k = 1, #rows do
        local answer = holding and held(stream, rows[k][1], rows[k][2])
        if answer then
          claims[#claims + 1] = answer
        else
          note(stream, rows[k][1], fields_of(rows[k][2]), true)
        end
      end
    end
  end
  if closed then claims[#claims + 1] = { 'closed', lane, '' } end
  return claims
end)
