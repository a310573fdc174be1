-- read: returns a job's state, and as much else as the reader needs, in one read, so that a snapshot and the events after it fit together.
-- KEYS[1]: the partition's index. Item: { job, after or -1 (no events), depth }. What a depth reads, each with what the ones before it read:
--   0: the fields of a list or a document: never an output, and records only of a job that is alive (why does it wait?)
--   1: every record and claim   2: graph and routes   3: the results of the nodes
-- Replies, in MessagePack, per item {} or { fields (flat), events }.
local NAMED = { 'state', 'digest', 'priority', 'pipeline', 'owner', 'metadata', 'webhook', 'error', 'startAt', 'about', 'stored' }
local DEPTH_OF = { ['n:'] = 1, ['c:'] = 1, ['o:'] = 3 }

local function put_fields(flat, key, names)
  for first = 1, #names, 1000 do
    local some = { unpack(names, first, math.min(first + 999, #names)) }
    local values = redis.call('HMGET', key, unpack(some))
    for k = 1, #some do
      if values[k] then flat[#flat + 1], flat[#flat + 2] = some[k], values[k] end
    end
  end
end

transition('read', { 'no-writes' }, function(id, after, depth)
  local key, flat, events = job_key(id), {}, {}
  put_fields(flat, key, NAMED)
  if flat[1] ~= 'state' then return {} end
  local status, last, cut, _, _, _, _, _, _, _, birth = string.match(flat[2], STATE_WORDS)
  local names = {}
  if flat[#flat - 1] == 'stored' then
    for node in string.gmatch(flat[#flat], '[^,]+') do names[#names + 1] = 'a:' .. node end
  end
  local most = depth
  if depth == 0 and not JOB_ENDED[status] then most = 1 end
  if most > 0 then
    for _, name in ipairs(redis.call('HKEYS', key)) do
      if (DEPTH_OF[string.sub(name, 1, 2)] or 9) <= most then names[#names + 1] = name end
    end
  end
  if depth >= 2 then names[#names + 1], names[#names + 2] = 'graph', 'routes' end
  put_fields(flat, key, names)
  local seq, trimmed = tonumber(last), tonumber(cut)
  if after >= 0 and after < seq then
    local lines = redis.call('HGET', key, 'log')
    events = lines and event_texts(birth, trimmed + 1, lines) or redis.call('LRANGE', key .. ':events', math.max(0, after - trimmed), -1)
    if lines then events = { unpack(events, math.max(0, after - trimmed) + 1) } end
  end
  return { flat, events }
end, function(replies) return cmsgpack.pack(replies) end)
