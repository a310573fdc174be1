-- Registers a transition.

local function register(name, flags, callback)
  redis.register_function({ function_name = name .. '_' .. VERSION, flags = flags, callback = callback })
end

-- `commit` receives the values of an item and returns its reply; its changes are written after the last item. `reply`, if given, makes
-- the call's reply from the items' replies. Flags: at the memory limit only submit is refused; read is served also where writes are refused
-- (min-replicas-to-write).
local function transition(name, flags, commit, reply)
  register(name, flags, function(_, arguments)
    begin(arguments)
    local replies = {}
    for i = 2, #arguments do replies[i - 1] = commit(cmsgpack.unpack(arguments[i])) end
    save()
    if reply then replies = reply(replies) end
    loaded, ended, counted, acked, delivered, asked = nil
    return replies
  end)
end
