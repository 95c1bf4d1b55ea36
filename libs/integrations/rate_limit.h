// SPDX-License-Identifier: Apache-2.0
// Rate limits shared by all copies of the service: GCRA, one number per limit in Redis, all limits of a call in one
// script.
//
// Redis' own clock counts, for the copies' clocks differ. Redis away: each copy falls back to a bucket of its own with
// the whole limit divided by the copies it was told of, so a call is never unlimited and never refused for Redis' sake;
// mainstay_egress_limiter_fallback_total says so. Keys live as long as the limit needs them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "libs/base/clock.h"

namespace mainstay::redis {
class Client;
}

namespace mainstay::integrations {

struct Limit {
  std::string key;  // "payments", "payments/acme": joined to the Redis key mainstay:rate:{key}
  int64_t limit = 0;
  absl::Duration period;
  int64_t burst = 0;  // 0: as limit
};

class RateLimiter {
 public:
  virtual ~RateLimiter() = default;
  // Zero: a permit of every limit was taken. Otherwise none was, and it is worth asking again after this long.
  virtual absl::Duration Take(absl::Span<const Limit> limits) = 0;
  // After a 429: nobody gets a permit of `limit` for this long. Only ever lengthened.
  virtual void Pause(const Limit& limit, absl::Duration duration) = 0;
};

// In this process alone; the fallback. Bounded: keys that owe nothing are dropped.
class LocalRateLimiter : public RateLimiter {
 public:
  LocalRateLimiter(Clock& clock, int copies) : clock_(clock), copies_(copies < 1 ? 1 : copies) {}
  absl::Duration Take(absl::Span<const Limit> limits) override;
  void Pause(const Limit& limit, absl::Duration duration) override;

 private:
  static constexpr size_t kMaxKeys = 10000;
  struct State {
    absl::Duration tat, paused_until;
  };
  Clock& clock_;
  const int copies_;
  absl::Mutex mu_;
  absl::flat_hash_map<std::string, State> states_ ABSL_GUARDED_BY(mu_);
};

class RedisRateLimiter : public RateLimiter {
 public:
  // `copies`: of this service, for the fallback's share.
  RedisRateLimiter(redis::Client& client, Clock& clock, int copies);
  absl::Duration Take(absl::Span<const Limit> limits) override;
  void Pause(const Limit& limit, absl::Duration duration) override;

 private:
  redis::Client& client_;
  LocalRateLimiter local_;
};

}  // namespace mainstay::integrations
