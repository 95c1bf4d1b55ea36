// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "services/cli/command.h"
#include "services/cli/gateway.h"

namespace mainstay::cli {
namespace {

constexpr char kJobs[] = "/mainstay/v1/jobs";

absl::Status ListPage(const Arguments& arguments) {
  std::string more;
  for (const auto& [flag, parameter] :
       std::initializer_list<std::pair<const char*, const char*>>{{"tag", "filter[tags][has]"},
                                                                  {"ordering-key", "filter[ordering_key]"},
                                                                  {"unique-key", "filter[unique_key]"},
                                                                  {"since", "filter[created_at][gte]"},
                                                                  {"until", "filter[created_at][lt]"}}) {
    if (arguments.Has(flag)) StrAppend(&more, "&", parameter, "=", PercentEncode(arguments.Get(flag)));
  }
  return List(arguments, kJobs, {"state", "kind", "queue", "fingerprint"},
              {"id", "kind", "queue", "state", "attempt", "created_at"}, more);
}

absl::Status Get(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  std::string path = StrCat(kJobs, "/", PercentEncode(arguments[0]));
  if (arguments.Has("wait")) StrAppend(&path, "?wait=", PercentEncode(arguments.Get("wait")));
  ASSIGN_OR_RETURN(const std::string json, gateway.Get(path));
  return Show(arguments, json);
}

absl::Status Enqueue(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  std::string body;
  JsonWriter writer(body);
  writer.BeginObject().Key("kind").String(arguments[0]);
  if (arguments.Has("args")) {
    const std::string args = arguments.Get("args");
    RETURN_IF_ERROR(JsonDocument::Parse(args).status());
    writer.Key("args").Raw(args);
  }
  for (const auto& [flag, field] : std::initializer_list<std::pair<const char*, const char*>>{
           {"queue", "queue"}, {"unique-key", "unique_key"}, {"ordering-key", "ordering_key"}, {"delay", "delay"}}) {
    if (arguments.Has(flag)) writer.Key(field).String(arguments.Get(flag));
  }
  if (arguments.Has("priority")) {
    const std::string priority = arguments.Get("priority");
    if (priority.size() != 1 || priority[0] < '0' || priority[0] > '9')
      return absl::InvalidArgumentError("--priority is between 0 (first) and 9 (last)");
    writer.Key("priority").Int(priority[0] - '0');
  }
  writer.EndObject();
  ASSIGN_OR_RETURN(const std::string json, gateway.Post(kJobs, body));
  return Show(arguments, json);
}

absl::Status Act(const Arguments& arguments, std::string_view action) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  std::string body = "{}";
  if (arguments.Has("reason")) body = StrCat("{\"reason\":", JsonQuote(arguments.Get("reason")), "}");
  ASSIGN_OR_RETURN(const std::string json,
                   gateway.Post(StrCat(kJobs, "/", PercentEncode(arguments[0]), ":", action), body));
  return Show(arguments, json);
}

}  // namespace

std::vector<Command> JobCommands() {
  const Flag reason = {"reason", "TEXT", "why, for the record"};
  return {
      {
          .name = "jobs list",
          .summary = "background jobs, newest first",
          .details = "With the rights of the API key: a tenant's key sees that tenant's jobs.",
          .flags = GatewayFlags(
              {{"state", "NAME", "scheduled blocked ready published running succeeded discarded cancelled dead"},
               {"kind", "NAME", "only this kind"},
               {"queue", "NAME", "only this queue"},
               {"tag", "TEXT", "only with this tag"},
               {"ordering-key", "TEXT", "only of this key"},
               {"unique-key", "TEXT", "only of this key"},
               {"fingerprint", "HEX", "only with this error, see jobs fingerprints"},
               {"since", "TIME", "created at or after: 2026-11-24T08:00:00Z"},
               {"until", "TIME", "created before"},
               {"limit", "N", "1 to 200, default 20"},
               {"cursor", "TEXT", "the next page, as the page before named it"}}),
          .examples = "mainstay jobs list --state dead --queue mail\nmainstay jobs list --kind mail.send --since "
                      "2026-11-24T08:00:00Z",
          .run = ListPage,
      },
      {
          .name = "jobs get",
          .summary = "one job with its attempts, errors and result",
          .details = "With --wait it answers as soon as the job has ended, or after that time.",
          .positionals = {"ID"},
          .flags = GatewayFlags({{"wait", "TIME", "up to 60s"}}),
          .examples = "mainstay jobs get job_01jc8z4v0m2k7x5c9q3b6t8w1e --wait 30s",
          .run = Get,
      },
      {
          .name = "jobs enqueue",
          .summary = "add a job",
          .details = "Prints the job. It is durable when this returns.",
          .positionals = {"KIND"},
          .flags = GatewayFlags({{"args", "JSON", "its arguments"},
                                 {"queue", "NAME", "default: default"},
                                 {"priority", "N", "0 (first) to 9 (last)"},
                                 {"delay", "TIME", "not before: 90s"},
                                 {"unique-key", "TEXT", "at most one unfinished job of this kind and key"},
                                 {"ordering-key", "TEXT", "jobs of one key run one after another"}}),
          .examples = "mainstay jobs enqueue mainstay.echo --args '{\"hello\":\"world\"}'",
          .run = Enqueue,
      },
      {
          .name = "jobs cancel",
          .summary = "end a job that has not finished",
          .details = "A running one is asked to stop; nothing it writes afterwards counts.",
          .positionals = {"ID"},
          .flags = GatewayFlags({reason}),
          .run = [](const Arguments& arguments) { return Act(arguments, "cancel"); },
      },
      {
          .name = "jobs retry",
          .summary = "run a dead job again",
          .details = "With fresh budgets for errors and crashes.",
          .positionals = {"ID"},
          .flags = GatewayFlags({reason}),
          .run = [](const Arguments& arguments) { return Act(arguments, "retry"); },
      },
  };
}

}  // namespace mainstay::cli
