// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
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

// "unique-key" is the option, "unique_key" the field of the API.
std::string FieldOf(std::string flag) {
  std::replace(flag.begin(), flag.end(), '-', '_');
  return flag;
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
  for (const char* flag : {"queue", "run-at", "delay", "deadline", "unique-key", "unique-scope", "unique-for",
                           "unique-bucket", "on-conflict", "ordering-key", "concurrency-key", "soft-limit",
                           "hard-limit", "retention", "traceparent", "tenant"}) {
    if (arguments.Has(flag)) writer.Key(FieldOf(flag)).String(arguments.Get(flag));
  }
  for (const char* flag : {"priority", "max-attempts", "concurrency-limit", "version"}) {
    if (!arguments.Has(flag)) continue;
    int number = 0;
    if (!absl::SimpleAtoi(arguments.Get(flag), &number))
      return absl::InvalidArgumentError(StrCat("--", flag, " is a whole number"));
    writer.Key(FieldOf(flag)).Int(number);
  }
  for (const char* flag : {"unique-keep", "sensitive"}) {
    if (arguments.Has(flag)) writer.Key(FieldOf(flag)).Bool(true);
  }
  if (const auto tags = arguments.All("tag"); !tags.empty()) {
    writer.Key("tags").BeginArray();
    for (const auto& tag : tags) writer.String(tag);
    writer.EndArray();
  }
  if (arguments.Has("backoff") || arguments.Has("backoff-base") || arguments.Has("backoff-cap")) {
    writer.Key("backoff").BeginObject();
    if (arguments.Has("backoff")) writer.Key("kind").String(arguments.Get("backoff"));
    if (arguments.Has("backoff-base")) writer.Key("base").String(arguments.Get("backoff-base"));
    if (arguments.Has("backoff-cap")) writer.Key("cap").String(arguments.Get("backoff-cap"));
    writer.EndObject();
  }
  writer.EndObject();
  ASSIGN_OR_RETURN(const std::string json, gateway.Post(kJobs, body));
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
                                 {"run-at", "TIME", "not before: 2026-12-24T18:00:00Z"},
                                 {"delay", "DURATION", "not before: 90s"},
                                 {"deadline", "TIME", "dropped when not started by then"},
                                 {"unique-key", "TEXT", "at most one job of this key"},
                                 {"unique-scope", "WHAT", "kind (default), queue or tenant: among whose jobs"},
                                 {"unique-for", "DURATION", "the key is held for at most so long"},
                                 {"unique-bucket", "UNIT", "or until the next minute, hour, day, week or month (UTC)"},
                                 {"unique-keep", "", "for the whole of that time, also when the job ends before"},
                                 {"on-conflict", "WHAT", "when the key is taken: ignore (default), replace or reject"},
                                 {"ordering-key", "TEXT", "jobs of one key run one after another"},
                                 {"concurrency-key", "TEXT", "so many jobs of this key run at once:"},
                                 {"concurrency-limit", "N", "1 or more"},
                                 {"max-attempts", "N", "default: the queue's"},
                                 {"backoff", "KIND", "exponential or fixed"},
                                 {"backoff-base", "DURATION", "the first delay"},
                                 {"backoff-cap", "DURATION", "the longest delay"},
                                 {"soft-limit", "DURATION", "told to stop after"},
                                 {"hard-limit", "DURATION", "taken away after"},
                                 {"retention", "DURATION", "how long the finished job is kept"},
                                 {"tag", "TEXT", "a tag", /*repeated=*/true},
                                 {"version", "N", "of the kind"},
                                 {"sensitive", "", "the arguments are encrypted and never shown"},
                                 {"traceparent", "TEXT", "W3C: the trace it belongs to"},
                                 {"tenant", "NAME", "whose job; only for keys that see all tenants"}}),
          .examples = "mainstay jobs enqueue mainstay.echo --args '{\"hello\":\"world\"}'",
          .run = Enqueue,
      },
      {
          .name = "jobs cancel",
          .summary = "end a job that has not finished",
          .details = "A running one is asked to stop; nothing it writes afterwards counts.",
          .positionals = {"ID"},
          .flags = GatewayFlags({reason}),
          .run = [](const Arguments& arguments) { return Act(arguments, kJobs, "cancel"); },
      },
      {
          .name = "jobs retry",
          .summary = "run a dead job again",
          .details = "With fresh budgets for errors and crashes.",
          .positionals = {"ID"},
          .flags = GatewayFlags({reason}),
          .run = [](const Arguments& arguments) { return Act(arguments, kJobs, "retry"); },
      },
  };
}

}  // namespace mainstay::cli
