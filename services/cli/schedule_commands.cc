// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "absl/strings/numbers.h"
#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "services/cli/command.h"
#include "services/cli/gateway.h"

namespace mainstay::cli {
namespace {

constexpr char kSchedules[] = "/mainstay/v1/schedules";

std::string PathOf(const Arguments& arguments) {
  return StrCat(kSchedules, "/", PercentEncode(arguments[0]));
}

absl::Status ListPage(const Arguments& arguments) {
  return List(arguments, kSchedules, {"kind", "queue", "paused"},
              {"name", "cron", "zone", "kind", "paused", "next_run_at", "last_run_at"});
}

absl::Status Runs(const Arguments& arguments) {
  return List(arguments, "/mainstay/v1/schedule-runs", {"schedule", "outcome"},
              {"id", "schedule", "scheduled_at", "outcome", "job", "job_state"});
}

absl::Status ShowOne(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  ASSIGN_OR_RETURN(const std::string json, gateway.Get(PathOf(arguments)));
  return Show(arguments, json);
}

absl::Status Next(const Arguments& arguments) {
  const std::string count = arguments.Get("count", "10");
  int number = 0;
  if (!absl::SimpleAtoi(count, &number) || number < 1 || number > 100)
    return absl::InvalidArgumentError("--count is between 1 and 100");
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  ASSIGN_OR_RETURN(const std::string json, gateway.Get(StrCat(PathOf(arguments), "?next=", number)));
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(json));
  const JsonValue* runs = document.root().Find("next_runs");
  if (runs == nullptr || !runs->is_array()) return absl::InternalError("the answer has no next_runs");
  if (arguments.Has("json")) {
    std::printf("%s\n", std::string(runs->raw()).c_str());
    return absl::OkStatus();
  }
  if (Text(document.root(), "paused") == "true") std::printf("paused: nothing runs until it is resumed\n");
  for (const JsonValue& run : runs->items()) std::printf("%s\n", std::string(run.text()).c_str());
  return absl::OkStatus();
}

}  // namespace

std::vector<Command> ScheduleCommands() {
  const Flag limit = {"limit", "N", "1 to 200, default 20"},
             cursor = {"cursor", "TEXT", "the next page, as the page before named it"};
  return {
      {
          .name = "schedules list",
          .summary = "jobs by the clock, with their next and last runs",
          .details = "What the active catalog declares under `schedules`.",
          .flags = GatewayFlags({{"kind", "NAME", "only this kind of job"},
                                 {"queue", "NAME", "only this queue"},
                                 {"paused", "BOOL", "true or false"},
                                 limit,
                                 cursor}),
          .run = ListPage,
      },
      {
          .name = "schedules show",
          .summary = "one schedule with its next and its last runs",
          .details =
              "Next to each run stands what became of it: enqueued (and the state of its job), missed, overlap or "
              "refused.",
          .positionals = {"NAME"},
          .flags = GatewayFlags({}),
          .run = ShowOne,
      },
      {
          .name = "schedules next",
          .summary = "when a schedule runs next",
          .details = "In UTC, a line per run, with the clock changes of its zone taken into account.",
          .positionals = {"NAME"},
          .flags = GatewayFlags({{"count", "N", "1 to 100, default 10"}}),
          .examples = "mainstay schedules next nightly-report --count 3",
          .run = Next,
      },
      {
          .name = "schedules runs",
          .summary = "what became of fire times, newest first",
          .details = "One line per schedule and time, also for those that were missed or left out.",
          .flags = GatewayFlags({{"schedule", "NAME", "only this schedule"},
                                 {"outcome", "NAME", "enqueued missed overlap refused"},
                                 limit,
                                 cursor}),
          .examples = "mainstay schedules runs --outcome missed",
          .run = Runs,
      },
      {
          .name = "schedules pause",
          .summary = "start nothing by the clock until it is resumed",
          .details = "Survives deploys and new catalogs. Runs by hand stay possible.",
          .positionals = {"NAME"},
          .flags = GatewayFlags({{"reason", "TEXT", "why; required, for others will ask"}}),
          .examples = "mainstay schedules pause nightly-report --reason 'the warehouse is moving'",
          .run = [](const Arguments& arguments) { return Act(arguments, kSchedules, "pause"); },
      },
      {
          .name = "schedules resume",
          .summary = "go on after a pause, from now",
          .details = "What was due meanwhile is not made up for.",
          .positionals = {"NAME"},
          .flags = GatewayFlags({}),
          .run = [](const Arguments& arguments) { return Act(arguments, kSchedules, "resume"); },
      },
      {
          .name = "schedules run",
          .summary = "run it now, beside the clock",
          .details = "Prints the run with its job. Works while the schedule is paused.",
          .positionals = {"NAME"},
          .flags = GatewayFlags({}),
          .run = [](const Arguments& arguments) { return Act(arguments, kSchedules, "run"); },
      },
  };
}

}  // namespace mainstay::cli
