-- Sets what buyers hold to what the ledger says they hold. KEYS 1 hash; ARGV 1 number
-- of buyers, then that many fields 'u:'..user, then as many units. A buyer the
-- generation does not know is left alone; an order id kept with a buyer's units stays.
local call = redis.call
if call('HEXISTS', KEYS[1], 'm') == 0 then
  return 0
end
local n = tonumber(ARGV[1])
for i = 1, n do
  local v = call('HGET', KEYS[1], ARGV[1 + i])
  if v then
    call('HSET', KEYS[1], ARGV[1 + i], (#v > 24 and string.sub(v, 1, 24) or '') .. ARGV[1 + n + i])
  end
end
return n
