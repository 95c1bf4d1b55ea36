// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/backoff.h"

#include <algorithm>

namespace mainstay::jobs {

absl::Duration RetryDelay(const BackoffPolicy& policy, int attempt, absl::FunctionRef<double()> random) {
  if (policy.kind == BackoffPolicy::Kind::kFixed) return std::max(policy.base, policy.floor);
  absl::Duration ceiling = policy.base;
  for (int i = 1; i < attempt && ceiling < policy.cap; ++i) ceiling *= 2;
  ceiling = std::min(ceiling, policy.cap);
  return std::max(std::min(policy.floor, ceiling), ceiling * random());
}

}  // namespace mainstay::jobs
