-- Remembers that a claim is queued. A mark that lives longer stays: a claim that was
-- parked after it was queued is queued for longer than the mark of the one queue says.
-- KEYS 1 the claim's key; ARGV 1 the mark, 2 its time to live in ms, 3 how every mark
-- of a queued claim begins.
local call = redis.call
local has = call('GET', KEYS[1])
if has and string.sub(has, 1, #ARGV[3]) == ARGV[3] and call('PTTL', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
