// SPDX-License-Identifier: Apache-2.0
#include "libs/base/cron.h"

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"

namespace mainstay {
namespace {

constexpr size_t kMaxText = 255;
// The calendar repeats after 400 years: what has not come by then never does.
constexpr int kCycle = 400;

struct Field {
  const char* name;
  int min, max;
  std::vector<std::string_view> names = {};  // of the values from `first_name` on
  int first_name = 0;
};
const Field kSecond = {"second", 0, 59};
const Field kMinute = {"minute", 0, 59};
const Field kHour = {"hour", 0, 23};
const Field kDay = {"day of month", 1, 31};
const Field kMonth = {
    "month", 1, 12, {"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}, 1};
const Field kWeekday = {"day of week", 0, 7, {"sun", "mon", "tue", "wed", "thu", "fri", "sat"}, 0};

int SundayFirst(absl::CivilDay day) {
  return (static_cast<int>(absl::GetWeekday(day)) + 1) % 7;
}
int DaysIn(absl::CivilDay day) {
  return static_cast<int>(absl::CivilDay(absl::CivilMonth(day) + 1) - absl::CivilDay(absl::CivilMonth(day)));
}

// One element of a field's list, and the character where it starts, from 1.
struct Item {
  std::string_view text;
  size_t at;
};

absl::Status Wrong(const Field& field, const Item& item, std::string_view why) {
  return absl::InvalidArgumentError(StrCat(field.name, " \"", item.text, "\" (character ", item.at, "): ", why));
}
std::string Expected(const Field& field) {
  std::string text = StrCat("expected ", field.min, " to ", field.max);
  if (!field.names.empty()) StrAppend(&text, " or ", field.names.front(), " to ", field.names.back());
  return text;
}

std::vector<Item> Split(const Item& whole, std::string_view separators) {
  std::vector<Item> parts;
  size_t from = 0;
  while (true) {
    const size_t to = std::min(whole.text.find_first_of(separators, from), whole.text.size());
    parts.push_back({whole.text.substr(from, to - from), whole.at + from});
    if (to == whole.text.size()) return parts;
    from = to + 1;
  }
}

std::optional<int> Number(std::string_view text) {
  if (text.empty() || text.size() > 2) return std::nullopt;
  int number = 0;
  for (const char c : text) {
    if (!absl::ascii_isdigit(static_cast<unsigned char>(c))) return std::nullopt;
    number = number * 10 + (c - '0');
  }
  return number;
}

std::optional<int> Value(const Field& field, std::string_view text) {
  for (size_t i = 0; i < field.names.size(); ++i) {
    if (text == field.names[i]) return field.first_name + static_cast<int>(i);
  }
  const std::optional<int> number = Number(text);
  if (!number.has_value() || *number < field.min || *number > field.max) return std::nullopt;
  return number;
}

// `*`, `7`, `1-5`, `*/10`, `8-18/2`, `5/15` (from 5 on).
template <size_t n>
absl::Status ReadItem(const Field& field, const Item& item, std::bitset<n>* out) {
  const std::vector<Item> parts = Split(item, "/");
  if (parts.size() > 2) return Wrong(field, item, "more than one step");
  int step = 1;
  if (parts.size() == 2) {
    step = Number(parts[1].text).value_or(0);
    if (step < 1 || step > field.max) return Wrong(field, item, StrCat("a step is a number from 1 to ", field.max));
  }
  int first = field.min, last = field.max;
  if (parts[0].text != "*") {
    const std::vector<Item> ends = Split(parts[0], "-");
    if (ends.size() > 2) return Wrong(field, item, "a range has two ends");
    const auto from = Value(field, ends[0].text), to = Value(field, ends.back().text);
    if (!from.has_value() || !to.has_value()) return Wrong(field, item, Expected(field));
    first = *from;
    last = ends.size() == 1 && parts.size() == 2 ? field.max : *to;
    // A week may end with Sunday.
    if (&field == &kWeekday && last == 0 && first > 0) last = 7;
    if (last < first) return Wrong(field, item, "the range runs backwards");
  }
  for (int value = first; value <= last; value += step)
    out->set(&field == &kWeekday ? static_cast<size_t>(value % 7) : static_cast<size_t>(value));
  return absl::OkStatus();
}

template <size_t n>
absl::Status ReadField(const Field& field, const Item& whole, std::bitset<n>* out) {
  for (const Item& item : Split(whole, ",")) RETURN_IF_ERROR(ReadItem(field, item, out));
  return absl::OkStatus();
}

std::string_view Shorthand(std::string_view text) {
  if (text == "@hourly") return "0 * * * *";
  if (text == "@daily" || text == "@midnight") return "0 0 * * *";
  if (text == "@weekly") return "0 0 * * 0";
  if (text == "@monthly") return "0 0 1 * *";
  if (text == "@yearly" || text == "@annually") return "0 0 1 1 *";
  return "";
}

}  // namespace

class CronParser {
 public:
  static absl::StatusOr<Cron> Parse(std::string_view text) {
    if (text.size() > kMaxText)
      return absl::InvalidArgumentError(
          StrCat("the cron expression has ", text.size(), " characters, the limit is ", kMaxText));
    std::string lower = absl::AsciiStrToLower(ToAbsl(text));
    if (const auto start = lower.find_first_not_of(" \t"); start != std::string::npos && lower[start] == '@') {
      const std::string name = lower.substr(start, lower.find_last_not_of(" \t") - start + 1);
      lower = Shorthand(name);
      if (lower.empty())
        return absl::InvalidArgumentError(
            StrCat("\"", name, "\" is none of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually"));
    }
    std::vector<Item> fields;
    for (const Item& part : Split({lower, 1}, " \t"))
      if (!part.text.empty()) fields.push_back(part);
    if (fields.size() != 5 && fields.size() != 6)
      return absl::InvalidArgumentError(StrCat(
          "a cron expression has five fields (minute, hour, day of month, month, day of week), or six with seconds in "
          "front; \"",
          text, "\" has ", fields.size(), "; for example \"30 2 * * mon-fri\""));
    Cron cron;
    if (fields.size() == 6) {
      RETURN_IF_ERROR(ReadField(kSecond, fields[0], &cron.seconds_));
      fields.erase(fields.begin());
    } else {
      cron.seconds_.set(0);
    }
    RETURN_IF_ERROR(ReadField(kMinute, fields[0], &cron.minutes_));
    RETURN_IF_ERROR(ReadField(kHour, fields[1], &cron.hours_));
    RETURN_IF_ERROR(ReadDays(fields[2], &cron));
    RETURN_IF_ERROR(ReadField(kMonth, fields[3], &cron.months_));
    RETURN_IF_ERROR(ReadWeekdays(fields[4], &cron));
    if (!cron.NextReading(absl::CivilSecond(2000)).has_value())
      return Wrong(cron.any_day_ ? kWeekday : kDay, cron.any_day_ ? fields[4] : fields[2],
                   StrCat("never comes in month \"", fields[3].text, "\""));
    return cron;
  }

 private:
  static absl::Status ReadDays(const Item& whole, Cron* cron) {
    cron->any_day_ = whole.text == "*" || whole.text == "?";
    if (cron->any_day_) return absl::OkStatus();
    for (const Item& item : Split(whole, ",")) {
      if (item.text == "lw") {
        cron->last_weekday_ = true;
      } else if (item.text == "l") {
        cron->days_before_last_.set(0);
      } else if (item.text.starts_with("l-")) {
        const auto before = Number(item.text.substr(2));
        if (!before.has_value() || *before < 1 || *before > 30)
          return Wrong(kDay, item, "expected L-1 to L-30: so many days before the last");
        cron->days_before_last_.set(static_cast<size_t>(*before));
      } else if (item.text.ends_with("w")) {
        const auto day = Value(kDay, item.text.substr(0, item.text.size() - 1));
        if (!day.has_value()) return Wrong(kDay, item, "expected 1W to 31W or LW: the nearest working day");
        cron->nearest_weekdays_.set(static_cast<size_t>(*day));
      } else {
        RETURN_IF_ERROR(ReadItem(kDay, item, &cron->days_));
      }
    }
    return absl::OkStatus();
  }

  static absl::Status ReadWeekdays(const Item& whole, Cron* cron) {
    cron->any_weekday_ = whole.text == "*" || whole.text == "?";
    if (cron->any_weekday_) return absl::OkStatus();
    for (const Item& item : Split(whole, ",")) {
      const size_t hash = item.text.find('#');
      if (hash != std::string_view::npos) {
        const auto day = Value(kWeekday, item.text.substr(0, hash)), nth = Number(item.text.substr(hash + 1));
        if (!day.has_value() || !nth.has_value() || *nth < 1 || *nth > 5)
          return Wrong(kWeekday, item, "expected a day and 1 to 5: \"fri#2\" is the second Friday of the month");
        cron->nth_weekdays_[static_cast<size_t>(*day % 7)].set(static_cast<size_t>(*nth));
      } else if (item.text.ends_with("l")) {
        const auto day = Value(kWeekday, item.text.substr(0, item.text.size() - 1));
        if (!day.has_value())
          return Wrong(kWeekday, item, "expected a day before the L: \"friL\" is the last Friday of the month");
        cron->nth_weekdays_[static_cast<size_t>(*day % 7)].set(6);
      } else {
        RETURN_IF_ERROR(ReadItem(kWeekday, item, &cron->weekdays_));
      }
    }
    return absl::OkStatus();
  }
};

absl::StatusOr<Cron> Cron::Parse(std::string_view text) {
  return CronParser::Parse(text);
}

bool Cron::MatchesDay(absl::CivilDay day) const {
  if (!months_[static_cast<size_t>(day.month())]) return false;
  const int length = DaysIn(day), weekday = SundayFirst(day);
  bool by_day = any_day_;
  if (!any_day_) {
    by_day = days_[static_cast<size_t>(day.day())] || days_before_last_[static_cast<size_t>(length - day.day())];
    if (!by_day && weekday >= 1 && weekday <= 5) {
      // The working day nearest to n is n itself, Friday for a Saturday, Monday for a Sunday; never in another month.
      auto nearest = [&](int n) { return n >= 1 && n <= length && nearest_weekdays_[static_cast<size_t>(n)]; };
      by_day = nearest(day.day()) || (weekday == 5 && nearest(day.day() + 1)) ||
               (weekday == 1 && nearest(day.day() - 1)) || (weekday == 1 && day.day() == 3 && nearest(1)) ||
               (weekday == 5 && day.day() == length - 2 && nearest(length));
      if (last_weekday_) by_day = by_day || day.day() == length || (weekday == 5 && length - day.day() <= 2);
    }
  }
  bool by_weekday = any_weekday_;
  if (!any_weekday_) {
    const auto& nth = nth_weekdays_[static_cast<size_t>(weekday)];
    by_weekday = weekdays_[static_cast<size_t>(weekday)] || nth[static_cast<size_t>(day.day() - 1) / 7 + 1] ||
                 (nth[6] && day.day() + 7 > length);
  }
  // As cron always did: where both are given, either will do.
  return any_day_ || any_weekday_ ? by_day && by_weekday : by_day || by_weekday;
}

std::optional<absl::CivilSecond> Cron::TimeOn(absl::CivilDay day, int hour, int minute, int second) const {
  for (; hour < 24; ++hour, minute = 0, second = 0) {
    if (!hours_[static_cast<size_t>(hour)]) continue;
    for (; minute < 60; ++minute, second = 0) {
      if (!minutes_[static_cast<size_t>(minute)]) continue;
      for (; second < 60; ++second)
        if (seconds_[static_cast<size_t>(second)])
          return absl::CivilSecond(day.year(), day.month(), day.day(), hour, minute, second);
    }
  }
  return std::nullopt;
}

std::optional<absl::CivilSecond> Cron::NextReading(absl::CivilSecond from) const {
  const absl::CivilDay first(from);
  for (absl::CivilDay day = first; day.year() <= first.year() + kCycle;) {
    if (!months_[static_cast<size_t>(day.month())]) {
      day = absl::CivilDay(absl::CivilMonth(day) + 1);
      continue;
    }
    if (MatchesDay(day)) {
      const auto time = day == first ? TimeOn(day, from.hour(), from.minute(), from.second()) : TimeOn(day, 0, 0, 0);
      if (time.has_value()) return time;
    }
    ++day;
  }
  return std::nullopt;
}

absl::Time Cron::Next(absl::Time after, const absl::TimeZone& zone) const {
  if (after == absl::InfiniteFuture()) return after;
  return hours_.all() ? NextByTheHour(after, zone) : NextByTheDay(after, zone);
}

absl::Time Cron::NextByTheDay(absl::Time after, const absl::TimeZone& zone) const {
  // Readings before the one at `after` came before it: what maps a reading to its moment never runs backwards.
  auto reading = NextReading(zone.At(after).cs + 1);
  for (; reading.has_value(); reading = NextReading(*reading + 1)) {
    const absl::TimeZone::TimeInfo info = zone.At(*reading);
    const absl::Time at = info.kind == absl::TimeZone::TimeInfo::SKIPPED ? info.trans : info.pre;
    if (at > after) return at;
  }
  return absl::InfiniteFuture();
}

absl::Time Cron::NextByTheHour(absl::Time after, const absl::TimeZone& zone) const {
  absl::Time from = absl::FromUnixSeconds(absl::ToUnixSeconds(after)) + absl::Seconds(1);
  while (true) {
    // Between two changes of the zone, real time and the clock on the wall go alike.
    const absl::CivilSecond local = zone.At(from).cs;
    const auto reading = NextReading(local);
    if (!reading.has_value()) return absl::InfiniteFuture();
    const absl::Time at = from + absl::Seconds(*reading - local);
    absl::TimeZone::CivilTransition change;
    if (!zone.NextTransition(from, &change)) return at;
    const absl::Time changed = zone.At(change.to).trans;
    if (at < changed) return at;
    from = changed;
  }
}

std::vector<absl::Time> Cron::NextRuns(absl::Time after, const absl::TimeZone& zone, int count) const {
  std::vector<absl::Time> runs;
  for (int i = 0; i < count; ++i) {
    after = Next(after, zone);
    if (after == absl::InfiniteFuture()) break;
    runs.push_back(after);
  }
  return runs;
}

absl::StatusOr<absl::TimeZone> LoadZone(std::string_view name) {
  const bool plain =
      !name.empty() && name.size() <= 64 && absl::ascii_isalpha(static_cast<unsigned char>(name[0])) &&
      std::all_of(name.begin(), name.end(), [](char c) {
        return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '/' || c == '_' || c == '-' || c == '+';
      });
  absl::TimeZone zone;
  if (!plain || name == "localtime" || name.starts_with("Fixed/") || !absl::LoadTimeZone(ToAbsl(name), &zone))
    return absl::InvalidArgumentError(
        StrCat("the time zone \"", name, "\" is not known; write for example UTC or Europe/Berlin"));
  return zone;
}

}  // namespace mainstay
