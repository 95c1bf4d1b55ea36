// SPDX-License-Identifier: Apache-2.0
// Cron against tables of known answers, and against an oracle that knows nothing of zones but what a clock shows: it
// walks real time second by second and looks at the wall. MAINSTAY_TEST_LONG=1 walks longer.
#include "libs/base/cron.h"

#include <catch2/catch.hpp>
#include <cstdlib>
#include <map>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/support/status.h"

namespace mainstay {
namespace {

using testing::IsOk;
using testing::StatusIs;

absl::TimeZone Zone(const std::string& name) {
  const auto zone = LoadZone(name);
  REQUIRE_THAT(zone, IsOk());
  return *zone;
}

// "2026-03-29 01:30" in the zone, the first of two.
absl::Time At(const std::string& text, const absl::TimeZone& zone) {
  absl::CivilSecond reading;
  REQUIRE(absl::ParseLenientCivilTime(text, &reading));
  return zone.At(reading).pre;
}

std::vector<std::string> Runs(const std::string& cron, const std::string& zone_name, const std::string& after,
                              int count) {
  const auto parsed = Cron::Parse(cron);
  REQUIRE_THAT(parsed, IsOk());
  const absl::TimeZone zone = Zone(zone_name);
  std::vector<std::string> out;
  for (const absl::Time run : parsed->NextRuns(At(after, zone), zone, count))
    out.push_back(absl::FormatTime("%a %Y-%m-%d %H:%M:%S%Ez", run, zone));
  return out;
}
using Lines = std::vector<std::string>;

TEST_CASE("a cron expression says when it runs") {
  CHECK(Runs("30 2 * * mon-fri", "UTC", "2026-11-27T03:00:00", 2) ==
        Lines{"Mon 2026-11-30 02:30:00+00:00", "Tue 2026-12-01 02:30:00+00:00"});
  CHECK(Runs("*/20 * * * * *", "UTC", "2026-11-27T03:00:00", 3) ==
        Lines{"Fri 2026-11-27 03:00:20+00:00", "Fri 2026-11-27 03:00:40+00:00", "Fri 2026-11-27 03:01:00+00:00"});
  CHECK(Runs("5/20 0 * JAN Sun", "UTC", "2026-11-27T03:00:00", 4) ==
        Lines{"Sun 2027-01-03 00:05:00+00:00", "Sun 2027-01-03 00:25:00+00:00", "Sun 2027-01-03 00:45:00+00:00",
              "Sun 2027-01-10 00:05:00+00:00"});
  CHECK(Runs("0 0 29 2 *", "UTC", "2096-02-29T00:00:00", 1) == Lines{"Fri 2104-02-29 00:00:00+00:00"});
  CHECK(Runs("@weekly", "UTC", "2026-11-27T03:00:00", 1) == Lines{"Sun 2026-11-29 00:00:00+00:00"});
  CHECK(Runs("@hourly", "Asia/Kathmandu", "2026-11-27T03:00:00", 1) == Lines{"Fri 2026-11-27 04:00:00+05:45"});
  // A range of days may end with Sunday, under any of its names.
  for (const char* weekend : {"0 0 * * sat-sun", "0 0 * * 6-7", "0 0 * * 6,0"})
    CHECK(Runs(weekend, "UTC", "2026-11-27T03:00:00", 3) ==
          Lines{"Sat 2026-11-28 00:00:00+00:00", "Sun 2026-11-29 00:00:00+00:00", "Sat 2026-12-05 00:00:00+00:00"});
  // Both days given: either will do.
  CHECK(Runs("0 0 13 * fri", "UTC", "2026-11-07T00:00:00", 3) ==
        Lines{"Fri 2026-11-13 00:00:00+00:00", "Fri 2026-11-20 00:00:00+00:00", "Fri 2026-11-27 00:00:00+00:00"});
}

TEST_CASE("last days, working days and nth days of the month") {
  CHECK(Runs("0 0 L * *", "UTC", "2027-01-31T00:00:00", 2) ==
        Lines{"Sun 2027-02-28 00:00:00+00:00", "Wed 2027-03-31 00:00:00+00:00"});
  CHECK(Runs("0 0 L-2 2 *", "UTC", "2027-12-31T00:00:00", 1) == Lines{"Sun 2028-02-27 00:00:00+00:00"});
  CHECK(Runs("0 0 LW * *", "UTC", "2027-01-31T00:00:00", 3) ==
        Lines{"Fri 2027-02-26 00:00:00+00:00", "Wed 2027-03-31 00:00:00+00:00", "Fri 2027-04-30 00:00:00+00:00"});
  // The 15th is a Sunday, the 1st a Saturday, the 31st a Sunday.
  CHECK(Runs("0 0 15W * *", "UTC", "2026-11-01T00:00:00", 1) == Lines{"Mon 2026-11-16 00:00:00+00:00"});
  CHECK(Runs("0 0 1W 8 *", "UTC", "2026-07-31T00:00:00", 1) == Lines{"Mon 2026-08-03 00:00:00+00:00"});
  CHECK(Runs("0 0 31W * *", "UTC", "2027-01-01T00:00:00", 2) ==
        Lines{"Fri 2027-01-29 00:00:00+00:00", "Wed 2027-03-31 00:00:00+00:00"});
  CHECK(Runs("0 0 * * fri#2", "UTC", "2026-11-13T00:00:00", 1) == Lines{"Fri 2026-12-11 00:00:00+00:00"});
  CHECK(Runs("0 0 * * mon#5", "UTC", "2026-11-01T00:00:00", 1) == Lines{"Mon 2026-11-30 00:00:00+00:00"});
  CHECK(Runs("0 0 * * friL", "UTC", "2026-11-13T00:00:00", 2) ==
        Lines{"Fri 2026-11-27 00:00:00+00:00", "Fri 2026-12-25 00:00:00+00:00"});
}

TEST_CASE("F47: a time that is skipped runs at the first minute after the gap, one that comes twice runs once") {
  CHECK(Runs("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00", 3) ==
        Lines{"Sat 2026-03-28 02:30:00+01:00", "Sun 2026-03-29 03:00:00+02:00", "Mon 2026-03-30 02:30:00+02:00"});
  CHECK(Runs("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00", 2) ==
        Lines{"Sun 2026-10-25 02:30:00+02:00", "Mon 2026-10-26 02:30:00+01:00"});
  // All that fell into the gap is one run; what stands at its end is not another.
  CHECK(Runs("*/15 2,3 * * *", "America/New_York", "2026-03-08T00:00:00", 3) ==
        Lines{"Sun 2026-03-08 03:00:00-04:00", "Sun 2026-03-08 03:15:00-04:00", "Sun 2026-03-08 03:30:00-04:00"});
  // Half an hour, at 2:00, in summer and in autumn of the south.
  CHECK(Runs("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00", 2) ==
        Lines{"Sun 2026-10-04 02:30:00+11:00", "Mon 2026-10-05 02:15:00+11:00"});
  CHECK(Runs("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00:00", 2) ==
        Lines{"Sun 2026-04-05 01:45:00+11:00", "Mon 2026-04-06 01:45:00+10:30"});
  // At 2:45.
  CHECK(Runs("0 3 * * *", "Pacific/Chatham", "2026-09-26T12:00:00", 2) ==
        Lines{"Sun 2026-09-27 03:45:00+13:45", "Mon 2026-09-28 03:00:00+13:45"});
  // A whole day that never was: 30 December 2011.
  CHECK(Runs("0 9 * * *", "Pacific/Apia", "2011-12-29T12:00:00", 2) ==
        Lines{"Sat 2011-12-31 00:00:00+14:00", "Sat 2011-12-31 09:00:00+14:00"});
  // Midnight is skipped.
  CHECK(Runs("@daily", "America/Santiago", "2026-09-05T12:00:00", 2) ==
        Lines{"Sun 2026-09-06 01:00:00-03:00", "Mon 2026-09-07 00:00:00-03:00"});
}

TEST_CASE("F47: hourly and minute schedules run every real hour") {
  CHECK(Runs("30 * * * *", "Europe/Berlin", "2026-03-29T01:00:00", 3) ==
        Lines{"Sun 2026-03-29 01:30:00+01:00", "Sun 2026-03-29 03:30:00+02:00", "Sun 2026-03-29 04:30:00+02:00"});
  CHECK(Runs("30 * * * *", "Europe/Berlin", "2026-10-25T01:00:00", 4) ==
        Lines{"Sun 2026-10-25 01:30:00+02:00", "Sun 2026-10-25 02:30:00+02:00", "Sun 2026-10-25 02:30:00+01:00",
              "Sun 2026-10-25 03:30:00+01:00"});
  CHECK(Runs("*/30 0-23 * * *", "Australia/Lord_Howe", "2026-04-05T01:00:00", 4) ==
        Lines{"Sun 2026-04-05 01:30:00+11:00", "Sun 2026-04-05 01:30:00+10:30", "Sun 2026-04-05 02:00:00+10:30",
              "Sun 2026-04-05 02:30:00+10:30"});
}

TEST_CASE("what is no cron expression is refused with the field and the character") {
  auto problem = [](const std::string& text) {
    const auto cron = Cron::Parse(text);
    return cron.ok() ? "fine" : std::string(cron.status().message());
  };
  CHECK(problem("60 * * * *") == "minute \"60\" (character 1): expected 0 to 59");
  CHECK(problem("0 0,24 * * *") == "hour \"24\" (character 5): expected 0 to 23");
  CHECK(problem("0 0 0 * *") == "day of month \"0\" (character 5): expected 1 to 31");
  CHECK(problem("0 0  * foo *") == "month \"foo\" (character 8): expected 1 to 12 or jan to dec");
  CHECK(problem("0 0 * * mon-8") == "day of week \"mon-8\" (character 9): expected 0 to 7 or sun to sat");
  CHECK(problem("75 0 0 * * *") == "second \"75\" (character 1): expected 0 to 59");
  CHECK(problem("0 5-1 * * *") == "hour \"5-1\" (character 3): the range runs backwards");
  CHECK(problem("*/0 * * * *") == "minute \"*/0\" (character 1): a step is a number from 1 to 59");
  CHECK(problem("1/2/3 * * * *") == "minute \"1/2/3\" (character 1): more than one step");
  CHECK(problem("1-2-3 * * * *") == "minute \"1-2-3\" (character 1): a range has two ends");
  CHECK(problem("1,, * * * *") == "minute \"\" (character 3): expected 0 to 59");
  CHECK(problem("0 0 30 2 *") == "day of month \"30\" (character 5): never comes in month \"2\"");
  CHECK(problem("0 0 31,L-30 jun,feb *") == "day of month \"31,l-30\" (character 5): never comes in month \"jun,feb\"");
  CHECK(problem("0 0 L-31 * *") ==
        "day of month \"l-31\" (character 5): expected L-1 to L-30: so many days before the last");
  CHECK(problem("0 0 W * *") == "day of month \"w\" (character 5): expected 1W to 31W or LW: the nearest working day");
  CHECK(problem("0 0 * * fri#6") ==
        "day of week \"fri#6\" (character 9): expected a day and 1 to 5: \"fri#2\" is the second Friday of the month");
  CHECK(problem("0 0 * * L") ==
        "day of week \"l\" (character 9): expected a day before the L: \"friL\" is the last Friday of the month");
  CHECK(problem("@reboot") ==
        "\"@reboot\" is none of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually");
  CHECK(problem("* * * *") ==
        "a cron expression has five fields (minute, hour, day of month, month, day of week), or six with seconds in "
        "front; \"* * * *\" has 4; for example \"30 2 * * mon-fri\"");
  CHECK(problem(std::string(300, '*')) == "the cron expression has 300 characters, the limit is 255");
  for (const char* bad :
       {"", " ", "? * * * *", "-1 * * * *", "1- * * * *", "-", "0x1 * * * *", "+1 * * * *", "100 * * * *",
        "* * * jan-feb-mar *", "* * L/2 * *", "* * * * #2", "* * * * mon/2#1", "1 2 3 4 5 6 7"})
    CHECK(problem(bad) != "fine");
  for (const char* good : {"* * * * *", "\t*  * ? * ? ", "0 0 30 2 mon", "59 59 23 31 12 7", "0 0 1,15,LW 1-6/2 mon#1"})
    CHECK(problem(good) == "fine");
}

TEST_CASE("a zone is an IANA name, not a file and not the machine's own") {
  for (const char* good : {"UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5"})
    CHECK_THAT(LoadZone(good), IsOk());
  for (const char* bad : {"", "Europe/Brlin", "localtime", "/etc/localtime", "../zoneinfo/UTC", "Fixed/UTC+01:00:00",
                          "Europe/", "Europe/Berlin\n"})
    CHECK_THAT(LoadZone(bad), StatusIs(absl::StatusCode::kInvalidArgument, "time zone"));
}

TEST_CASE("Next comes after, whatever the instant") {
  const auto cron = Cron::Parse("* * * * *");
  const absl::TimeZone utc = absl::UTCTimeZone();
  CHECK(cron->Next(absl::FromUnixMillis(500), utc) == absl::FromUnixSeconds(60));
  CHECK(cron->Next(absl::FromUnixMillis(-500), utc) == absl::UnixEpoch());
  CHECK(cron->Next(absl::FromUnixSeconds(60), utc) == absl::FromUnixSeconds(120));
  CHECK(cron->Next(absl::InfiniteFuture(), utc) == absl::InfiniteFuture());
}

// ---- the oracle ----

// One field as text and as what it means, made together.
struct RandomField {
  std::string text;
  std::set<int> values;
};
struct Random {
  std::mt19937 bits;
  int Below(int n) { return static_cast<int>(bits() % static_cast<unsigned>(n)); }
  RandomField Field(int min, int max, int stars) {
    RandomField field;
    if (Below(100) < stars) {
      field.text = "*";
      for (int v = min; v <= max; ++v) field.values.insert(v);
      return field;
    }
    std::vector<std::string> items;
    for (int i = Below(3); i >= 0; --i) {
      const int first = min + Below(max - min + 1), last = first + Below(max - first + 1), step = 1 + Below(max);
      switch (Below(4)) {
        case 0:
          items.push_back(absl::StrCat(first));
          field.values.insert(first);
          break;
        case 1:
          items.push_back(absl::StrCat(first, "-", last));
          for (int v = first; v <= last; ++v) field.values.insert(v);
          break;
        case 2:
          items.push_back(absl::StrCat(first, "-", last, "/", step));
          for (int v = first; v <= last; v += step) field.values.insert(v);
          break;
        default:
          items.push_back(absl::StrCat("*/", step));
          for (int v = min; v <= max; v += step) field.values.insert(v);
      }
    }
    field.text = absl::StrJoin(items, ",");
    return field;
  }
};

struct RandomCron {
  RandomField second, minute, hour, day, month, weekday;
  std::string text;
  explicit RandomCron(Random& random, int first_month) {
    second = random.Field(0, 59, 0);
    if (random.Below(3) > 0) second = {"0", {0}};
    minute = random.Field(0, 59, 20);
    hour = random.Field(0, 23, 35);
    day = random.Field(1, 31, 60);
    month = random.Field(1, 12, 70);
    month.values.insert(first_month);
    if (month.text != "*") month.text += absl::StrCat(",", first_month);
    weekday = random.Field(0, 6, 60);
    text =
        absl::StrCat(second.text, " ", minute.text, " ", hour.text, " ", day.text, " ", month.text, " ", weekday.text);
  }
  bool Matches(absl::CivilSecond t) const {
    const int week = (static_cast<int>(absl::GetWeekday(t)) + 1) % 7;
    const bool by_day = day.values.contains(t.day()), by_week = weekday.values.contains(week);
    const bool days = day.text == "*" || weekday.text == "*" ? by_day && by_week : by_day || by_week;
    return days && month.values.contains(t.month()) && hour.values.contains(t.hour()) &&
           minute.values.contains(t.minute()) && second.values.contains(t.second());
  }
};

// Every run in (from, to], by looking at the wall each second.
std::set<absl::Time> Watch(const RandomCron& cron, const absl::TimeZone& zone, absl::Time from, absl::Time to) {
  const bool every_hour = cron.hour.values.size() == 24;
  std::set<absl::Time> runs;
  absl::CivilSecond latest = zone.At(from).cs;
  for (absl::Time t = from + absl::Seconds(1); t <= to; t += absl::Seconds(1)) {
    const absl::CivilSecond now = zone.At(t).cs;
    bool runs_now = cron.Matches(now) && (every_hour || now > latest);
    // What the clock jumped over, looked for only when it did.
    if (!every_hour)
      for (absl::CivilSecond skipped = latest + 1; skipped < now && !runs_now; ++skipped)
        runs_now = cron.Matches(skipped);
    if (runs_now) runs.insert(t);
    latest = std::max(latest, now);
  }
  return runs;
}

TEST_CASE("F47: random schedules agree with a watched clock around every change of ten zones") {
  const bool lengthy = std::getenv("MAINSTAY_TEST_LONG") != nullptr;
  const unsigned seed = lengthy ? std::random_device()() : 20261125;
  INFO("seed " << seed);
  Random random{std::mt19937(seed)};
  int64_t compared = 0;
  for (const char* name :
       {"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Chatham", "Pacific/Apia",
        "America/Santiago", "Africa/Casablanca", "Asia/Kathmandu", "Europe/Dublin", "America/St_Johns"}) {
    const absl::TimeZone zone = Zone(name);
    INFO(name);
    absl::Time at = absl::FromCivil(absl::CivilSecond(2011), zone);
    absl::TimeZone::CivilTransition change;
    for (int changes = 0; changes < (lengthy ? 12 : 2); ++changes) {
      // Zones without a change to come are watched all the same.
      at = zone.NextTransition(at, &change) ? zone.At(change.to).trans : at + absl::Hours(24 * 100);
      const absl::Time from = at - absl::Hours(14 + random.Below(20)), to = at + absl::Hours(14 + random.Below(20));
      for (int i = 0; i < (lengthy ? 40 : 3); ++i) {
        const RandomCron expected(random, zone.At(at).cs.month());
        INFO(expected.text << " around " << absl::FormatTime(at, zone));
        const auto cron = Cron::Parse(expected.text);
        REQUIRE_THAT(cron, IsOk());
        std::set<absl::Time> runs;
        for (absl::Time t = cron->Next(from, zone); t <= to; t = cron->Next(t, zone)) {
          REQUIRE((runs.empty() || t > *runs.rbegin()));
          runs.insert(t);
        }
        const std::set<absl::Time> seen = Watch(expected, zone, from, to);
        compared += static_cast<int64_t>(seen.size());
        REQUIRE(runs == seen);
        // From any moment the next one is the same.
        for (int n = 0; n < 20; ++n) {
          const absl::Time any =
              from + absl::Milliseconds(random.Below(static_cast<int>((to - from) / absl::Milliseconds(1))));
          const auto next = seen.upper_bound(any);
          if (next != seen.end()) REQUIRE(cron->Next(any, zone) == *next);
        }
      }
    }
  }
  CHECK(compared > 1000);
}

}  // namespace
}  // namespace mainstay
