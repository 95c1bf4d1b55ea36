-- SPDX-License-Identifier: Apache-2.0
-- Requests orders of the tenant acme by id, in a random order, and reports one line of JSON. Ids of acme are those that five does not divide.
local token = os.getenv("BENCH_TOKEN")
function init(args)
  math.randomseed(os.time())
  if token then wrk.headers["Authorization"] = "Bearer " .. token end
end
function request()
  local id = 5 * math.random(0, 3999) + math.random(1, 4)
  return wrk.format("GET", "/v1/orders/" .. id)
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('{"per_s":%.1f,"p50_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f,"bad":%d}\n', summary.requests / (summary.duration / 1e6),
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
