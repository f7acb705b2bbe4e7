-- Requests over all hosts and routes, in an order drawn by chance; `wrk -- HOSTS ROUTES CLOSE [KEY]`.
function init(args)
  local hosts, routes, close = tonumber(args[1]), tonumber(args[2]), args[3] == "close"
  requests = {}
  for host = 0, hosts - 1 do
    for route = 0, routes - 1 do
      local headers = { Host = string.format("h%d.bench.example", host), ["X-Tenant"] = "tenant-7" }
      if close then headers["Connection"] = "close" end
      requests[#requests + 1] = wrk.format("GET", string.format("/r%d/item", route), headers)
    end
  end
  math.randomseed(20)
end

function request()
  return requests[math.random(#requests)]
end

-- wrk's own figures, for a program to read.
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT requests=%d us=%d failed=%d p50=%d p99=%d\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
