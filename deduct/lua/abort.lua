-- Ends a load that failed: the next one need not wait for it, and the generation that
-- it took out of use is in use again.
--
-- KEYS  1 pointer, 2 loading mark, 3 hash of the generation in use before, 4 hash of
--       the new one
-- ARGV  1 the pointer that the load began with, 2 name of the new generation
local call = redis.call
if call('HGET', KEYS[2], 'g') == ARGV[2] then
  call('DEL', KEYS[2])
  if ARGV[1] ~= '' and call('GET', KEYS[1]) == ARGV[1] and call('HEXISTS', KEYS[3], 'l') == 1 then
    call('HSET', KEYS[3], 'm', '1')
  end
end
return call('UNLINK', KEYS[4])
