-- take: reads new entries and claims them with those handed to it. ready -> running for as many nodes as are free.
-- KEYS[1]: the partition's index. One item: { consumer, nonce, count, light, heavy, streams, handed = { {stream, entry} } };
-- light and heavy: how many nodes of each kind it can start. An entry for a slot is left to others while no slot is free.
-- Replies, in MessagePack, a list of claims { word, stream, entry, ... } (see claim in _state.lua); the words: ok | gone | stale |
-- malformed | vanished | not_yours. It stops reading when the reply exceeds 1 MiB, so that one call stays bounded.
local consumer, nonce, count, light, heavy, streams, handed = unpack(items()[1])
local free = { light = light, heavy = heavy }
local claims, size, taken = {}, 0, 0

local function note(stream, entry, fields)
  taken = taken + 1
  local answer = claim(stream, entry, fields, consumer, nonce .. '.' .. tostring(taken), free)
  if answer[1] == 'ok' then size = size + #answer[9] end
  claims[#claims + 1] = answer
end

-- Whether the next entry of a stream could be started here; only asked when one kind has nothing free.
local function wanted(stream)
  if free.light > 0 and free.heavy > 0 then return true end
  local last = redis.call('GET', stream .. ':delivered')
  local rows = redis.call('XRANGE', stream, last and ('(' .. last) or '-', '+', 'COUNT', '1')
  if not rows[1] then return true end
  for i = 1, #rows[1][2], 2 do
    if rows[1][2][i] == 'heavy' then return free[rows[1][2][i + 1] == '1' and 'heavy' or 'light'] > 0 end
  end
  return true
end

for _, pair in ipairs(handed) do
  if entry_owner(pair[1], pair[2]) == consumer then
    note(pair[1], pair[2], entry_fields(pair[1], pair[2]))
  else
    claims[#claims + 1] = { 'not_yours', pair[1], pair[2] }
  end
end
for _, stream in ipairs(streams) do
  while taken < count and free.light + free.heavy > 0 and size < 1048576 and wanted(stream) do
    local reply = redis.pcall('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', '1', 'STREAMS', stream, '>')
    if type(reply) == 'table' and reply.err then
      if not string.find(reply.err, 'NOGROUP') then break end
      redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
      reply = redis.pcall('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', '1', 'STREAMS', stream, '>')
    end
    if not reply or reply.err or not reply[1] then break end
    local row = reply[1][2][1]
    local fields = {}
    for i = 1, #row[2], 2 do fields[row[2][i]] = row[2][i + 1] end
    note(stream, row[1], fields)
  end
end
save_jobs()
return cmsgpack.pack(claims)
