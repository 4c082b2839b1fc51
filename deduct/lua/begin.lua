-- Begins to load a new generation of one family: takes the current one out of use and
-- says what is still tentative in it.
--
-- KEYS  1 pointer, 2 loading mark, 3 hash and 4 tentative batches of the current
--       generation, 5 hash of the new one
-- ARGV  1 the pointer that the caller saw ('' = none), 2 name of the new generation,
--       3 ms of silence after which a loader is taken for dead, 4 ms that keys of an
--       unfinished generation live
-- Returns {'begun', token, record, ...}, {'moved'} when the pointer is another by now,
-- or {'busy'} while another loader is at work.
local call = redis.call
if (call('GET', KEYS[1]) or '') ~= ARGV[1] then
  return {'moved'}
end
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local at = call('HGET', KEYS[2], 'at')
local silence = at and now - tonumber(at)
-- One that has shown itself in the future did so before the clock was set back.
if silence and silence >= 0 and silence < tonumber(ARGV[3]) then
  return {'busy'}
end
call('DEL', KEYS[2])
call('HSET', KEYS[2], 'g', ARGV[2], 'at', string.format('%d', now))
call('PEXPIRE', KEYS[2], ARGV[4])
-- A value of more than 64 bytes makes Redis keep the hash as a table from the start: as a
-- list, which it would be up to 128 fields, every field of a batch is searched for.
call('HSET', KEYS[5], 'b', ARGV[2], 'wide', string.rep('-', 65))
call('PEXPIRE', KEYS[5], ARGV[4])
local out = {'begun'}
if ARGV[1] ~= '' then
  call('HDEL', KEYS[3], 'm')
  local batches = call('HGETALL', KEYS[4])
  for i = 1, #batches do
    out[i + 1] = batches[i]
  end
end
return out
