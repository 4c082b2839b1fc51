-- Looks at one generation for the reconciler. KEYS 1 hash, 2 tentative batches; ARGV 1
-- the age in ms above which a tentative batch is judged.
-- Returns {units left, number of tentative batches, token, record, ... of the old ones},
-- or {} when the generation is not in use.
local call = redis.call
local r = call('HMGET', KEYS[1], 'm', 'l')
if not r[1] then
  return {}
end
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local oldest = now - tonumber(ARGV[1])
local batches = call('HGETALL', KEYS[2])
local out = {tonumber(r[2]), #batches / 2}
for i = 1, #batches, 2 do
  local at = tonumber(string.sub(batches[i + 1], 1, 13))
  -- A batch from the future was taken before the clock was set back: nobody knows its age.
  if not at or at < oldest or at > now then
    out[#out + 1] = batches[i]
    out[#out + 1] = batches[i + 1]
  end
end
return out
