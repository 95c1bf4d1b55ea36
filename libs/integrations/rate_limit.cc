// SPDX-License-Identifier: Apache-2.0
#include "libs/integrations/rate_limit.h"

#include <prometheus/counter.h>

#include <algorithm>

#include "absl/strings/numbers.h"
#include "libs/base/strings.h"
#include "libs/redis/client.h"
#include "libs/telemetry/metrics.h"

namespace mainstay::integrations {
namespace {

// KEYS: a state key and a pause key per limit; ARGV: {interval, tolerance} in microseconds per limit. All or none.
// Numbers are printed with %.0f, for Lua writes large ones as 1.7e+15. The state expires when the limit owes nothing.
constexpr char kTake[] = R"lua(
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local count, wait, fresh = #KEYS / 2, 0, {}
for i = 1, count do
  local interval, tolerance = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local tat = math.max(tonumber(redis.call('GET', KEYS[2 * i - 1]) or now), now) + interval
  if tat - now > tolerance then wait = math.max(wait, tat - now - tolerance) end
  local paused = redis.call('PTTL', KEYS[2 * i])
  if paused > 0 then wait = math.max(wait, paused * 1000) end
  fresh[i] = tat
end
if wait > 0 then return string.format('%.0f', wait) end
for i = 1, count do
  redis.call('SET', KEYS[2 * i - 1], string.format('%.0f', fresh[i]), 'PX', math.ceil((fresh[i] - now) / 1000) + 1)
end
return '0'
)lua";

constexpr char kPause[] = R"lua(
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], '1', 'PX', ARGV[1]) end
return 'OK'
)lua";

absl::Duration Interval(const Limit& limit) {
  return limit.period / std::max<int64_t>(1, limit.limit);
}
int64_t Burst(const Limit& limit) {
  return limit.burst > 0 ? limit.burst : std::max<int64_t>(1, limit.limit);
}
std::string StateKey(const Limit& limit) {
  return StrCat("mainstay:rate:{", limit.key, "}");
}
std::string PauseKey(const Limit& limit) {
  return StrCat("mainstay:rate:{", limit.key, "}:pause");
}

}  // namespace

absl::Duration LocalRateLimiter::Take(absl::Span<const Limit> limits) {
  absl::MutexLock lock(&mu_);
  const absl::Duration now = clock_.Monotonic();
  if (states_.size() + limits.size() > kMaxKeys)
    absl::erase_if(states_,
                   [now](const auto& entry) { return entry.second.tat <= now && entry.second.paused_until <= now; });
  if (states_.size() + limits.size() > kMaxKeys) return absl::Seconds(1);
  absl::Duration wait = absl::ZeroDuration();
  std::vector<absl::Duration> fresh;
  for (const Limit& limit : limits) {
    State& state = states_[limit.key];
    absl::Duration interval = Interval(limit) * copies_;
    // At least one call may pass at once, else a small limit over many copies would never let any through.
    absl::Duration tolerance = interval * std::max<int64_t>(1, Burst(limit) / copies_);
    absl::Duration tat = std::max(state.tat, now) + interval;
    if (tat - now > tolerance) wait = std::max(wait, tat - now - tolerance);
    if (state.paused_until > now) wait = std::max(wait, state.paused_until - now);
    fresh.push_back(tat);
  }
  if (wait > absl::ZeroDuration()) return wait;
  for (size_t i = 0; i < limits.size(); ++i) states_[limits[i].key].tat = fresh[i];
  return absl::ZeroDuration();
}

void LocalRateLimiter::Pause(const Limit& limit, absl::Duration duration) {
  absl::MutexLock lock(&mu_);
  if (states_.size() >= kMaxKeys && !states_.contains(limit.key)) return;
  State& state = states_[limit.key];
  state.paused_until = std::max(state.paused_until, clock_.Monotonic() + duration);
}

RedisRateLimiter::RedisRateLimiter(redis::Client& client, Clock& clock, int copies)
    : client_(client), local_(clock, copies) {}

absl::Duration RedisRateLimiter::Take(absl::Span<const Limit> limits) {
  static prometheus::Counter& fallback = metrics::Counter(
      "mainstay_egress_limiter_fallback_total", "Permits decided by this process alone because Redis was away");
  std::vector<std::string> keys, arguments;
  for (const Limit& limit : limits) {
    keys.push_back(StateKey(limit));
    keys.push_back(PauseKey(limit));
    arguments.push_back(StrCat(absl::ToInt64Microseconds(Interval(limit))));
    arguments.push_back(StrCat(absl::ToInt64Microseconds(Interval(limit) * Burst(limit))));
  }
  absl::StatusOr<redis::Reply> reply = client_.Script(kTake, keys, arguments);
  int64_t micros = 0;
  if (!reply.ok() || !reply->ok() || !absl::SimpleAtoi(reply->text, &micros)) {
    fallback.Increment();
    return local_.Take(limits);
  }
  return absl::Microseconds(micros);
}

void RedisRateLimiter::Pause(const Limit& limit, absl::Duration duration) {
  local_.Pause(limit, duration);
  int64_t millis = std::max<int64_t>(1, absl::ToInt64Milliseconds(duration));
  // Redis away: the pause holds in this process at least.
  (void)client_.Script(kPause, {PauseKey(limit)}, {StrCat(millis)});
}

}  // namespace mainstay::integrations
