// SPDX-License-Identifier: Apache-2.0
// Jobs that wait for other jobs.
#include <fstream>
#include <iostream>
#include <iterator>

#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "services/cli/command.h"
#include "services/cli/gateway.h"

namespace mainstay::cli {
namespace {

constexpr char kFlows[] = "/mainstay/v1/flows";

std::string PathOf(const Arguments& arguments) {
  return StrCat(kFlows, "/", PercentEncode(arguments[0]));
}

absl::Status Create(const Arguments& arguments) {
  std::string body;
  if (arguments[0].empty() || arguments[0] == "-") {
    body.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else {
    std::ifstream in(arguments[0], std::ios::binary);
    if (!in) return absl::NotFoundError(StrCat("cannot read ", arguments[0]));
    body.assign(std::istreambuf_iterator<char>(in), {});
  }
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  ASSIGN_OR_RETURN(const std::string json, gateway.Post(kFlows, body));
  return Show(arguments, json);
}

absl::Status ListPage(const Arguments& arguments) {
  std::string more;
  if (arguments.Has("open")) more += "&filter[finished_at][is_null]=true";
  if (arguments.Has("dead")) more += "&filter[dead][gt]=0";
  return List(arguments, kFlows, {"label"},
              {"id", "label", "total", "waiting", "open", "succeeded", "dead", "created_at", "finished_at"}, more);
}

absl::Status ShowOne(const Arguments& arguments) {
  ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
  ASSIGN_OR_RETURN(const std::string json, gateway.Get(PathOf(arguments)));
  return Show(arguments, json);
}

absl::Status Members(const Arguments& arguments) {
  return List(arguments, StrCat(PathOf(arguments), "/jobs"), {"state", "name"},
              {"id", "name", "kind", "state", "runs_on", "needs_total", "needs_succeeded", "finished_at"});
}

}  // namespace

std::vector<Command> FlowCommands() {
  const Flag limit = {"limit", "N", "1 to 200, default 20"},
             cursor = {"cursor", "TEXT", "the next page, as the page before named it"},
             reason = {"reason", "TEXT", "why, for the record"};
  return {
      {
          .name = "flows create",
          .summary = "add jobs that wait for one another, all or none",
          .details =
              "Reads FILE, or stdin: {\"label\": …, \"jobs\": [{\"name\": …, \"needs\": [NAME…], \"runs_on\": "
              "\"succeeded\", \"job\": {\"kind\": …}}…]}.\nA job waits for those that it names; they stand before it, "
              "\"*\" names all of them. It starts when all succeeded, when all are done, or with the first that "
              "failed (runs_on: succeeded, done, failed). Up to 10,000 jobs.",
          .positionals = {"[FILE]"},
          .flags = GatewayFlags({}),
          .examples = "echo '{\"jobs\":[{\"job\":{\"kind\":\"page.render\"}},{\"needs\":[\"*\"],\"job\":{\"kind\":"
                      "\"book.bind\"}}]}' | mainstay flows create",
          .run = Create,
      },
      {
          .name = "flows list",
          .summary = "flows, newest first, with how many jobs are how far",
          .details = "With the rights of the API key: a tenant's key sees that tenant's flows.",
          .flags = GatewayFlags({{"label", "TEXT", "only with this label"},
                                 {"open", "", "only those that are not finished"},
                                 {"dead", "", "only those with dead jobs"},
                                 limit,
                                 cursor}),
          .run = ListPage,
      },
      {
          .name = "flows get",
          .summary = "one flow with the number of its jobs in each state",
          .details = "`waiting` jobs wait for others of the flow, `open` ones are neither waiting nor final.",
          .positionals = {"ID"},
          .flags = GatewayFlags({}),
          .run = ShowOne,
      },
      {
          .name = "flows jobs",
          .summary = "the jobs of a flow, in the order they were added",
          .details = "Of a job that waits: for how many, and how many of those have succeeded.",
          .positionals = {"ID"},
          .flags = GatewayFlags({{"state", "NAME", "scheduled blocked ready … succeeded discarded cancelled dead"},
                                 {"name", "TEXT", "only this name"},
                                 limit,
                                 cursor}),
          .examples = "mainstay flows jobs flow_01jc8z4v0m2k7x5c9q3b6t8w1e --state dead",
          .run = Members,
      },
      {
          .name = "flows cancel",
          .summary = "end every job of a flow that has not finished",
          .details = "Those that waited never start.",
          .positionals = {"ID"},
          .flags = GatewayFlags({reason}),
          .run = [](const Arguments& arguments) { return Act(arguments, kFlows, "cancel"); },
      },
      {
          .name = "flows retry",
          .summary = "run a flow's dead jobs again",
          .details = "With fresh budgets. Whoever waits for them waits on; what has started does not start again.",
          .positionals = {"ID"},
          .flags = GatewayFlags({reason}),
          .run = [](const Arguments& arguments) { return Act(arguments, kFlows, "retry"); },
      },
  };
}

}  // namespace mainstay::cli
