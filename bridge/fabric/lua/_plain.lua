-- Functions that are no transitions: they need no header and change no job.

-- page: 200 pending entries of a stream and the server's time of the same moment. KEYS[1]: the stream; ARGV: the group, the first entry.
register('page', { 'no-writes' }, function(keys, arguments)
  return { redis.call('TIME'), redis.call('XPENDING', keys[1], arguments[1], arguments[2], '+', 200) }
end)

-- epoch: the replication id of the server that has KEYS[1].
register('epoch', { 'no-writes' }, function() return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') end)

-- put: a write that the memory limit does not refuse. KEYS[1]; ARGV: the command, what follows the key. For heartbeats: they are few
-- and small, and without them all workers would seem gone.
register('put', { 'allow-oom' }, function(keys, arguments) return redis.call(arguments[1], keys[1], unpack(arguments, 2)) end)

-- append: adds to a list of bounded length that expires, in one step. KEYS[1]; ARGV: its length, its lifetime in ms, the values.
register('append', { 'allow-oom' }, function(keys, arguments)
  redis.call('RPUSH', keys[1], unpack(arguments, 3))
  redis.call('LTRIM', keys[1], -arguments[1], -1)
  redis.call('PEXPIRE', keys[1], arguments[2])
end)

-- lasting: a write to a key that expires, in one step: a caller that is cut off leaves nothing for ever. KEYS[1]; ARGV: its lifetime from now in ms,
-- the command, what follows the key. Replies what the command does.
register('lasting', { 'allow-oom' }, function(keys, arguments)
  local reply = redis.call(arguments[2], keys[1], unpack(arguments, 3))
  redis.call('PEXPIRE', keys[1], arguments[1])
  return reply
end)

-- keep: writes a field of a hash that has a limited number of them. KEYS[1]; ARGV: the most fields, the field, its value.
-- Replies 1: it is new, 0: it was written over, -1: it would be one too many.
register('keep', {}, function(keys, arguments)
  if redis.call('HEXISTS', keys[1], arguments[2]) == 0 and redis.call('HLEN', keys[1]) >= tonumber(arguments[1]) then return -1 end
  return redis.call('HSET', keys[1], arguments[2], arguments[3])
end)

-- ahead: the number of entries before a given one that no worker has been given, 100 at most. KEYS[1]: its stream; ARGV: its id, or + for all of
-- them; what a job's key begins with. Behind the last entry that change.lua replaced, every entry counts; before it, those that a record names.
register('ahead', { 'no-writes' }, function(keys, arguments)
  local stream, job = keys[1], arguments[2]
  local last = redis.call('GET', stream .. ':delivered') or '0-0'
  local moved = last_moved(stream)
  local rows = redis.call('XRANGE', stream, '(' .. last, arguments[1] == '+' and '+' or '(' .. arguments[1], 'COUNT', '500')
  local count = 0
  for _, row in ipairs(rows) do
    if stands(job, stream, row[1], fields_of(row[2]), moved) then count = count + 1 end
    if count == 100 then break end
  end
  return count
end)

-- standing: of 500 entries of a stream that no worker has been given, those that a record names: not what moved away, nor what is left of a job that
-- was cancelled or deleted. KEYS[1]: the stream; ARGV: the entry before the first, '' for the first of all; what a job's key begins with.
-- Replies the last entry looked at, or '' at the stream's end, then job, entry, job, entry, ...
register('standing', { 'no-writes' }, function(keys, arguments)
  local stream, after = keys[1], arguments[1]
  if after == '' then after = redis.call('GET', stream .. ':delivered') or '0-0' end
  local rows = redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', '500')
  local found = { rows[500] and rows[500][1] or '' }
  for _, row in ipairs(rows) do
    local fields = fields_of(row[2])
    if stands(arguments[2], stream, row[1], fields, row[1]) then found[#found + 1], found[#found + 2] = fields.job, row[1] end
  end
  return found
end)
