// SPDX-License-Identifier: Apache-2.0
#include "services/worker/noop.h"

#include <charconv>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/base/json.h"

namespace mainstay::worker {
namespace {

int64_t Number(const JsonValue& args, std::string_view name) {
  const JsonValue* value = args.Find(name);
  int64_t number = 0;
  if (value != nullptr && value->is_number())
    std::from_chars(value->text().data(), value->text().data() + value->text().size(), number);
  return number;
}

}  // namespace

void RegisterNoop(jobs::Registry& registry) {
  registry.Register("mainstay.noop", [](jobs::RunningJob& job) {
    const auto args = JsonDocument::Parse(std::string(job.args()));
    if (!args.ok()) return jobs::Outcome::Dead("args_invalid", "args are not JSON");
    if (job.attempt() <= Number(args->root(), "fail_times"))
      return jobs::Outcome::Retry("asked_to_fail", absl::StrCat("run ", job.attempt(), " fails as asked"));
    const int64_t sleep_ms = std::clamp<int64_t>(Number(args->root(), "sleep_ms"), 0, 600000);
    const absl::Time end = absl::Now() + absl::Milliseconds(sleep_ms);
    while (absl::Now() < end) {
      if (job.cancelled()) return jobs::Outcome::Retry("cancelled", "told to stop while it slept");
      absl::SleepFor(std::min(absl::Milliseconds(20), end - absl::Now()));
    }
    return jobs::Outcome::Done(absl::StrCat("{\"attempt\":", job.attempt(), "}"));
  });
  registry.SetSchema("mainstay.noop", R"({"properties": {
    "sleep_ms": {"type": "integer", "minimum": 0, "maximum": 600000}, "fail_times": {"type": "integer", "minimum": 0}}})");
}

}  // namespace mainstay::worker
