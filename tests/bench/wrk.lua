-- SPDX-License-Identifier: Apache-2.0
-- Sends BENCH_TARGET, or BENCH_BODY to it, and reports one line of JSON. {id} becomes an order of the tenant acme (ids that five does not divide), {time} a random moment of the demo's first nine months.
local token = os.getenv("BENCH_TOKEN")
local target, body = os.getenv("BENCH_TARGET"), os.getenv("BENCH_BODY")
function init(args)
  math.randomseed(os.time())
  if token and token ~= "" then wrk.headers["Authorization"] = "Bearer " .. token end
  if body and body ~= "" then wrk.headers["Content-Type"] = "application/json" end
end
local function fill(text)
  text = text:gsub("{id}", function() return tostring(5 * math.random(0, 3999) + math.random(1, 4)) end)
  return (text:gsub("{time}", function() return string.format("2025-%02d-%02dT%02d:%02d:00Z", math.random(3, 10), math.random(1, 28), math.random(0, 23), math.random(0, 59)) end))
end
function request()
  if body and body ~= "" then return wrk.format("POST", fill(target), nil, fill(body)) end
  return wrk.format("GET", fill(target))
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('{"per_s":%.1f,"p50_ms":%.3f,"p99_ms":%.3f,"max_ms":%.3f,"bad":%d}\n', summary.requests / (summary.duration / 1e6),
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
