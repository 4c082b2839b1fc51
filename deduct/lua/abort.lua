-- Ends a load that failed, so that the next one need not wait for it. KEYS 1 loading
-- mark, 2 hash of the new generation; ARGV 1 its name.
if redis.call('HGET', KEYS[1], 'g') == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return redis.call('UNLINK', KEYS[2])
