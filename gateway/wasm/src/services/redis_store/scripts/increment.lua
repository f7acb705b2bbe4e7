-- Adds ARGV[1] to the counter KEYS[1]. Whoever begins it sets its time to live: ARGV[2] milliseconds, or none. Gives the
-- value as text: a number of Lua's is exact to 53 bits only.
local begins = redis.call('EXISTS', KEYS[1]) == 0
local added = redis.pcall('INCRBY', KEYS[1], ARGV[1])
if type(added) == 'table' and added.err then
  return added
end
if begins and ARGV[2] ~= '' then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return redis.call('GET', KEYS[1])
