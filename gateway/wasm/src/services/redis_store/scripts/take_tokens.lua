-- Takes ARGV[4] tokens from the bucket KEYS[1], which holds ARGV[1] and gets ARGV[2] anew every ARGV[3] microseconds, by
-- the server's clock. Gives whether they were there, what is left, and in how many milliseconds as many will be there (-1:
-- never).
--
-- What is kept is text: whole tokens, the part of the interval on the way to the next one, that interval, and when this
-- was so. All numbers are whole and below 2^53, where Lua's are exact, so that nothing drifts.
local capacity, refill = tonumber(ARGV[1]), tonumber(ARGV[2])
local interval, cost = tonumber(ARGV[3]), tonumber(ARGV[4])
local most = 9007199254740992

-- The quotient and the remainder of a * b / m, where a < m < 2^45: seven bits of b at a time, so that no product is above
-- 2^53.
local function multiply_divide(a, b, m)
  local quotient, rest, unit = 0, 0, 562949953421312
  while unit >= 1 do
    local digit = math.floor(b / unit)
    b = b - digit * unit
    local part = rest * 128 + a * digit
    rest = math.fmod(part, m)
    quotient = quotient * 128 + (part - rest) / m
    unit = unit / 128
  end
  return quotient, rest
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local whole, part, at = capacity, 0, now

local kept = redis.call('GET', KEYS[1])
if kept then
  local w, p, i, a = string.match(kept, '^(%d+) (%d+) (%d+) (%d+)$')
  if not w then
    return redis.error_reply('ERR there is something at the key that is no token bucket')
  end
  local former
  whole, part, former, at = tonumber(w), tonumber(p), tonumber(i), tonumber(a)
  if former ~= interval then
    part = math.min(math.floor(part / former * interval), interval - 1)
  end
  local elapsed = math.max(now - at, 0)
  at = math.max(now, at)
  local within = math.fmod(elapsed, interval)
  local refilled, more = multiply_divide(within, refill, interval)
  part = part + more
  if part >= interval then
    part = part - interval
    refilled = refilled + 1
  end
  whole = whole + (elapsed - within) / interval * refill + refilled
  if whole >= capacity then
    whole, part = capacity, 0
  end
end

local taken = cost <= whole
if taken then
  whole = whole - cost
end

-- Microseconds until so many are there; nil where nothing is refilled.
local function wait(wanted)
  local missing = wanted - whole
  if missing <= 0 then
    return 0
  end
  if refill == 0 then
    return nil
  end
  return math.ceil((missing * interval - part) / refill)
end

local full = wait(capacity)
if full == 0 then
  -- A full bucket is as good as none.
  if kept then
    redis.call('DEL', KEYS[1])
  end
else
  local state = string.format('%.0f %.0f %.0f %.0f', whole, part, interval, at)
  if full then
    -- A millisecond more: it may not be gone before it is full.
    local live = math.min(math.ceil((at - now + full) / 1000) + 1, most)
    redis.call('SET', KEYS[1], state, 'PX', string.format('%.0f', live))
  else
    redis.call('SET', KEYS[1], state)
  end
end

local again = cost <= capacity and wait(cost)
return { taken and 1 or 0, whole, again and math.min(math.ceil(again / 1000), most) or -1 }
