// SPDX-License-Identifier: Apache-2.0
#include "libs/base/clock.h"

#include <cctype>
#include <chrono>
#include <limits>

#include "absl/time/clock.h"
#include "libs/base/strings.h"

namespace mainstay {
namespace {

class RealClock : public Clock {
 public:
  absl::Time Now() override { return absl::Now(); }
  absl::Duration Monotonic() override { return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch()); }
  void Sleep(absl::Duration duration) override { absl::SleepFor(duration); }
};

// Exactly `count` digits of `text` at `at`; -1 when there are others.
int Digits(std::string_view text, size_t at, size_t count) {
  if (at + count > text.size()) return -1;
  int value = 0;
  for (size_t i = at; i < at + count; ++i) {
    if (text[i] < '0' || text[i] > '9') return -1;
    value = value * 10 + (text[i] - '0');
  }
  return value;
}

}  // namespace

Clock& Clock::Real() {
  static RealClock clock;
  return clock;
}

absl::Time SimulatedClock::Now() {
  absl::MutexLock lock(&mu_);
  return now_ + jumped_;
}

absl::Duration SimulatedClock::Monotonic() {
  absl::MutexLock lock(&mu_);
  return now_ - start_;
}

void SimulatedClock::Sleep(absl::Duration duration) {
  absl::MutexLock lock(&mu_);
  const absl::Time until = now_ + duration;
  auto reached = [this, until]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return now_ >= until; };
  mu_.Await(absl::Condition(&reached));
}

void SimulatedClock::Advance(absl::Duration duration) {
  absl::MutexLock lock(&mu_);
  now_ += duration;
}

void SimulatedClock::SetWall(absl::Time now) {
  absl::MutexLock lock(&mu_);
  jumped_ = now - now_;
}

std::string FormatTimestamp(absl::Time time) {
  return absl::FormatTime("%E4Y-%m-%dT%H:%M:%E6SZ", time, absl::UTCTimeZone());
}

absl::StatusOr<absl::Time> ParseTimestamp(std::string_view text) {
  const absl::Status refused = absl::InvalidArgumentError(
      "not a time with zone; expected e.g. 2026-11-24T08:15:30Z or 2026-11-24T08:15:30.5+01:00");
  const int year = Digits(text, 0, 4), month = Digits(text, 5, 2), day = Digits(text, 8, 2);
  const int hour = Digits(text, 11, 2), minute = Digits(text, 14, 2), second = Digits(text, 17, 2);
  if (text.size() < 20 || year < 0 || month < 0 || day < 0 || hour < 0 || minute < 0 || second < 0) return refused;
  if (text[4] != '-' || text[7] != '-' || (text[10] != 'T' && text[10] != 't') || text[13] != ':' || text[16] != ':')
    return refused;
  if (hour > 23 || minute > 59 || second > 59) return refused;
  const absl::CivilSecond civil(year, month, day, hour, minute, second);
  if (civil.month() != month || civil.day() != day) return refused;  // 30 February rolls over
  size_t at = 19;
  absl::Duration fraction;
  if (text[at] == '.') {
    int64_t nanos = 0;
    size_t digits = 0;
    for (++at; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at, ++digits) {
      if (digits < 9) nanos = nanos * 10 + (text[at] - '0');
    }
    if (digits == 0 || digits > 9) return refused;
    for (; digits < 9; ++digits) nanos *= 10;
    fraction = absl::Nanoseconds(nanos);
  }
  absl::Duration offset;
  if (at + 1 == text.size() && (text[at] == 'Z' || text[at] == 'z')) {
    // UTC
  } else if (at + 6 == text.size() && (text[at] == '+' || text[at] == '-') && text[at + 3] == ':') {
    const int hours = Digits(text, at + 1, 2), minutes = Digits(text, at + 4, 2);
    if (hours < 0 || hours > 23 || minutes < 0 || minutes > 59) return refused;
    offset = absl::Hours(hours) + absl::Minutes(minutes);
    if (text[at] == '-') offset = -offset;
  } else {
    return refused;
  }
  return absl::FromCivil(civil, absl::UTCTimeZone()) + fraction - offset;
}

absl::StatusOr<absl::Duration> ParseDuration(std::string_view text) {
  const absl::Status refused =
      absl::InvalidArgumentError(StrCat("\"", text, "\" is not a duration; expected e.g. 250ms, 30s, 5m, 1h30m or 2d"));
  absl::Duration total;
  std::string_view rest = text;
  if (rest.empty()) return refused;
  while (!rest.empty()) {
    int64_t number = 0;
    size_t digits = 0;
    while (digits < rest.size() && rest[digits] >= '0' && rest[digits] <= '9') {
      if (number > std::numeric_limits<int32_t>::max()) return refused;
      number = number * 10 + (rest[digits++] - '0');
    }
    if (digits == 0) return refused;
    rest.remove_prefix(digits);
    size_t letters = 0;
    while (letters < rest.size() && std::isalpha(static_cast<unsigned char>(rest[letters]))) ++letters;
    const std::string_view unit = rest.substr(0, letters);
    rest.remove_prefix(letters);
    if (unit == "us") {
      total += absl::Microseconds(number);
    } else if (unit == "ms") {
      total += absl::Milliseconds(number);
    } else if (unit == "s") {
      total += absl::Seconds(number);
    } else if (unit == "m") {
      total += absl::Minutes(number);
    } else if (unit == "h") {
      total += absl::Hours(number);
    } else if (unit == "d") {
      total += absl::Hours(24 * number);
    } else {
      return refused;
    }
  }
  return total;
}

}  // namespace mainstay
