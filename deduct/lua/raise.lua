-- Repair rule c: raises the units left of a generation to the ledger's figure.
-- KEYS 1 hash, 2 tentative batches; ARGV 1 units, 2 the units left before the ledger was
-- read. Returns 1 when it did; it does not when the generation is not in use, has other
-- units left by now, or has anything tentative.
local call = redis.call
local r = call('HMGET', KEYS[1], 'm', 'l')
if not r[1] or r[2] ~= ARGV[2] or call('EXISTS', KEYS[2]) == 1 then
  return 0
end
call('HSET', KEYS[1], 'l', ARGV[1])
return 1
