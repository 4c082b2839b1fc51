-- Removes tentative batches of a generation that is not the family's.
-- KEYS 1 pointer, 2 tentative batches; ARGV 1 the generation they belong to.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return 0
end
return redis.call('UNLINK', KEYS[2])
