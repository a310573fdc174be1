-- Node records and their moves.

local function record_parse(raw)
  if not raw then
    return { status = S.pending, entry = '-', attempt = 1, deliveries = 0, started = '-', ended = '-', reason = '-',
      place = '-', share = 0, moved = false }
  end
  local status, entry, attempt, deliveries, started, ended_at, reason, place, share =
    string.match(raw, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)')
  return { status = status, entry = entry, attempt = attempt + 0, deliveries = deliveries + 0, started = started,
    ended = ended_at, reason = reason, place = place, share = share + 0, moved = false }
end

-- Returns a node's record, which is parsed once in a call and written once, by save(); only what ends in node_put may change it.
local function node_get(J, node)
  local r = J.nodes[node]
  if not r then
    r = record_parse(field(J, 'n:' .. node))
    J.nodes[node] = r
  end
  return r
end

local function record_raw(J, node)
  local r = J.nodes[node]
  return r and r.moved and record_text(r) or field(J, 'n:' .. node)
end

-- Returns a record with the node's result, in the form for readers of outputs: record, newline, JSON or nothing. nil: it is pending.
local function record_told(J, node)
  local raw = record_raw(J, node)
  if not raw then return nil end
  return raw .. '\n' .. (NODE_ENDED[string.match(raw, '^%S+')] and field(J, 'o:' .. node) or '')
end

local function node_event(J, node, r, worker, failure)
  emit(J, 'status:', 'n', r.status, text_of[r.attempt], node, worker or '-', r.reason, failure or '')
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
  if not r.moved then
    r.moved = true
    J.moved[#J.moved + 1] = node
  end
  return true
end

-- Sets the share in a record that is written next; returns whether it has changed.
local function share_set(J, r, share)
  if share == r.share then return false end
  J.progress = J.progress + share - r.share
  r.share = share
  return true
end

-- Starts a node, whose record is `r`, under an entry; the caller has checked that the claim is its own. `at`: when it started, if not now.
local function node_start(J, node, r, entry, worker, at)
  if not JOB_STARTS[J.status] then return nil end
  if not (r.status == S.pending or (r.status == S.ready and r.entry == entry)) then return nil end
  local before = r.status
  r.status, r.entry, r.reason, r.started, r.ended = S.running, entry, '-', at or NOW_TEXT, '-'
  node_put(J, node, before, r)
  if J.status == S.queued and job_move(J, S.running) then
    if J.started == '-' then J.started = at or NOW_TEXT end
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
