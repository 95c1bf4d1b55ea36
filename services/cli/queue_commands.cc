// SPDX-License-Identifier: Apache-2.0
// Who goes when: pauses of queues, kinds, tenants and ordering keys, and why a job waits.
#include <cstdio>

#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "services/cli/command.h"
#include "services/cli/gateway.h"

namespace mainstay::cli {
namespace {

constexpr char kPauses[] = "/mainstay/v1/job-pauses";

absl::Status Explain(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  ASSIGN_OR_RETURN(const std::string json,
                   gateway.Get(StrCat("/mainstay/v1/jobs/", PercentEncode(arguments[0]), ":explain")));
  if (arguments.Has("json")) {
    std::printf("%s\n", json.c_str());
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(json));
  std::printf("%s\n", Text(document.root(), "state").c_str());
  if (const JsonValue* reasons = document.root().Find("reasons"); reasons != nullptr && reasons->is_array()) {
    for (const JsonValue& reason : reasons->items())
      std::printf("  %-17s  %s\n", Text(reason, "code").c_str(), Text(reason, "detail").c_str());
  }
  return absl::OkStatus();
}

absl::Status ActOnQueue(const Arguments& arguments, const char* action) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  std::string body;
  JsonWriter writer(body);
  writer.BeginObject();
  if (arguments.Has("reason")) writer.Key("reason").String(arguments.Get("reason"));
  writer.EndObject();
  ASSIGN_OR_RETURN(const std::string json,
                   gateway.Post(StrCat("/mainstay/v1/queues/", PercentEncode(arguments[0]), ":", action), body));
  return Show(arguments, json);
}

absl::Status AddPause(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  std::string body;
  JsonWriter writer(body);
  writer.BeginObject().Key("scope").String(arguments[0]).Key("name").String(arguments[1]);
  writer.Key("reason").String(arguments.Get("reason"));
  if (arguments.Has("tenant")) writer.Key("tenant").String(arguments.Get("tenant"));
  if (arguments.Has("until")) writer.Key("ends_at").String(arguments.Get("until"));
  writer.EndObject();
  ASSIGN_OR_RETURN(const std::string json, gateway.Post(kPauses, body));
  return Show(arguments, json);
}

absl::Status ListPauses(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  ASSIGN_OR_RETURN(const std::string json, gateway.Get(kPauses));
  if (!arguments.Has("json"))
    return PrintTable(json, {"id", "scope", "name", "tenant", "author", "reason", "created_at", "ends_at"});
  std::printf("%s\n", json.c_str());
  return absl::OkStatus();
}

absl::Status EndPause(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  return gateway.Delete(StrCat(kPauses, "/", PercentEncode(arguments[0])));
}

}  // namespace

std::vector<Command> QueueCommands() {
  return {
      {
          .name = "jobs explain",
          .summary = "why does a job wait?",
          .details = "Everything that holds it up, in the order in which it would have to go away.",
          .positionals = {"ID"},
          .flags = GatewayFlags(),
          .examples = "mainstay jobs explain job_01jc8z4v0m2k7x5c9q3b6t8w1e",
          .run = Explain,
      },
      {
          .name = "queues pause",
          .summary = "start nothing of a queue any more",
          .details = "Jobs are still taken, running ones finish. Survives deploys; ends with queues resume.",
          .positionals = {"NAME"},
          .flags = GatewayFlags({{"reason", "TEXT", "why, for others who ask"}}),
          .examples = "mainstay queues pause mail --reason 'the provider is down'",
          .run = [](const Arguments& arguments) { return ActOnQueue(arguments, "pause"); },
      },
      {
          .name = "queues resume",
          .summary = "let a paused queue go on",
          .details = "It goes on where it stood.",
          .positionals = {"NAME"},
          .flags = GatewayFlags(),
          .run = [](const Arguments& arguments) { return ActOnQueue(arguments, "resume"); },
      },
      {
          .name = "pauses add",
          .summary = "pause a queue, kind, tenant or ordering key",
          .details = "Nothing of it starts until the pause ends. A pause of the same thing is replaced.",
          .positionals = {"SCOPE", "NAME"},
          .flags = GatewayFlags({{"reason", "TEXT", "why, for others who ask"},
                                 {"until", "TIME", "ends by itself: 2026-11-25T08:00:00Z"},
                                 {"tenant", "NAME", "whose ordering key, for callers of all tenants"}}),
          .examples = "mainstay pauses add kind mail.send --reason 'wrong template' --until 2026-11-25T08:00:00Z",
          .run = AddPause,
      },
      {
          .name = "pauses list",
          .summary = "what is paused, by whom and why",
          .details = "Oldest first.",
          .flags = GatewayFlags(),
          .run = ListPauses,
      },
      {
          .name = "pauses end",
          .summary = "end a pause: what waited goes on",
          .details = "See pauses list for its id.",
          .positionals = {"ID"},
          .flags = GatewayFlags(),
          .run = EndPause,
      },
  };
}

}  // namespace mainstay::cli
