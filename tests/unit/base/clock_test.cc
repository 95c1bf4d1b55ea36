// SPDX-License-Identifier: Apache-2.0
#include "libs/base/clock.h"

#include <catch2/catch.hpp>
#include <thread>

#include "absl/synchronization/notification.h"

namespace mainstay {

TEST_CASE("times are written with six decimals in UTC and read with any offset") {
  const absl::Time time = *ParseTimestamp("2026-11-24T09:15:30.1234567+01:00");
  CHECK(FormatTimestamp(time) == "2026-11-24T08:15:30.123456Z");
  CHECK(*ParseTimestamp("2026-11-24T08:15:30Z") == *ParseTimestamp("2026-11-24t10:15:30+02:00"));
  CHECK(FormatTimestamp(*ParseTimestamp("0001-01-01T00:00:00Z")) == "0001-01-01T00:00:00.000000Z");
}

TEST_CASE("what is not an RFC 3339 time with a zone is refused") {
  const auto text =
      GENERATE(as<std::string>{}, "", "2026-11-24", "2026-11-24T08:15:30", "2026-11-24 08:15:30Z",
               "2023-02-30T00:00:00Z", "2026-13-01T00:00:00Z", "2026-11-24T24:00:00Z", "2026-11-24T08:15:60Z",
               "2026-11-24T08:15:30.Z", "2026-11-24T08:15:30.1234567890Z", "2026-11-24T08:15:30+0100",
               "2026-11-24T08:15:30+24:00", "2026-11-24T08:15:30Zx", "+2026-11-24T08:15:30Z");
  INFO(text);
  CHECK_FALSE(ParseTimestamp(text).ok());
}

TEST_CASE("durations have units") {
  CHECK(*ParseDuration("250ms") == absl::Milliseconds(250));
  CHECK(*ParseDuration("1h30m") == absl::Minutes(90));
  CHECK(*ParseDuration("2d") == absl::Hours(48));
  for (const char* bad : {"", "5", "s", "5 s", "-5s", "1.5s", "5w", "99999999999s"}) {
    INFO(bad);
    CHECK_FALSE(ParseDuration(bad).ok());
  }
}

TEST_CASE("a simulated clock stands still until it is advanced, and its wall can jump alone") {
  SimulatedClock clock(absl::FromUnixSeconds(1000));
  CHECK(clock.Now() == absl::FromUnixSeconds(1000));
  absl::Notification woken;
  std::thread sleeper([&] {
    clock.Sleep(absl::Seconds(5));
    woken.Notify();
  });
  // Whenever the sleeper gets to its sleep, enough advances wake it.
  int advanced = 0;
  do {
    clock.Advance(absl::Seconds(5));
    ++advanced;
  } while (!woken.WaitForNotificationWithTimeout(absl::Milliseconds(10)));
  sleeper.join();
  CHECK(clock.Monotonic() == absl::Seconds(5) * advanced);
  clock.SetWall(absl::FromUnixSeconds(10));
  CHECK(clock.Now() == absl::FromUnixSeconds(10));
  CHECK(clock.Monotonic() == absl::Seconds(5) * advanced);
}

}  // namespace mainstay
