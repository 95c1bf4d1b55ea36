// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/pauses.h"

#include <cmath>
#include <pqxx/pqxx>

#include "absl/strings/str_cat.h"
#include "libs/base/clock.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/jobs/in_hand.h"
#include "libs/postgres/errors.h"

namespace mainstay::jobs {
namespace {

constexpr int kCounted = 1000;

std::string Text(const pqxx::field& field) {
  return field.is_null() ? std::string() : std::string(field.c_str());
}

absl::Time TimeOf(const pqxx::field& micros) {
  return absl::FromUnixMicros(micros.as<int64_t>());
}

absl::StatusOr<PauseView> View(const pqxx::row& row) {
  PauseView pause;
  ASSIGN_OR_RETURN(pause.id, ParseUuid(row[0].c_str()));
  pause.scope = Text(row[1]);
  pause.name = Text(row[2]);
  pause.tenant = Text(row[3]);
  pause.author = Text(row[4]);
  pause.reason = Text(row[5]);
  pause.created_at = TimeOf(row[6]);
  if (!row[7].is_null()) pause.ends_at = TimeOf(row[7]);
  return pause;
}

std::string Number(int64_t n) {
  return n >= kCounted ? absl::StrCat("more than ", kCounted - 1) : absl::StrCat(n);
}

std::string Seconds(double seconds) {
  return absl::FormatDuration(absl::Seconds(std::llround(seconds)));
}

}  // namespace

absl::StatusOr<PauseView> AddPause(pqxx::transaction_base& tx, const CallContext& context, const PauseSpec& spec) {
  std::vector<FieldError> errors;
  if (spec.scope != "queue" && spec.scope != "kind" && spec.scope != "tenant" && spec.scope != "key")
    errors.push_back({.name = "/scope", .code = "invalid", .detail = "one of queue, kind, tenant, key"});
  if (spec.name.empty() || spec.name.size() > 512)
    errors.push_back({.name = "/name", .code = "required", .detail = "what to pause, at most 512 bytes"});
  if (spec.reason.empty())
    errors.push_back({.name = "/reason", .code = "required", .detail = "say why: others will ask"});
  const bool all = context.principal.tenant == "*";
  std::string tenant = "*";
  if (spec.scope == "key") {
    tenant = spec.tenant.empty() ? context.principal.tenant : spec.tenant;
    if (tenant == "*")
      errors.push_back({.name = "/tenant", .code = "required", .detail = "an ordering key belongs to a tenant"});
  }
  if (!errors.empty()) {
    const std::string detail = errors[0].name + ": " + errors[0].detail;
    return MakeProblem("validation-failed", detail, std::move(errors));
  }
  if (!all && ((spec.scope == "tenant" && spec.name != context.principal.tenant) ||
               (spec.scope == "key" && tenant != context.principal.tenant)))
    return MakeProblem("not-found", "no such tenant");
  try {
    if (spec.scope == "queue" && Run(tx, sql::kQueueExists, spec.name).empty())
      return MakeProblem("not-found", "no such queue");
    const std::string end = spec.ends_at.has_value() ? FormatTimestamp(*spec.ends_at) : "";
    const pqxx::result rows =
        Run(tx, sql::kPause, NewUuid().ToString(), spec.scope, spec.name, tenant, context.principal.subject,
            CleanText(spec.reason, 2000), end.empty() ? nullptr : end.c_str());
    const pqxx::result pause = Run(tx, sql::kPauseById, rows[0][0].c_str());
    if (pause.empty())
      return MakeProblem("validation-failed", "ends_at: lies in the past",
                         {{.name = "/ends_at", .code = "out_of_range", .detail = "lies in the past"}});
    return View(pause[0]);
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

absl::StatusOr<std::vector<PauseView>> ListPauses(pqxx::transaction_base& tx, const CallContext& context) {
  try {
    std::vector<PauseView> pauses;
    for (const auto& row : Run(tx, sql::kListPauses, context.principal.tenant)) {
      ASSIGN_OR_RETURN(PauseView pause, View(row));
      pauses.push_back(std::move(pause));
    }
    return pauses;
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

absl::Status EndPause(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id) {
  try {
    if (Run(tx, sql::kEndPause, id.ToString(), context.principal.tenant).empty())
      return MakeProblem("not-found", "no such pause; it may have ended");
    return absl::OkStatus();
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

absl::StatusOr<Explanation> Explain(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id) {
  try {
    const std::string job = id.ToString();
    const pqxx::result rows = Run(tx, sql::kExplain, job, context.principal.tenant, kCounted);
    if (rows.empty()) {
      const pqxx::result finished = Run(tx, sql::kExplainFinished, job, context.principal.tenant);
      if (finished.empty()) return MakeProblem("not-found", "no such job");
      return Explanation{.state = finished[0][0].c_str(),
                         .reasons = {{"finished", absl::StrCat("it ended ", Text(finished[0][1]))}}};
    }
    const pqxx::row row = rows[0];
    Explanation out{.state = row["state"].c_str()};
    auto say = [&out](const char* code, std::string detail) { out.reasons.push_back({code, std::move(detail)}); };
    const std::string queue = Text(row["queue"]), route = Text(row["route"]);
    if (out.state == "running") {
      say("running", absl::StrCat("worker ", Text(row["worker"]), " runs it"));
      return out;
    }
    if (!row["due"].is_null()) {
      const double due = row["due"].as<double>();
      const std::string when = due > 0 ? absl::StrCat("in ", Seconds(due)) : "now, and will be released shortly";
      if (row["attempt"].as<int>() > 0) {
        say("retry", absl::StrCat("attempt ", row["attempt"].as<int>(), " failed; the next one is due ", when));
      } else if (row["snoozes"].as<int>() > 0) {
        say("snoozed", absl::StrCat("its handler put it off; it is due ", when));
      } else {
        say("scheduled", absl::StrCat("it is due ", when));
      }
    }
    for (const auto& pause : Run(tx, sql::kExplainPauses, job)) {
      say("paused", absl::StrCat("the ", pause[0].c_str(), " ", pause[1].c_str(), " was paused by ", pause[2].c_str(),
                                 " at ", FormatTimestamp(TimeOf(pause[4])),
                                 pause[5].is_null() ? "" : absl::StrCat(" until ", FormatTimestamp(TimeOf(pause[5]))),
                                 ": ", pause[3].c_str()));
    }
    // The keys of a job that waits for others become its own when it is released.
    const bool waits = !row["needs"].is_null();
    if (waits) say("flow", absl::StrCat("it waits for ", row["needs"].as<int64_t>(), " other jobs of its flow"));
    const bool keyed = !waits && !row["ordering_key"].is_null(), holds = row["holds_key"].as<bool>();
    if (keyed && !holds) {
      const std::string holder =
          row["key_holder"].is_null()
              ? ""
              : absl::StrCat("; ", FormatId("job", *ParseUuid(row["key_holder"].c_str())), " has its turn");
      say("ordering_key", absl::StrCat(Number(row["key_ahead"].as<int64_t>()), " jobs of the ordering key ",
                                       row["ordering_key"].c_str(), " come before it", holder));
    }
    const bool limited = !waits && !row["concurrency_key"].is_null() && !row["holds_slot"].as<bool>();
    if (limited) {
      say("concurrency_key",
          absl::StrCat(row["slots"].as<int64_t>(), " of ", row["concurrency_limit"].as<int>(),
                       " jobs of the concurrency key ", row["concurrency_key"].c_str(), " are on their way; ",
                       Number(row["slots_ahead"].as<int64_t>()), " wait before it"));
    }
    if (row["workers"].as<int>() == 0) {
      say("no_worker", absl::StrCat("no live worker takes jobs from the queue ", queue));
    } else if (row["announced"].as<int>() == 0) {
      say("no_handler", absl::StrCat("no live worker of the queue ", queue, " has announced ", route));
    }
    if (out.state == "published") {
      say("handed_out",
          absl::StrCat("it was handed out ", Seconds(row["published"].is_null() ? 0 : row["published"].as<double>()),
                       " ago and waits for a worker's hands, or has just been started"));
      return out;
    }
    if (row["concurrency"].as<int>() > 0 && row["queue_slots"].as<int64_t>() >= row["concurrency"].as<int>()) {
      say("queue_concurrency", absl::StrCat("the queue ", queue, " lets ", row["concurrency"].as<int>(),
                                            " jobs run at once, and as many are on their way"));
    }
    if (row["rate"].as<double>() > 0 || row["tenant_rate"].as<double>() > 0) {
      say("rate_limit",
          absl::StrCat("the queue ", queue, " hands out at most ",
                       row["rate"].as<double>() > 0 ? absl::StrCat(row["rate"].as<double>(), " jobs per second") : "",
                       row["rate"].as<double>() > 0 && row["tenant_rate"].as<double>() > 0 ? ", and " : "",
                       row["tenant_rate"].as<double>() > 0
                           ? absl::StrCat(row["tenant_rate"].as<double>(), " per second of a tenant")
                           : ""));
    }
    if (out.state == "ready") {
      say("backlog", absl::StrCat(Number(row["ahead"].as<int64_t>()),
                                  " jobs of its tenant with the same priority come before it"));
    }
    return out;
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

}  // namespace mainstay::jobs
