// SPDX-License-Identifier: Apache-2.0
#include "libs/catalog/cron.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "libs/base/strings.h"

namespace mainstay::catalog {
namespace {

struct CronField {
  const char* name;
  int min, max;
  std::vector<std::string_view> names;  // of the values from `first_name` on
  int first_name;
};

const std::vector<CronField>& Fields() {
  static const std::vector<CronField> fields = {
      {"minute", 0, 59, {}, 0},
      {"hour", 0, 23, {}, 0},
      {"day of month", 1, 31, {}, 0},
      {"month", 1, 12, {"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}, 1},
      {"day of week", 0, 7, {"sun", "mon", "tue", "wed", "thu", "fri", "sat"}, 0},
  };
  return fields;
}

// -1: no value of the field.
int Value(const CronField& field, std::string_view text) {
  const std::string lower = absl::AsciiStrToLower(ToAbsl(text));
  for (size_t i = 0; i < field.names.size(); ++i)
    if (lower == field.names[i]) return field.first_name + static_cast<int>(i);
  int number = 0;
  for (char c : text)
    if (!absl::ascii_isdigit(static_cast<unsigned char>(c))) return -1;
  if (text.size() > 2 || !absl::SimpleAtoi(ToAbsl(text), &number) || number < field.min || number > field.max)
    return -1;
  return number;
}

}  // namespace

std::string CronProblem(std::string_view cron) {
  std::vector<std::string> parts = absl::StrSplit(ToAbsl(cron), absl::ByAnyChar(" \t"), absl::SkipEmpty());
  if (parts.size() != 5)
    return StrCat("a cron expression has five fields (minute, hour, day of month, month, day of week), \"", cron,
                  "\" has ", parts.size(), "; for example \"30 2 * * mon-fri\"");
  for (size_t i = 0; i < 5; ++i) {
    const CronField& field = Fields()[i];
    auto wrong = [&](std::string_view what) {
      return StrCat("\"", what, "\" is no ", field.name, " (", field.min, "-", field.max, ") in the cron expression");
    };
    for (absl::string_view found : absl::StrSplit(parts[i], ',')) {
      std::string_view item = ToStd(found);
      std::vector<std::string> step = absl::StrSplit(ToAbsl(item), '/');
      int every = 0;
      if (step.size() > 2 ||
          (step.size() == 2 && (!absl::SimpleAtoi(step[1], &every) || every < 1 || every > field.max)))
        return wrong(item);
      if (step[0] == "*") continue;
      std::vector<std::string> range = absl::StrSplit(step[0], '-');
      if (range.size() > 2) return wrong(item);
      int first = Value(field, range[0]), last = range.size() == 2 ? Value(field, range[1]) : first;
      if (first < 0 || last < 0) return wrong(item);
      if (last < first) return StrCat("the range \"", item, "\" of the ", field.name, " runs backwards");
    }
  }
  return "";
}

}  // namespace mainstay::catalog
