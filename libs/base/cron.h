// SPDX-License-Identifier: Apache-2.0
// Cron expressions: what they mean, and when they run by the clocks of a zone, both clock changes included.
//
// Stands in base because both the catalog (which refuses a wrong one) and the jobs (which run by it) need it. Pure: the
// caller says what time it is. The rules for users are in libs/jobs/README.md; in one place each:
//   an hour field of `*`   runs whenever clocks on the wall show the minute, so every real hour (nothing runs in an
//   hour
//                          that is skipped, for no hour passes; a repeated hour runs twice);
//   any other hour field   names times of the day: one that is skipped runs at the first moment after the gap, once for
//                          all that fell into it; one that comes twice runs the first time only.
#pragma once

#include <array>
#include <bitset>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/civil_time.h"
#include "absl/time/time.h"

namespace mainstay {

class Cron {
 public:
  // Five fields (minute, hour, day of month, month, day of week), six with seconds in front, or @hourly and its kin.
  // InvalidArgument names the field and the character where it goes wrong; dates that never come are refused.
  static absl::StatusOr<Cron> Parse(std::string_view text);

  // The first run after `after`; InfiniteFuture only when `after` is.
  absl::Time Next(absl::Time after, const absl::TimeZone& zone) const;
  std::vector<absl::Time> NextRuns(absl::Time after, const absl::TimeZone& zone, int count) const;

 private:
  friend class CronParser;

  bool MatchesDay(absl::CivilDay day) const;
  // The first matching reading of a clock that never changes, at or after `from`.
  std::optional<absl::CivilSecond> NextReading(absl::CivilSecond from) const;
  std::optional<absl::CivilSecond> TimeOn(absl::CivilDay day, int hour, int minute, int second) const;
  absl::Time NextByTheDay(absl::Time after, const absl::TimeZone& zone) const;
  absl::Time NextByTheHour(absl::Time after, const absl::TimeZone& zone) const;

  std::bitset<60> seconds_, minutes_;
  std::bitset<24> hours_;
  std::bitset<13> months_;
  // Days of the month: by number, by distance from the last (L, L-3), the working day nearest to a number (15W), the
  // last working day (LW).
  std::bitset<32> days_, days_before_last_, nearest_weekdays_;
  bool last_weekday_ = false;
  // Days of the week, Sunday first: every one, or the nth of the month (bit n; bit 6: the last).
  std::bitset<7> weekdays_;
  std::array<std::bitset<7>, 7> nth_weekdays_;
  bool any_day_ = false, any_weekday_ = false;
};

// An IANA time zone by name. InvalidArgument for what is none, for paths, and for "localtime": that would depend on the
// machine.
absl::StatusOr<absl::TimeZone> LoadZone(std::string_view name);

}  // namespace mainstay
