// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/backoff.h"

#include <catch2/catch.hpp>

namespace mainstay::jobs {
namespace {

TEST_CASE("the delay doubles with each attempt up to the cap, times the random number") {
  const BackoffPolicy policy{.base = absl::Seconds(2), .cap = absl::Seconds(30)};
  auto half = [] { return 0.5; };
  CHECK(RetryDelay(policy, 1, half) == absl::Seconds(1));
  CHECK(RetryDelay(policy, 2, half) == absl::Seconds(2));
  CHECK(RetryDelay(policy, 4, half) == absl::Seconds(8));
  CHECK(RetryDelay(policy, 5, half) == absl::Seconds(15));
  CHECK(RetryDelay(policy, 1000000, half) == absl::Seconds(15));
}

TEST_CASE("jitter near zero still waits the floor, which never exceeds the policy's own ceiling") {
  auto zero = [] { return 0.0; };
  CHECK(RetryDelay({.base = absl::Seconds(1)}, 3, zero) == absl::Milliseconds(50));
  CHECK(RetryDelay({.base = absl::Milliseconds(10), .cap = absl::Milliseconds(20)}, 9, zero) == absl::Milliseconds(20));
}

TEST_CASE("a fixed policy waits the same after every failure, whatever chance says") {
  const BackoffPolicy policy{.kind = BackoffPolicy::Kind::kFixed, .base = absl::Seconds(7), .cap = absl::Seconds(1)};
  for (const int attempt : {1, 2, 50}) CHECK(RetryDelay(policy, attempt, [] { return 0.9; }) == absl::Seconds(7));
}

}  // namespace
}  // namespace mainstay::jobs
