-- The code that every transition shares: a job's header, its node records, its event log, and the entries that carry it.
--
-- These six files (functions.SHARED) stand behind the library's name (VERSION is its hash) and the tables of lifecycle.py (S, NODE_MOVES, ...), and before
-- each transition file. ARGV[1] of a call is its header: { tag, suffix, ttl_ms, log_length, group, protocol, log_bytes, output_bytes }. Every
-- other ARGV is one item, its values in MessagePack one after the other (an array would be a table that grows). User JSON is opaque text here: it is
-- stored, concatenated and published, never decoded.
--
-- A record is `status entry attempt deliveries started ended reason place share`; "-" means no value, share is the node's part of the
-- progress so far, of 10^9. Counters move only in node_put, by the difference between a node's old and new status. What an ended node
-- produces, its output or error as JSON, is a separate field (`o:<node>`), so that the state of a job is read without its payloads.
--
-- What costs here is Lua itself: a table that grows costs more than a command, so what is small is built at once, or is a text.

-- The variables of one call: begin() sets all of them, so that a failed call leaves no value to the next.
local NOW, NOW_TEXT, CREATED
local loaded, ended, counted, acked, delivered
local alive -- the number of live jobs, for submit.lua
local asked, heard_of -- the items of the call, and by kind of channel which of their jobs have listeners, as far as it was asked

-- The values of the header, which few callers change: it is read again only when its bytes differ.
local HEADER, SUFFIX, TTL, LOG, GROUP, PROTOCOL, LOG_BYTES, OUTPUT_BYTES
local SMALL_LOG -- the bytes up to which a job's log is a field of the job
local JOB, INDEX, ALIVE, DELAYS, DELAY_ENTRIES, DEAD
local COUNTS -- jobs by live status, ended ones by `status pipeline`, and other events (`redelivered`, `dead reason`)
local WEBHOOKS -- jobs whose subscriber must be notified when they have ended

-- Kept across calls: texts that are used again.
local SECOND, SECOND_TEXT
local NONE = {}

-- text_of[n]: a number as the store writes it. Spelling one costs as much as a read, so those that come again are kept: counters, the
-- whole of a progress. Made by the first call: while a library is loaded there is no setmetatable.
local text_of

local function spell(kept, n)
  local text = string.format('%d', n)
  if n >= 0 and n < 1000 then kept[n] = text end
  return text
end

-- RFC 3339 without its end; days to civil date after Howard Hinnant's "chrono-compatible low-level date algorithms".
local function date_and_time(seconds)
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
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d', y, m, d, math.floor(rest / 3600), math.floor(rest / 60) % 60, rest % 60)
end

local function header_read(bytes)
  HEADER = nil -- a header that cannot be read must leave no value for the next call
  local tag
  tag, SUFFIX, TTL, LOG, GROUP, PROTOCOL, LOG_BYTES, OUTPUT_BYTES = unpack(cmsgpack.unpack(bytes))
  JOB = tag == '' and 'job:' or 'job:' .. tag .. ':'
  INDEX, ALIVE, COUNTS, WEBHOOKS = 'jobs' .. SUFFIX, 'jobs:alive' .. SUFFIX, 'counts' .. SUFFIX, 'webhooks' .. SUFFIX
  DELAYS, DELAY_ENTRIES, DEAD = 'delays' .. SUFFIX, 'delays:entries' .. SUFFIX, 'stream:dead' .. SUFFIX
  SMALL_LOG = LOG_BYTES < 16384 and 0 or 2000
  text_of = text_of or setmetatable({ [1e9] = '1000000000' }, { __index = spell })
  HEADER = bytes
end

-- The time of an event in its text; `ms` as NOW_TEXT.
local function created(ms)
  if ms == NOW_TEXT then return CREATED end
  local seconds = string.sub(ms, 1, -4)
  if seconds ~= SECOND then SECOND, SECOND_TEXT = seconds, date_and_time(tonumber(seconds)) end
  return ',"created":"' .. SECOND_TEXT .. '.' .. string.sub(ms, -3) .. 'Z",'
end

local function begin(arguments)
  local header = arguments[1]
  if header ~= HEADER then header_read(header) end
  local clock = redis.call('TIME')
  if clock[1] ~= SECOND then SECOND, SECOND_TEXT = clock[1], date_and_time(tonumber(clock[1])) end
  local ms = string.sub('00000' .. clock[2], -6, -4)
  NOW_TEXT = clock[1] .. ms
  NOW = NOW_TEXT + 0
  CREATED = ',"created":"' .. SECOND_TEXT .. '.' .. ms .. 'Z",'
  loaded, ended, counted, acked, delivered, alive, asked, heard_of = {}, {}, {}, {}, {}, nil, arguments, {}
end

local function job_key(id) return JOB .. id end

-- Returns whether a channel of a job (`status:`, ...) has listeners; most jobs have several events and no listener. It is asked once for all jobs
-- of a call (whose items begin with the job), since asking for one costs as much as a PUBLISH. In a cluster a listener may be at any node.
local function heard(kind, id)
  local known = heard_of[kind]
  if not known then
    known = {}
    heard_of[kind] = known
    if SUFFIX == '' and redis.pcall('PUBSUB', 'NUMPAT') == 0 then
      local channels = {}
      for i = 2, math.min(#asked, 1000) do
        local _, job = cmsgpack.unpack_one(asked[i])
        channels[i - 1] = kind .. tostring(job)
      end
      local rows = redis.pcall('PUBSUB', 'NUMSUB', unpack(channels))
      for i = 1, rows.err and 0 or #rows, 2 do known[string.sub(rows[i], #kind + 1)] = rows[i + 1] > 0 end
    end
  end
  return known[id] ~= false
end

-- Counts in COUNTS; save() writes the counters that a call has changed.
local function count(name, by) counted[name] = (counted[name] or 0) + by end

-- What a key may submit and retry: limit = { name, jobs per minute, most alive } or {}; 0: none. A minute's jobs may come at once, then they
-- come evenly: one number is kept, the time at which all of them could come at once again (GCRA). Answers nil, or the word that refuses.
local function over(limit)
  local name, per_minute, most = unpack(limit or NONE)
  if not name then return end
  if most > 0 then
    local mine = 'alive:' .. name .. SUFFIX
    if redis.call('SCARD', mine) >= most and redis.call('SINTERSTORE', mine, mine, ALIVE) >= most then return 'quota' end
  end
  if per_minute > 0 then
    local key, step = 'rate:' .. name .. SUFFIX, 60000 / per_minute
    local whole = math.max(tonumber(redis.call('GET', key) or '0'), NOW) + step
    if whole > NOW + 60000.5 then return 'rate ' .. text_of[math.ceil(whole - NOW - 60000)] end
    redis.call('SET', key, string.format('%.3f', whole), 'PX', 60001)
  end
end

-- The job, which is alive now, counts among those of the key that made it so.
local function count_for(limit, id)
  if limit and limit[1] and limit[3] > 0 then redis.call('SADD', 'alive:' .. limit[1] .. SUFFIX, id) end
end
