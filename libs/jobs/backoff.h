// SPDX-License-Identifier: Apache-2.0
// How long a failed job waits: exponential with full jitter and a cap, or always the same. A pure function of policy,
// attempt and the random source; whether to retry is asked elsewhere.
#pragma once

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"

namespace mainstay::jobs {

struct BackoffPolicy {
  enum class Kind { kExponential, kFixed };
  Kind kind = Kind::kExponential;
  // Exponential: the first delay's upper end, doubled with each attempt. Fixed: the delay.
  absl::Duration base = absl::Seconds(1);
  absl::Duration cap = absl::Hours(1);
  // Not less than this, so that jitter near zero doesn't turn a failing dependency's queue into a busy loop.
  absl::Duration floor = absl::Milliseconds(50);
};

// `attempt` counts the runs that failed so far, from 1; `random` gives a number in [0, 1).
absl::Duration RetryDelay(const BackoffPolicy& policy, int attempt, absl::FunctionRef<double()> random);

}  // namespace mainstay::jobs
