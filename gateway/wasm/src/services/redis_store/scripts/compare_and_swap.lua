-- Sets the value KEYS[1] to ARGV[3] if it is ARGV[2] now; where ARGV[1] is not 1, if there is none. ARGV[4]: milliseconds
-- to live, or nothing. Gives 1 where it was set, else 0.
local expected = ARGV[1] == '1' and ARGV[2]
if redis.call('GET', KEYS[1]) ~= expected then
  return 0
end
if ARGV[4] == '' then
  redis.call('SET', KEYS[1], ARGV[3])
else
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
end
return 1
