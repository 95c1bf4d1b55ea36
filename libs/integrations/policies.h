// SPDX-License-Identifier: Apache-2.0
// The policies of a call as small parts that know neither HTTP nor each other: backoff, hints, retry budget, circuit
// breaker, bulkhead, and the table of what may be tried again. Clock and chance come in from outside. Each class is
// thread-safe; the functions are pure.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "libs/base/clock.h"

namespace mainstay::integrations {

// Uniform in [0, 1).
using Random = std::function<double()>;
Random SystemRandom();

// What went wrong, as callers are told (integrations.v1).
enum class ErrorClass {
  kNone,
  kAuth,
  kThrottled,
  kTransient,
  kPermanent,
  kNotFound,
  kConflict,
  kValidation,
  kOutcomeUnknown
};
std::string_view ClassName(ErrorClass error);
std::optional<ErrorClass> ParseClass(std::string_view name);

// ---- waiting ----

// uniform(0, min(cap, base * 2^n)), n = 0 for the first retry; the cap applies before the jitter.
absl::Duration FullJitter(absl::Duration base, absl::Duration cap, int n, double uniform);
// After a server's hint: never earlier than asked, up to a second (or a tenth of the hint) later.
absl::Duration HintWait(absl::Duration hint, absl::Duration hint_max, double uniform);
// Retry-After: seconds, or a date in any of HTTP's three forms (then relative to the response's own Date when it has a
// sane one). nullopt for what is to be ignored: negative, fractional, empty, text, more than 10 digits, two different
// values.
std::optional<absl::Duration> ParseRetryAfter(absl::Span<const std::string> values, std::string_view date,
                                              absl::Time now);

// ---- what may be tried again ----

enum class Sent {
  kNotSent,
  kPartly,
  kComplete
};  // nothing left us; something did, no full response came; a full response came

struct AttemptFacts {
  Sent sent = Sent::kComplete;
  int http_status = 0;                    // when kComplete
  bool retry_after = false;               // the response had a usable hint
  ErrorClass mapped = ErrorClass::kNone;  // by the provider's error map, before this table
  bool definite = false;  // not HTTP's matter and never cured by another try: TLS verification, guard, size limits
};
struct AttemptVerdict {
  ErrorClass error = ErrorClass::kNone;
  bool retry = false;
};
// `safe_key`: the operation is declared idempotent and carries a key.
AttemptVerdict Judge(std::string_view method, bool safe_key, const AttemptFacts& facts);

// ---- retry budget ----

// Keeps retries a small share of the calls when a provider is in trouble: each costs, only successes earn.
class RetryBudget {
 public:
  static constexpr int kCapacity = 500, kThrottleCost = 5, kTransientCost = 14;
  bool Take(int cost);
  void Success(int last_retry_cost);  // 0: the first attempt succeeded
  int left() const;

 private:
  mutable absl::Mutex mu_;
  int tokens_ ABSL_GUARDED_BY(mu_) = kCapacity;
};

// ---- circuit breaker ----

struct BreakerOptions {
  absl::Duration window = absl::Seconds(60);  // in ten buckets
  int min_calls = 20;
  double failure_rate = 0.5, slow_rate = 0.8;
  absl::Duration slow_call = absl::Seconds(10);  // counted even when it succeeds
  absl::Duration open_base = absl::Seconds(30), open_cap = absl::Minutes(5);
  int probes = 5;
  absl::Duration probe_timeout = absl::Seconds(60);
};

class CircuitBreaker {
 public:
  enum class State { kClosed, kOpen, kHalfOpen };
  enum class Result { kSuccess, kFailure, kIgnored };  // kIgnored: our own refusals, cancelled calls, a lost probe
  CircuitBreaker(BreakerOptions options, Clock& clock, Random random)
      : options_(options), clock_(clock), random_(std::move(random)) {}

  // nullopt: go on, and call Record exactly once. Else how long to stay away.
  std::optional<absl::Duration> Enter();
  void Record(Result result, absl::Duration took);
  State state();

 private:
  struct Bucket {
    int64_t slot = -1;
    int calls = 0, failures = 0, slow = 0;
  };
  void Open(absl::Duration now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Advance(absl::Duration now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const BreakerOptions options_;
  Clock& clock_;
  const Random random_;
  absl::Mutex mu_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kClosed;
  std::array<Bucket, 10> buckets_ ABSL_GUARDED_BY(mu_);
  int opens_in_a_row_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Duration open_until_ ABSL_GUARDED_BY(mu_);
  int probes_running_ ABSL_GUARDED_BY(mu_) = 0;
  Bucket probe_results_ ABSL_GUARDED_BY(mu_);
  absl::Duration half_open_since_ ABSL_GUARDED_BY(mu_);
};

// ---- bulkhead ----

// At most `limit` calls at once and `queue` waiting, so that one slow provider does not take everybody's place.
class Bulkhead {
 public:
  explicit Bulkhead(int limit, int queue) : limit_(limit), queue_(queue) {}
  // False when the queue is full or the time is up; otherwise Leave later.
  bool Enter(absl::Duration timeout);
  void Leave();
  int in_flight() const;

 private:
  const int limit_, queue_;
  mutable absl::Mutex mu_;
  int running_ ABSL_GUARDED_BY(mu_) = 0;
  int waiting_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace mainstay::integrations
