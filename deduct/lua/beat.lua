-- A loader's sign of life. KEYS 1 loading mark, 2 hash of the new generation; ARGV 1
-- its name, 2 ms that its keys live. Returns 0 when the load was taken over or lost.
local call = redis.call
if call('HGET', KEYS[1], 'g') ~= ARGV[1] or call('HEXISTS', KEYS[2], 'b') == 0 then
  return 0
end
local time = call('TIME')
call('HSET', KEYS[1], 'at', string.format('%d', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)))
call('PEXPIRE', KEYS[1], ARGV[2])
call('PEXPIRE', KEYS[2], ARGV[2])
return 1
