// SPDX-License-Identifier: Apache-2.0
// Token buckets for rate limits of queues and tenants, in Redis, so that a change of leader does not fill them anew.
//
// Redis away: a local bucket takes over, empty at first, so that the two together never let more through than the limit
// allows. A bucket holds what one second brings, at least one. Not thread-safe: it belongs to the dispatcher.
#pragma once

#include <map>
#include <string>

#include "absl/time/time.h"
#include "libs/redis/client.h"

namespace mainstay::jobs {

class RateLimits {
 public:
  explicit RateLimits(redis::Client& redis) : redis_(redis) {}
  // How many of `want` may go now; they are taken from the bucket. `rate` per second, more than 0.
  int Take(const std::string& bucket, double rate, int want, absl::Time now, bool redis_away);
  // Gives back what was taken and not used.
  void Return(const std::string& bucket, double rate, int unused, absl::Time now, bool redis_away);

 private:
  struct Local {
    double tokens = 0;
    absl::Time at;
  };
  redis::Client& redis_;
  std::map<std::string, Local> local_;
};

}  // namespace mainstay::jobs
