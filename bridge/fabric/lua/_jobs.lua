-- The jobs that a call has loaded: their fields, their event log, their end.

-- A job is loaded once in a call, changed in memory, and written once, by save(): one read and one write for all steps of
-- a report. Entries, delays and messages go out at once; one that goes out for a job that is not written then is stale, or dropped.

-- The data of a job that every transition needs is one field, `state`, fourteen words (those of job_new, with the time of the last write
-- before the last two); the rest is in other fields, `error` only where a node has failed unhandled.
local STATE_WORDS = '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) %S+ ?(%d*) ?(%d*)$'

-- outputs: the bytes of all `o:` and `a:` fields; logged: the bytes of the event log. Lists have space for the entries of most jobs.
local function job_new(id, fields, status, seq, trimmed, remaining, running, broken, progress, attempt, started, finished, created,
    outputs, logged)
  local J = { id = id, fields = fields, put = { 'state', '', nil, nil, nil, nil }, drop = false, events = { nil, nil, nil, nil }, nodes = {},
    moved = { nil },
    status = status, seq = seq + 0, trimmed = trimmed + 0, remaining = remaining + 0, running = running + 0, broken = broken + 0,
    progress = progress + 0, attempt = attempt + 0, started = started, finished = finished, created = created,
    outputs = tonumber(outputs) or 0, logged = tonumber(logged) or 0 }
  loaded[id] = J
  return J
end

-- Loads a job; nil where there is none. `wanted`: fields that will be needed, read in the same call.
local function job_load(id, wanted)
  local J = loaded[id]
  if J ~= nil then return J or nil end
  wanted = wanted or NONE
  local row = redis.call('HMGET', job_key(id), 'state', unpack(wanted))
  if not row[1] then
    loaded[id] = false
    return nil
  end
  local fields = { [wanted[1] or ''] = row[2], [wanted[2] or ''] = row[3], [wanted[3] or ''] = row[4], [wanted[4] or ''] = row[5] }
  for i = 5, #wanted do fields[wanted[i]] = row[i + 1] end
  return job_new(id, fields, string.match(row[1], STATE_WORDS))
end

-- Returns a field other than the state; nil where the job has none of that name.
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

-- Returns the names of a kind (`n:`, `c:`, ...) that a job has in the store, without the kind, except those that this call has removed.
local function names_of(J, kind)
  local found = {}
  for _, name in ipairs(redis.call('HKEYS', job_key(J.id))) do
    if string.sub(name, 1, 2) == kind and J.fields[name] ~= false then found[#found + 1] = string.sub(name, 3) end
  end
  return found
end

-- Calls a command with a list of any length, since unpack() has its limits. Returns the last reply.
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

local function fraction(share)
  if share == 0 then return '0' elseif share == 1e9 then return '1' end
  return string.format('%.9g', share / 1e9)
end

local function null(text) if text == nil or text == '' then return 'null' end return text end

local function quoted(text) if text == nil or text == '-' or text == '' then return 'null' end return '"' .. text .. '"' end

-- The JSON of an event of a kind: `s` status progress attempt error; `n` status attempt node worker reason error; `e` the body of a task's event.
local function event_json(seq, time, kind, a, b, c, d, e, f)
  local head = '{"seq":' .. text_of[seq] .. time
  if kind == 's' then
    return head .. '"type":"status","status":"' .. a .. '","progress":' .. fraction(b + 0) .. ',"attempt":' .. c .. ',"error":' .. null(d) .. '}'
  elseif kind == 'n' then
    return head .. '"type":"node","nodeId":"' .. c .. '","status":"' .. a .. '","attempt":' .. b .. ',"error":' .. null(f) ..
      ',"worker":' .. quoted(d) .. ',"reason":' .. quoted(e) .. '}'
  end
  return head .. a .. '}'
end

-- In a short log an event is a line: the ms since its job's `birth`, its kind, and the rest. This makes its JSON, the same bytes as emit() does.
local FORMS = { s = '^(%S+) (%S+) (%S+) (.*)$', n = '^(%S+) (%S+) (%S+) (%S+) (%S+) (.*)$', e = '^(.*)$' }
local function event_text(birth, seq, line)
  local age, kind, rest = string.match(line, '^(%-?%d+)(%a) (.*)$')
  return event_json(seq, created(string.format('%d', birth + age)), kind, string.match(rest, FORMS[kind]))
end

-- The log of events is the job's field `log`, lines, while it is short (SMALL_LOG), then a list of JSON texts.
local function event_texts(birth, first, lines)
  local texts = {}
  for line in string.gmatch(lines, '[^\n]+') do texts[#texts + 1] = event_text(birth, first + #texts, line) end
  return texts
end

-- Appends the call's events to the list, and drops the oldest ones beyond the limits of number and of bytes.
local function log_push(J, log, texts)
  local over = call_with(texts, 'RPUSH', log) - LOG
  for k = 1, #texts do J.logged = J.logged + #texts[k] end
  while over > 0 or J.logged > LOG_BYTES do
    local dropped = redis.call('LPOP', log, over > 0 and math.min(over, 1000) or 1)
    if not dropped then break end
    for k = 1, #dropped do J.logged = J.logged - #dropped[k] end
    J.trimmed, over = J.trimmed + #dropped, over - #dropped
  end
  J.logged = math.max(0, J.logged)
end

local function log_save(J, log)
  if J.logged > 0 then return log_push(J, log, J.events) end
  local before, lines, first = field(J, 'log'), table.concat(J.events, '\n'), J.seq - #J.events + 1
  if before then
    lines, first = before .. '\n' .. lines, J.trimmed + 1
  end
  if first > J.trimmed + 1 or #lines > SMALL_LOG or J.seq > LOG then
    if before then field_put(J, 'log', false) end
    log_push(J, log, event_texts(J.created, first, lines))
  else
    field_put(J, 'log', lines)
  end
end

local function record_text(r)
  return r.status .. ' ' .. r.entry .. ' ' .. text_of[r.attempt] .. ' ' .. text_of[r.deliveries] .. ' ' .. r.started .. ' ' .. r.ended .. ' ' ..
    r.reason .. ' ' .. r.place .. ' ' .. text_of[r.share]
end

local function job_save(J)
  local key = job_key(J.id)
  local log = key .. ':events'
  if #J.events > 0 then log_save(J, log) end
  for k = 1, #J.moved do field_put(J, 'n:' .. J.moved[k], record_text(J.nodes[J.moved[k]])) end
  J.put[2] = J.status .. ' ' .. text_of[J.seq] .. ' ' .. text_of[J.trimmed] .. ' ' .. text_of[J.remaining] .. ' ' ..
    text_of[J.running] .. ' ' .. text_of[J.broken] .. ' ' .. text_of[J.progress] .. ' ' .. text_of[J.attempt] .. ' ' ..
    J.started .. ' ' .. J.finished .. ' ' .. J.created .. ' ' .. NOW_TEXT .. ' ' ..
    text_of[J.outputs] .. ' ' .. text_of[J.logged]
  call_with(J.put, 'HSET', key)
  if J.drop then drop_save(J, key) end
  if JOB_ENDED[J.status] then
    redis.call('PEXPIRE', key, TTL)
    if J.logged > 0 then redis.call('PEXPIRE', log, TTL) end
  end
end

-- Every change of a job's status or of a node goes with an event or a field.
local function is_changed(J) return J.events[1] or J.put[3] or J.drop or J.moved[1] end

-- Logs an event of a kind (event_json), as a line or, where the log is a list, as JSON, and publishes it where it has listeners.
local function emit(J, channel, kind, a, b, c, d, e, f)
  J.seq = J.seq + 1
  local listens, event = heard(channel, J.id), nil
  if listens or J.logged > 0 then event = event_json(J.seq, CREATED, kind, a, b, c, d, e, f) end
  if listens then redis.call('PUBLISH', channel .. J.id, event) end
  if J.logged == 0 then
    local age = J.age or text_of[NOW - J.created]
    J.age = age
    if kind == 'n' then event = age .. 'n ' .. a .. ' ' .. b .. ' ' .. c .. ' ' .. d .. ' ' .. e .. ' ' .. f
    elseif kind == 's' then event = age .. 's ' .. a .. ' ' .. b .. ' ' .. c .. ' ' .. d
    else event = age .. 'e ' .. a end
  end
  J.events[#J.events + 1] = event
end

local function job_error(J) return J.broken > 0 and field(J, 'error') or nil end

local function status_event(J)
  emit(J, 'status:', 's', J.status, text_of[J.progress], text_of[J.attempt], job_error(J) or '')
end

local function job_move(J, to)
  if not JOB_MOVES[J.status][to] then return false end
  if not JOB_ENDED[J.status] then count(J.status, -1) end
  count(JOB_ENDED[to] and to .. ' ' .. (field(J, 'pipeline') or 'graph') or to, 1)
  J.status = to
  return true
end

local function publish_progress(J, node, node_progress)
  if not heard('progress:', J.id) then return end
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
