-- How a transition is registered.

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
