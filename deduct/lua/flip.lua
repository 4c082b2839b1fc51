-- Puts a loaded generation into use: first writer wins.
--
-- KEYS  1 pointer, 2 loading mark, 3 hash and 4 tentative batches of the generation it
--       replaces, 5 hash and 6 tentative batches of the new one
-- ARGV  1 the pointer that the load began with, 2 name of the new generation, 3 number
--       of fields its hash must have, 4 units left, 5 ms that the family lives,
--       then token, record of the batches carried over
-- Returns 1 when it is in use now; 0 when another was first; -1 when Redis has lost a
-- part of what was loaded. In the last two cases the new keys are gone.
local call = redis.call
if (call('GET', KEYS[1]) or '') ~= ARGV[1] or call('HGET', KEYS[2], 'g') ~= ARGV[2] then
  call('UNLINK', KEYS[5])
  return 0
end
if call('HGET', KEYS[5], 'b') ~= ARGV[2] or call('HLEN', KEYS[5]) ~= tonumber(ARGV[3]) then
  call('UNLINK', KEYS[5], KEYS[2])
  return -1
end
for i = 6, #ARGV, 2 do
  call('HSET', KEYS[6], ARGV[i], ARGV[i + 1])
end
call('HSET', KEYS[5], 'm', '1', 'l', ARGV[4])
call('PEXPIRE', KEYS[5], ARGV[5])
call('SET', KEYS[1], ARGV[2], 'PX', ARGV[5])
call('UNLINK', KEYS[2], KEYS[3], KEYS[4])
return 1
