// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>

#include "libs/integrations/policies.h"

namespace mainstay::integrations {
namespace {

using State = CircuitBreaker::State;
using Result = CircuitBreaker::Result;

struct World {
  SimulatedClock clock{absl::UnixEpoch()};
  CircuitBreaker breaker{{}, clock, [] { return 0.5; }};  // no jitter
  void Calls(int n, Result result, absl::Duration took = absl::ZeroDuration()) {
    for (int i = 0; i < n; ++i) {
      REQUIRE_FALSE(breaker.Enter().has_value());
      breaker.Record(result, took);
    }
  }
};

TEST_CASE("half of twenty calls failing opens the circuit, fewer calls do not") {
  World w;
  w.Calls(19, Result::kFailure);
  CHECK(w.breaker.state() == State::kClosed);
  w.Calls(1, Result::kFailure);
  CHECK(w.breaker.state() == State::kOpen);
  REQUIRE(w.breaker.Enter().has_value());
  CHECK(*w.breaker.Enter() == absl::Seconds(30));
}

TEST_CASE("old failures leave the window") {
  World w;
  w.Calls(15, Result::kFailure);
  w.clock.Advance(absl::Seconds(66));
  w.Calls(15, Result::kFailure);
  CHECK(w.breaker.state() == State::kClosed);
}

TEST_CASE("slow successes open it too, and ignored calls never count") {
  World w;
  w.Calls(30, Result::kIgnored, absl::Seconds(30));
  CHECK(w.breaker.state() == State::kClosed);
  w.Calls(20, Result::kSuccess, absl::Seconds(11));
  CHECK(w.breaker.state() == State::kOpen);
}

TEST_CASE("five good probes close it, a bad share opens it for twice as long") {
  World w;
  w.Calls(20, Result::kFailure);
  w.clock.Advance(absl::Seconds(30));
  CHECK(w.breaker.state() == State::kHalfOpen);
  w.Calls(5, Result::kFailure);
  CHECK(w.breaker.state() == State::kOpen);
  CHECK(*w.breaker.Enter() == absl::Seconds(60));
  w.clock.Advance(absl::Seconds(60));
  w.Calls(5, Result::kSuccess);
  CHECK(w.breaker.state() == State::kClosed);
  // The count of openings in a row starts again.
  w.Calls(20, Result::kFailure);
  CHECK(*w.breaker.Enter() == absl::Seconds(30));
}

TEST_CASE("half-open admits five at once and a lost probe gives its place back") {
  World w;
  w.Calls(20, Result::kFailure);
  w.clock.Advance(absl::Seconds(30));
  for (int i = 0; i < 5; ++i) CHECK_FALSE(w.breaker.Enter().has_value());
  CHECK(w.breaker.Enter().has_value());
  w.breaker.Record(Result::kIgnored, absl::ZeroDuration());
  CHECK_FALSE(w.breaker.Enter().has_value());
}

TEST_CASE("half-open without any result for a minute opens again") {
  World w;
  w.Calls(20, Result::kFailure);
  w.clock.Advance(absl::Seconds(30));
  CHECK_FALSE(w.breaker.Enter().has_value());
  w.clock.Advance(absl::Seconds(60));
  CHECK(w.breaker.state() == State::kOpen);
}

}  // namespace
}  // namespace mainstay::integrations
