// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>
#include <pqxx/pqxx>

#include "absl/strings/str_split.h"
#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/catalog/publish.h"
#include "libs/jobs/pauses.h"
#include "libs/jobs/store.h"
#include "libs/postgres/migrations.h"
#include "libs/redis/client.h"
#include "services/cli/all_migrations.h"
#include "services/cli/command.h"
#include "services/cli/database.h"
#include "services/cli/gateway.h"

namespace mainstay::cli {
namespace {

// Collects findings; one line each.
class Findings {
 public:
  void Good(std::string_view part, std::string_view text) { Print("ok", part, text); }
  void Note(std::string_view part, std::string_view text) { Print("--", part, text); }
  void Bad(std::string_view part, std::string_view text) {
    Print("BAD", part, text);
    ++bad_;
  }
  int bad() const { return bad_; }

 private:
  static void Print(std::string_view mark, std::string_view part, std::string_view text) {
    std::printf("%-4.*s %-22.*s %.*s\n", static_cast<int>(mark.size()), mark.data(), static_cast<int>(part.size()),
                part.data(), static_cast<int>(text.size()), text.data());
  }
  int bad_ = 0;
};

std::string Setting(const Arguments& arguments, std::string_view flag, const char* variable) {
  const auto value = arguments.FlagOrEnvironment(flag, variable);
  return value.ok() ? *value : "";
}

// Readiness as a service tells it: {"status":"ready", …, "dependencies":{"postgresql":"ok"}, "catalog":"…"}.
void CheckReadiness(const std::string& name, const std::string& url, const std::string& active, Findings& findings) {
  const auto answer = HttpGet(url, 2000);
  if (!answer.ok()) return findings.Bad(name, ToStd(answer.status().message()));
  if (answer->status != 200)
    return findings.Bad(name, StrCat("not ready (HTTP ", answer->status, "): ", answer->body.substr(0, 200)));
  const auto document = JsonDocument::Parse(answer->body);
  if (!document.ok()) return findings.Bad(name, "its readiness is not JSON");
  const JsonValue& root = document->root();
  bool degraded = false;
  if (const JsonValue* dependencies = root.Find("dependencies"); dependencies != nullptr && dependencies->is_object()) {
    for (const JsonValue::Member& member : dependencies->members()) {
      if (Text(*dependencies, member.key).find("degraded") == std::string::npos) continue;
      findings.Bad(name, StrCat(member.key, " is degraded"));
      degraded = true;
    }
  }
  const std::string hash = Text(root, "catalog");
  if (!active.empty() && !hash.empty() && hash != active)
    return findings.Bad(name, StrCat("runs catalog ", hash.substr(0, 12), ", active is ", active.substr(0, 12)));
  if (!degraded) findings.Good(name, hash.empty() ? "ready" : StrCat("ready, catalog ", hash.substr(0, 12)));
}

// Jobs that wait for somebody who is not there, and what is paused.
absl::Status CheckQueues(pqxx::transaction_base& tx, Findings& findings) {
  CallContext all;
  all.principal.tenant = std::string(kAllTenants);
  ASSIGN_OR_RETURN(const auto queues, jobs::ListQueues(tx, all));
  for (const jobs::QueueView& queue : queues) {
    const std::string part = StrCat("queue ", queue.name);
    const int64_t waiting = queue.blocked + queue.ready + queue.published;
    if (queue.workers == 0 && waiting > 0) {
      findings.Bad(part, StrCat(waiting, " jobs wait, and no live worker takes from it"));
      continue;
    }
    for (const auto& [kind, jobs] : queue.unserved)
      findings.Bad(part, StrCat(jobs, " jobs of ", kind, " wait, and no live worker has announced it"));
  }
  ASSIGN_OR_RETURN(const auto pauses, jobs::ListPauses(tx, all));
  for (const jobs::PauseView& pause : pauses)
    findings.Note(StrCat("paused ", pause.scope), StrCat(pause.name, ", by ", pause.author, ": ", pause.reason));
  return absl::OkStatus();
}

absl::Status Doctor(const Arguments& arguments) {
  Findings findings;
  std::string active;
  const std::string database = Setting(arguments, "database", "MAINSTAY_DATABASE_URL");
  if (database.empty()) {
    findings.Note("postgresql", "not asked: no --database");
  } else {
    const absl::Status schema = postgres::CheckSchema(database, AllMigrations());
    if (schema.ok()) {
      findings.Good("postgresql", "answers, schema is up to date");
    } else {
      findings.Bad("postgresql", ToStd(schema.message()));
    }
    const absl::Status status = InTransaction(arguments, [&](pqxx::transaction_base& tx) -> absl::Status {
      ASSIGN_OR_RETURN(active, catalog::ActiveHash(tx));
      ASSIGN_OR_RETURN(const catalog::Built built, catalog::LoadActive(tx));
      for (const auto& [name, resource] : built.model->resources)
        if (!resource.problem.empty()) findings.Bad(StrCat("resource ", name), resource.problem);
      return absl::OkStatus();
    });
    if (schema.ok()) {
      const absl::Status queues = InTransaction(
          arguments, [&](pqxx::transaction_base& tx) -> absl::Status { return CheckQueues(tx, findings); });
      if (!queues.ok()) findings.Bad("queues", ToStd(queues.message()));
    }
    if (status.ok()) {
      findings.Good("catalog", active);
    } else {
      findings.Bad("catalog", ToStd(status.message()));
    }
  }
  const std::string redis = Setting(arguments, "redis", "MAINSTAY_REDIS_URL");
  if (redis.empty()) {
    findings.Note("redis", "not asked: no --redis");
  } else {
    redis::ClientOptions options;
    options.url = redis;
    redis::Client client(std::move(options));
    const auto reply = client.Execute({"PING"});
    if (reply.ok() && reply->ok()) {
      findings.Good("redis", "answers");
    } else {
      findings.Bad("redis", reply.ok() ? std::string_view(reply->text) : ToStd(reply.status().message()));
    }
  }
  std::string url = Setting(arguments, "url", "MAINSTAY_URL");
  if (url.empty()) url = "http://127.0.0.1:8080";
  CheckReadiness("gateway (public)", StrCat(url, "/readyz"), active, findings);
  for (const absl::string_view pair :
       absl::StrSplit(Setting(arguments, "services", "MAINSTAY_SERVICES"), absl::ByAnyChar(" ,"), absl::SkipEmpty())) {
    const std::pair<std::string, std::string> part = absl::StrSplit(pair, absl::MaxSplits('=', 1));
    if (part.second.empty()) return absl::InvalidArgumentError(StrCat(pair, " is not of the form name=host:port"));
    CheckReadiness(part.first, StrCat("http://", part.second, "/readyz"), active, findings);
  }
  if (findings.bad() > 0) return absl::FailedPreconditionError(StrCat(findings.bad(), " of the above need attention"));
  return absl::OkStatus();
}

absl::Status Inspect(const Arguments& arguments) {
  static constexpr std::pair<std::string_view, std::string_view> kKinds[] = {
      {"job_", "jobs"}, {"evt_", "webhook-events"}, {"imp_", "imports"}, {"exp_", "exports"}, {"conn_", "connections"}};
  for (const auto& [prefix, collection] : kKinds) {
    if (arguments[0].compare(0, prefix.size(), prefix) != 0) continue;
    ASSIGN_OR_RETURN(const Gateway gateway, Gateway::FromArguments(arguments));
    ASSIGN_OR_RETURN(const std::string json,
                     gateway.Get(StrCat("/mainstay/v1/", collection, "/", PercentEncode(arguments[0]))));
    return Show(arguments, json);
  }
  return absl::InvalidArgumentError(
      StrCat(arguments[0], " is not an id of the suite (job_… evt_… imp_… exp_… conn_…)"));
}

}  // namespace

std::vector<Command> DoctorCommands() {
  return {
      {
          .name = "doctor",
          .summary = "is everything well? database, Redis, services, catalogs",
          .details = "A line per part: ok, BAD or -- (not asked). Exit status 1 when something is bad.",
          .flags = DatabaseFlags({{"redis", "URL", "Redis (or MAINSTAY_REDIS_URL)"},
                                  {"url", "URL", "the gateway (or MAINSTAY_URL; default http://127.0.0.1:8080)"},
                                  {"services", "LIST", "admin listeners, name=host:port,… (or MAINSTAY_SERVICES)"}}),
          .examples = ". .mainstay/env && mainstay doctor",
          .run = Doctor,
      },
      {
          .name = "inspect",
          .summary = "show one object of the suite by its id",
          .details = "A job, webhook event, import, export or connection: the id's prefix says which.",
          .positionals = {"ID"},
          .flags = GatewayFlags(),
          .examples = "mainstay inspect imp_01jc8z4v0m2k7x5c9q3b6t8w1e",
          .run = Inspect,
      },
  };
}

}  // namespace mainstay::cli
