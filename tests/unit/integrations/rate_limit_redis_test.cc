// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>

#include "absl/time/clock.h"
#include "libs/integrations/rate_limit.h"
#include "libs/redis/client.h"
#include "tests/support/redis.h"

namespace mainstay::integrations {
namespace {

TEST_CASE("two copies share one limit through Redis") {
  redis::Client a({.url = testing::Redis::Shared().url()}), b({.url = testing::Redis::Shared().url()});
  RedisRateLimiter first(a, Clock::Real(), 2), second(b, Clock::Real(), 2);
  const std::vector<Limit> limits = {{testing::UniquePrefix() + "shared", 10, absl::Seconds(10), 4}};
  int permits = 0;
  absl::Duration wait;
  for (int i = 0; i < 10; ++i) {
    wait = (i % 2 == 0 ? first : second).Take(limits);
    permits += wait == absl::ZeroDuration();
  }
  CHECK(permits == 4);
  CHECK(wait > absl::Milliseconds(500));
  CHECK(wait <= absl::Seconds(1));
}

TEST_CASE("a pause by one copy holds for the other and is never shortened") {
  redis::Client a({.url = testing::Redis::Shared().url()}), b({.url = testing::Redis::Shared().url()});
  RedisRateLimiter first(a, Clock::Real(), 1), second(b, Clock::Real(), 1);
  const std::vector<Limit> limits = {{testing::UniquePrefix() + "paused", 1000, absl::Seconds(1), 1000}};
  CHECK(second.Take(limits) == absl::ZeroDuration());
  first.Pause(limits[0], absl::Seconds(20));
  first.Pause(limits[0], absl::Seconds(1));
  CHECK(second.Take(limits) > absl::Seconds(15));
}

TEST_CASE("all limits of a call permit or none is charged, and keys expire by themselves") {
  redis::Client client({.url = testing::Redis::Shared().url()});
  RedisRateLimiter limiter(client, Clock::Real(), 1);
  const std::string prefix = testing::UniquePrefix();
  const Limit wide{prefix + "wide", 100, absl::Seconds(10), 100}, narrow{prefix + "narrow", 1, absl::Seconds(10), 1};
  CHECK(limiter.Take(std::vector<Limit>{wide, narrow}) == absl::ZeroDuration());
  for (int i = 0; i < 200; ++i) CHECK(limiter.Take(std::vector<Limit>{wide, narrow}) > absl::ZeroDuration());
  for (int i = 0; i < 99; ++i) CHECK(limiter.Take(std::vector<Limit>{wide}) == absl::ZeroDuration());
  auto ttl = client.Execute({"PTTL", "mainstay:rate:{" + prefix + "narrow}"});
  REQUIRE(ttl.ok());
  CHECK(ttl->integer > 0);
  CHECK(ttl->integer <= 10001);
}

TEST_CASE("without Redis each copy goes on with its share") {
  auto server = testing::Redis::StartOwn();
  redis::Client client(
      {.url = server->url(), .connect_timeout = absl::Milliseconds(200), .command_timeout = absl::Milliseconds(200)});
  RedisRateLimiter limiter(client, Clock::Real(), 2);
  const std::vector<Limit> limits = {{testing::UniquePrefix() + "down", 10, absl::Seconds(100), 10}};
  CHECK(limiter.Take(limits) == absl::ZeroDuration());
  server->Kill();
  int permits = 0;
  absl::Time before = absl::Now();
  for (int i = 0; i < 20; ++i) permits += limiter.Take(limits) == absl::ZeroDuration();
  CHECK(permits == 5);
  CHECK(absl::Now() - before < absl::Seconds(5));
}

}  // namespace
}  // namespace mainstay::integrations
