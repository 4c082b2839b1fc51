-- Sets what buyers hold to nothing. KEYS 1 hash; ARGV fields 'u:'..user. A buyer the
-- generation does not know is left alone; an order id kept with a buyer's units stays.
local call = redis.call
if call('HEXISTS', KEYS[1], 'm') == 0 then
  return 0
end
for i = 1, #ARGV do
  local v = call('HGET', KEYS[1], ARGV[i])
  if v then
    call('HSET', KEYS[1], ARGV[i], (#v > 24 and string.sub(v, 1, 24) or '') .. '0')
  end
end
return #ARGV
