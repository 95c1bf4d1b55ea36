// SPDX-License-Identifier: Apache-2.0
#include "libs/integrations/policies.h"

#include <catch2/catch.hpp>
#include <thread>

#include "libs/integrations/rate_limit.h"

namespace mainstay::integrations {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1767225600);  // Thu, 01 Jan 2026 00:00:00 GMT

TEST_CASE("full jitter draws from zero to the capped step") {
  CHECK(FullJitter(absl::Milliseconds(50), absl::Seconds(20), 0, 0.5) == absl::Milliseconds(25));
  CHECK(FullJitter(absl::Milliseconds(50), absl::Seconds(20), 3, 0.5) == absl::Milliseconds(200));
  CHECK(FullJitter(absl::Milliseconds(50), absl::Seconds(20), 60, 0.25) == absl::Seconds(5));
  CHECK(FullJitter(absl::Seconds(1), absl::Seconds(20), 4, 0) == absl::ZeroDuration());
}

TEST_CASE("a hint is never undercut and at most a second exceeded") {
  CHECK(HintWait(absl::Seconds(2), absl::Seconds(30), 0) == absl::Seconds(2));
  CHECK(HintWait(absl::Seconds(2), absl::Seconds(30), 0.5) == absl::Milliseconds(2100));
  CHECK(HintWait(absl::Seconds(60), absl::Seconds(300), 1) == absl::Seconds(61));
}

TEST_CASE("Retry-After is read in all its forms and ignored in all others") {
  auto parse = [](std::vector<std::string> values, std::string date = "") {
    return ParseRetryAfter(values, date, kStart);
  };
  CHECK(parse({"120"}) == absl::Seconds(120));
  CHECK(parse({"0"}) == absl::ZeroDuration());
  CHECK(parse({"Thu, 01 Jan 2026 00:01:00 GMT"}) == absl::Minutes(1));
  CHECK(parse({"Thursday, 01-Jan-26 00:01:00 GMT"}) == absl::Minutes(1));
  CHECK(parse({"Thu Jan  1 00:01:00 2026"}) == absl::Minutes(1));
  CHECK(parse({"Wed, 31 Dec 2025 00:00:00 GMT"}) == absl::ZeroDuration());
  // Against the server's own clock, which is ten minutes ahead here.
  CHECK(parse({"Thu, 01 Jan 2026 00:11:00 GMT"}, "Thu, 01 Jan 2026 00:10:00 GMT") == absl::Minutes(1));
  CHECK(parse({"5", "5"}) == absl::Seconds(5));
  for (const char* bad : {"", "-1", "1.5", "soon", "12345678901", "5, 6"}) CHECK_FALSE(parse({bad}).has_value());
  CHECK_FALSE(parse({"5", "6"}).has_value());
  CHECK_FALSE(parse({}).has_value());
}

AttemptVerdict JudgeStatus(const char* method, bool key, int status, bool hint = false) {
  AttemptFacts facts;
  facts.http_status = status;
  facts.retry_after = hint;
  return Judge(method, key, facts);
}

TEST_CASE("what may be tried again follows the table") {
  AttemptFacts not_sent, partly;
  not_sent.sent = Sent::kNotSent;
  partly.sent = Sent::kPartly;
  for (const char* method : {"GET", "PUT", "DELETE", "POST", "PATCH"}) CHECK(Judge(method, false, not_sent).retry);
  CHECK(Judge("GET", false, partly).retry);
  CHECK(Judge("DELETE", false, partly).retry);
  CHECK(Judge("POST", true, partly).retry);
  CHECK_FALSE(Judge("POST", false, partly).retry);
  CHECK(Judge("POST", false, partly).error == ErrorClass::kOutcomeUnknown);
  CHECK(JudgeStatus("POST", false, 429).retry);
  CHECK(JudgeStatus("POST", false, 425).retry);
  CHECK_FALSE(JudgeStatus("POST", false, 408).retry);
  CHECK(JudgeStatus("POST", true, 408).retry);
  CHECK_FALSE(JudgeStatus("POST", false, 503).retry);
  CHECK(JudgeStatus("POST", false, 503, true).retry);
  CHECK(JudgeStatus("GET", false, 503).retry);
  CHECK(JudgeStatus("GET", false, 500).retry);
  CHECK_FALSE(JudgeStatus("POST", true, 500).retry);
  CHECK(JudgeStatus("POST", true, 502).retry);
  CHECK_FALSE(JudgeStatus("POST", false, 504).retry);
  CHECK(JudgeStatus("POST", false, 504).error == ErrorClass::kOutcomeUnknown);
  for (int status : {400, 401, 403, 404, 405, 409, 410, 413, 422, 501})
    CHECK_FALSE(JudgeStatus("GET", true, status).retry);
  CHECK(JudgeStatus("GET", false, 404).error == ErrorClass::kNotFound);
  CHECK(JudgeStatus("GET", false, 401).error == ErrorClass::kAuth);
  CHECK(JudgeStatus("GET", false, 422).error == ErrorClass::kValidation);
  CHECK(JudgeStatus("GET", false, 302).error == ErrorClass::kPermanent);
  CHECK(JudgeStatus("GET", false, 204).error == ErrorClass::kNone);
  AttemptFacts definite = not_sent;
  definite.definite = true;
  CHECK_FALSE(Judge("GET", false, definite).retry);
  AttemptFacts mapped;
  mapped.http_status = 200;
  mapped.mapped = ErrorClass::kThrottled;
  CHECK(Judge("POST", false, mapped).retry);
}

TEST_CASE("a retry budget lets few retries through when nothing succeeds") {
  RetryBudget budget;
  int retries = 0;
  while (budget.Take(RetryBudget::kTransientCost)) ++retries;
  CHECK(retries == 500 / 14);
  // Long-run: fourteen first-try successes earn one retry.
  for (int i = 0; i < 14; ++i) budget.Success(0);
  CHECK(budget.Take(RetryBudget::kTransientCost));
  budget.Success(RetryBudget::kTransientCost);
  CHECK(budget.left() >= RetryBudget::kTransientCost);
  for (int i = 0; i < 1000; ++i) budget.Success(0);
  CHECK(budget.left() == RetryBudget::kCapacity);
}

TEST_CASE("a bulkhead bounds calls and waiters") {
  Bulkhead bulkhead(1, 1);
  REQUIRE(bulkhead.Enter(absl::ZeroDuration()));
  CHECK_FALSE(bulkhead.Enter(absl::Milliseconds(10)));
  bool entered = false;
  std::thread waiter([&] { entered = bulkhead.Enter(absl::Seconds(10)); });
  absl::SleepFor(absl::Milliseconds(50));
  CHECK_FALSE(bulkhead.Enter(absl::Seconds(1)));  // the queue is full
  bulkhead.Leave();
  waiter.join();
  CHECK(entered);
  CHECK(bulkhead.in_flight() == 1);
}

TEST_CASE("the local limiter passes a burst, then one per interval, and holds a pause") {
  SimulatedClock clock(kStart);
  LocalRateLimiter limiter(clock, 1);
  const std::vector<Limit> limits = {{"p", 10, absl::Seconds(1), 3}};
  for (int i = 0; i < 3; ++i) CHECK(limiter.Take(limits) == absl::ZeroDuration());
  CHECK(limiter.Take(limits) == absl::Milliseconds(100));
  clock.Advance(absl::Milliseconds(100));
  CHECK(limiter.Take(limits) == absl::ZeroDuration());
  CHECK(limiter.Take(limits) > absl::ZeroDuration());
  limiter.Pause(limits[0], absl::Seconds(5));
  limiter.Pause(limits[0], absl::Seconds(1));  // never shortened
  clock.Advance(absl::Seconds(4));
  CHECK(limiter.Take(limits) == absl::Seconds(1));
  clock.Advance(absl::Seconds(1));
  CHECK(limiter.Take(limits) == absl::ZeroDuration());
}

TEST_CASE("of several limits all permit or none is charged") {
  SimulatedClock clock(kStart);
  LocalRateLimiter limiter(clock, 1);
  const Limit wide{"wide", 100, absl::Seconds(1), 100}, narrow{"narrow", 1, absl::Seconds(1), 1};
  CHECK(limiter.Take(std::vector<Limit>{wide, narrow}) == absl::ZeroDuration());
  for (int i = 0; i < 500; ++i) CHECK(limiter.Take(std::vector<Limit>{wide, narrow}) > absl::ZeroDuration());
  CHECK(limiter.Take(std::vector<Limit>{wide}) == absl::ZeroDuration());
}

}  // namespace
}  // namespace mainstay::integrations
