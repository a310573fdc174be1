-- due: moves delayed entries whose time has come onto their streams. scheduled -> queued.
-- KEYS[1]: the partition's index. One item: { limit }. Replies { moved, dropped, ms until the next or -1 }.
-- An entry that no record names any more (cancelled, retried, deleted) is dropped.
transition('due', { 'allow-oom' }, function(limit)
  local moved, dropped = 0, 0
  for _, nonce in ipairs(redis.call('ZRANGEBYSCORE', DELAYS, '-inf', NOW_TEXT, 'LIMIT', 0, limit)) do
    local packed = redis.call('HGET', DELAY_ENTRIES, nonce)
    local sent
    if packed then
      local id, stream, place, nodes, needs, inline, heavy, priority, declined = unpack(cmsgpack.unpack(packed))
      local J = job_load(id)
      if J and (JOB_STARTS[J.status] or J.status == S.scheduled) then
        if J.status == S.scheduled and job_move(J, S.queued) then status_event(J) end
        sent = dispatch(J, { stream, place, nodes, needs, inline, nonce, 0, '-', heavy, priority or '', declined }, function(r)
          return r.status == S.ready and r.entry == 'delay:' .. nonce
        end)
      end
    end
    redis.call('ZREM', DELAYS, nonce)
    redis.call('HDEL', DELAY_ENTRIES, nonce)
    if sent then moved = moved + 1 else dropped = dropped + 1 end
  end
  local nearest = redis.call('ZRANGE', DELAYS, 0, 0, 'WITHSCORES')
  return { moved, dropped, nearest[2] and math.max(0, tonumber(nearest[2]) - NOW) or -1 }
end)
