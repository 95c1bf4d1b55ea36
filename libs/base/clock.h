// SPDX-License-Identifier: Apache-2.0
// Time as a seam: wall time for people and rows, monotonic time for intervals. Components take a Clock&, tests a
// SimulatedClock.
#pragma once

#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace mainstay {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() = 0;            // wall
  virtual absl::Duration Monotonic() = 0;  // since an arbitrary start; never goes back
  virtual void Sleep(absl::Duration duration) = 0;

  static Clock& Real();
};

// Stands still until Advance. Sleep returns once time has been advanced past it.
class SimulatedClock : public Clock {
 public:
  explicit SimulatedClock(absl::Time start) : now_(start), start_(start) {}
  absl::Time Now() override;
  absl::Duration Monotonic() override;
  void Sleep(absl::Duration duration) override;
  void Advance(absl::Duration duration);
  void SetWall(absl::Time now);  // a jump of the wall clock that monotonic time does not see

 private:
  absl::Mutex mu_;
  absl::Time now_ ABSL_GUARDED_BY(mu_);
  const absl::Time start_;
  absl::Duration jumped_ ABSL_GUARDED_BY(mu_);
};

// "2026-11-24T08:15:30.123456Z": the one form of a time in JSON, logs and cursors (RFC 3339, UTC, 6 decimals).
std::string FormatTimestamp(absl::Time time);
// Accepts RFC 3339 with any offset and 0 to 9 decimals; a time without an offset is refused.
absl::StatusOr<absl::Time> ParseTimestamp(std::string_view text);
// "30s", "5m", "1h30m", "250ms", "2d" (configuration and catalog).
absl::StatusOr<absl::Duration> ParseDuration(std::string_view text);

}  // namespace mainstay
