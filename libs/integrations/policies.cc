// SPDX-License-Identifier: Apache-2.0
#include "libs/integrations/policies.h"

#include <algorithm>
#include <cmath>

#include "absl/random/random.h"
#include "absl/strings/numbers.h"
#include "libs/base/strings.h"

namespace mainstay::integrations {
namespace {

constexpr std::pair<ErrorClass, std::string_view> kClasses[] = {
    {ErrorClass::kNone, "none"},
    {ErrorClass::kAuth, "auth"},
    {ErrorClass::kThrottled, "throttled"},
    {ErrorClass::kTransient, "transient"},
    {ErrorClass::kPermanent, "permanent"},
    {ErrorClass::kNotFound, "not_found"},
    {ErrorClass::kConflict, "conflict"},
    {ErrorClass::kValidation, "validation"},
    {ErrorClass::kOutcomeUnknown, "outcome_unknown"},
};

std::optional<absl::Time> ParseHttpDate(std::string_view text) {
  for (const char* format : {"%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"}) {
    absl::Time time;
    std::string error;
    if (absl::ParseTime(format, ToAbsl(text), absl::UTCTimeZone(), &time, &error)) return time;
  }
  return std::nullopt;
}

}  // namespace

Random SystemRandom() {
  return [] {
    thread_local absl::BitGen generator;
    return absl::Uniform(generator, 0.0, 1.0);
  };
}

std::string_view ClassName(ErrorClass error) {
  for (const auto& [value, name] : kClasses)
    if (value == error) return name;
  return "none";
}

std::optional<ErrorClass> ParseClass(std::string_view name) {
  for (const auto& [value, known] : kClasses)
    if (known == name && value != ErrorClass::kNone) return value;
  return std::nullopt;
}

absl::Duration FullJitter(absl::Duration base, absl::Duration cap, int n, double uniform) {
  // The exponent is bounded: at 2^40 any base is above any cap.
  absl::Duration most = std::min(cap, base * std::pow(2.0, std::min(n, 40)));
  return most * uniform;
}

absl::Duration HintWait(absl::Duration hint, absl::Duration hint_max, double uniform) {
  return std::min(hint, hint_max) + std::min(absl::Seconds(1), hint * 0.1) * uniform;
}

std::optional<absl::Duration> ParseRetryAfter(absl::Span<const std::string> values, std::string_view date,
                                              absl::Time now) {
  if (values.empty()) return std::nullopt;
  for (const std::string& value : values)
    if (value != values[0]) return std::nullopt;
  const std::string& value = values[0];
  if (value.empty()) return std::nullopt;
  if (std::all_of(value.begin(), value.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    int64_t seconds = 0;
    if (value.size() > 10 || !absl::SimpleAtoi(value, &seconds)) return std::nullopt;
    return absl::Seconds(seconds);
  }
  std::optional<absl::Time> at = ParseHttpDate(value);
  if (!at) return std::nullopt;
  absl::Time base = now;
  // The server's own clock measures its own date best, unless it is far off (a cached or invented Date).
  if (std::optional<absl::Time> sent = ParseHttpDate(date); sent && absl::AbsDuration(*sent - now) < absl::Hours(24))
    base = *sent;
  return std::max(absl::ZeroDuration(), *at - base);
}

AttemptVerdict Judge(std::string_view method, bool safe_key, const AttemptFacts& facts) {
  const bool read = method == "GET" || method == "HEAD" || method == "OPTIONS";
  const bool repeatable = read || method == "PUT" || method == "DELETE" || safe_key;
  if (facts.definite) return {ErrorClass::kPermanent, false};
  if (facts.sent == Sent::kNotSent) return {ErrorClass::kTransient, true};
  if (facts.sent == Sent::kPartly)
    return {repeatable ? ErrorClass::kTransient : ErrorClass::kOutcomeUnknown, repeatable};
  if (facts.mapped != ErrorClass::kNone) {
    switch (facts.mapped) {
      case ErrorClass::kThrottled:
        return {facts.mapped, true};
      case ErrorClass::kTransient:
        return {facts.mapped, repeatable};
      default:
        return {facts.mapped, false};
    }
  }
  const int status = facts.http_status;
  if (status >= 200 && status < 300) return {};
  switch (status) {
    case 429:
      return {ErrorClass::kThrottled, true};
    case 425:
      return {ErrorClass::kTransient, true};  // the server did not process it
    case 408:
    case 502:
    case 504:
      return {repeatable ? ErrorClass::kTransient : ErrorClass::kOutcomeUnknown, repeatable};
    case 503:
      if (repeatable || facts.retry_after) return {ErrorClass::kTransient, true};
      return {ErrorClass::kTransient, false};
    case 500:
      // With a key some providers replay the stored 500 for ever: only what is repeatable by its method.
      if (read || method == "PUT" || method == "DELETE") return {ErrorClass::kTransient, true};
      return {safe_key ? ErrorClass::kTransient : ErrorClass::kOutcomeUnknown, false};
    case 401:
    case 403:
      return {ErrorClass::kAuth, false};
    case 404:
    case 410:
      return {ErrorClass::kNotFound, false};
    case 409:
      return {ErrorClass::kConflict, false};
    case 400:
    case 413:
    case 422:
      return {ErrorClass::kValidation, false};
    default:
      break;
  }
  if (status > 500 && status != 501)
    return {repeatable ? ErrorClass::kTransient : ErrorClass::kOutcomeUnknown, repeatable};
  return {ErrorClass::kPermanent, false};
}

bool RetryBudget::Take(int cost) {
  absl::MutexLock lock(&mu_);
  if (tokens_ < cost) return false;
  tokens_ -= cost;
  return true;
}

void RetryBudget::Success(int last_retry_cost) {
  absl::MutexLock lock(&mu_);
  tokens_ = std::min(kCapacity, tokens_ + std::max(1, last_retry_cost));
}

int RetryBudget::left() const {
  absl::MutexLock lock(&mu_);
  return tokens_;
}

void CircuitBreaker::Open(absl::Duration now) {
  state_ = State::kOpen;
  absl::Duration length =
      std::min(options_.open_cap, options_.open_base * std::pow(2.0, std::min(opens_in_a_row_, 20)));
  ++opens_in_a_row_;
  open_until_ = now + length * (0.9 + 0.2 * random_());
}

void CircuitBreaker::Advance(absl::Duration now) {
  if (state_ == State::kOpen && now >= open_until_) {
    state_ = State::kHalfOpen;
    half_open_since_ = now;
    probes_running_ = 0;
    probe_results_ = Bucket();
  } else if (state_ == State::kHalfOpen && now - half_open_since_ >= options_.probe_timeout &&
             probe_results_.calls == 0) {
    Open(now);
  }
}

std::optional<absl::Duration> CircuitBreaker::Enter() {
  absl::MutexLock lock(&mu_);
  absl::Duration now = clock_.Monotonic();
  Advance(now);
  if (state_ == State::kClosed) return std::nullopt;
  if (state_ == State::kOpen) return open_until_ - now;
  if (probes_running_ + probe_results_.calls >= options_.probes) return absl::Seconds(1);
  ++probes_running_;
  return std::nullopt;
}

void CircuitBreaker::Record(Result result, absl::Duration took) {
  absl::MutexLock lock(&mu_);
  absl::Duration now = clock_.Monotonic();
  const bool slow = took >= options_.slow_call;
  if (state_ == State::kHalfOpen) {
    if (probes_running_ == 0) return;  // a call from before the circuit opened
    --probes_running_;
    if (result == Result::kIgnored) return;
    ++probe_results_.calls;
    if (result == Result::kFailure) ++probe_results_.failures;
    if (slow) ++probe_results_.slow;
    if (probe_results_.calls < options_.probes) return;
    if (probe_results_.failures < options_.failure_rate * probe_results_.calls &&
        probe_results_.slow < options_.slow_rate * probe_results_.calls) {
      state_ = State::kClosed;
      opens_in_a_row_ = 0;
      buckets_ = {};
    } else {
      Open(now);
    }
    return;
  }
  if (state_ != State::kClosed || result == Result::kIgnored) return;
  const int64_t slot = absl::ToInt64Microseconds(now) /
                       std::max<int64_t>(1, absl::ToInt64Microseconds(options_.window) / int64_t(buckets_.size()));
  Bucket& bucket = buckets_[size_t(slot) % buckets_.size()];
  if (bucket.slot != slot) {
    bucket = Bucket();
    bucket.slot = slot;
  }
  ++bucket.calls;
  if (result == Result::kFailure) ++bucket.failures;
  if (slow) ++bucket.slow;
  Bucket sum;
  for (const Bucket& b : buckets_) {
    if (b.slot < 0 || b.slot <= slot - int64_t(buckets_.size())) continue;
    sum.calls += b.calls;
    sum.failures += b.failures;
    sum.slow += b.slow;
  }
  if (sum.calls < options_.min_calls) return;
  if (sum.failures >= options_.failure_rate * sum.calls || sum.slow >= options_.slow_rate * sum.calls) Open(now);
}

CircuitBreaker::State CircuitBreaker::state() {
  absl::MutexLock lock(&mu_);
  Advance(clock_.Monotonic());
  return state_;
}

bool Bulkhead::Enter(absl::Duration timeout) {
  absl::MutexLock lock(&mu_);
  if (running_ >= limit_) {
    if (waiting_ >= queue_ || timeout <= absl::ZeroDuration()) return false;
    ++waiting_;
    auto free = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return running_ < limit_; };
    bool got = mu_.AwaitWithTimeout(absl::Condition(&free), timeout);
    --waiting_;
    if (!got) return false;
  }
  ++running_;
  return true;
}

void Bulkhead::Leave() {
  absl::MutexLock lock(&mu_);
  --running_;
}

int Bulkhead::in_flight() const {
  absl::MutexLock lock(&mu_);
  return running_;
}

}  // namespace mainstay::integrations
