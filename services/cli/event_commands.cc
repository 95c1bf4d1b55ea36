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

constexpr char kEvents[] = "/mainstay/v1/webhook-events";

absl::Status ListPage(const Arguments& arguments) {
  return List(arguments, kEvents, {"source", "state", "type"},
              {"id", "source", "type", "entity", "state", "received_at"});
}

absl::Status Get(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  ASSIGN_OR_RETURN(const std::string json, gateway.Get(StrCat(kEvents, "/", PercentEncode(arguments[0]))));
  return Show(arguments, json);
}

}  // namespace

std::vector<Command> EventCommands() {
  return {
      {
          .name = "events list",
          .summary = "webhook events that came in, newest first",
          .details = "Every authentic delivery is kept, also of types that no route takes.",
          .flags = GatewayFlags({{"source", "NAME", "only this source"},
                                 {"state", "NAME", "received processed stale unrouted invalid failed"},
                                 {"type", "NAME", "only this type"},
                                 {"limit", "N", "1 to 200, default 20"},
                                 {"cursor", "TEXT", "the next page, as the page before named it"}}),
          .examples = "mainstay events list --source payments --state failed",
          .run = ListPage,
      },
      {
          .name = "events get",
          .summary = "one event with its payload",
          .details = "Shows what was received and what became of it.",
          .positionals = {"ID"},
          .flags = GatewayFlags(),
          .run = Get,
      },
      {
          .name = "events replay",
          .summary = "process a stored event again",
          .details = "As a new job, under the catalog that is active now.",
          .positionals = {"ID"},
          .flags = GatewayFlags({{"reason", "TEXT", "why, for the record"}}),
          .examples = "mainstay events replay evt_01jc8z4v0m2k7x5c9q3b6t8w1e --reason 'route fixed'",
          .run = [](const Arguments& arguments) { return Act(arguments, kEvents, "replay"); },
      },
  };
}

}  // namespace mainstay::cli
