// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/rate_limits.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace mainstay::jobs {
namespace {

// KEYS bucket; ARGV rate per second, tokens it can hold, tokens wanted (negative: given back). By Redis' own clock.
constexpr char kTake[] = R"lua(
local now = redis.call('TIME')
now = tonumber(now[1]) + tonumber(now[2]) / 1000000
local rate, most, want = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local held = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = held[1] and math.min(most, tonumber(held[1]) + math.max(0, now - tonumber(held[2])) * rate) or most
local given = math.min(want, math.floor(tokens))
tokens = math.min(most, tokens - given)
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(most / rate * 1000) + 1000)
return given)lua";

double Most(double rate) {
  return std::max(1.0, rate);
}

}  // namespace

int RateLimits::Take(const std::string& bucket, double rate, int want, absl::Time now, bool redis_away) {
  if (want <= 0) return 0;
  if (!redis_away) {
    const auto reply =
        redis_.Script(kTake, {bucket}, {absl::StrCat(rate), absl::StrCat(Most(rate)), absl::StrCat(want)});
    if (reply.ok() && reply->type == redis::Reply::Type::kInteger) {
      local_.erase(bucket);
      return std::clamp(static_cast<int>(reply->integer), 0, want);
    }
    return 0;  // unknown whether they were taken; next round
  }
  auto [it, fresh] = local_.try_emplace(bucket, Local{.at = now});
  Local& l = it->second;
  l.tokens = std::min(Most(rate), l.tokens + absl::ToDoubleSeconds(now - l.at) * rate);
  l.at = now;
  const int given = std::min(want, static_cast<int>(l.tokens));
  l.tokens -= given;
  return given;
}

void RateLimits::Return(const std::string& bucket, double rate, int unused, absl::Time, bool redis_away) {
  if (unused <= 0) return;
  if (!redis_away) {
    redis_.Script(kTake, {bucket}, {absl::StrCat(rate), absl::StrCat(Most(rate)), absl::StrCat(-unused)})
        .status()
        .IgnoreError();
  } else if (const auto it = local_.find(bucket); it != local_.end()) {
    it->second.tokens = std::min(Most(rate), it->second.tokens + unused);
  }
}

}  // namespace mainstay::jobs
