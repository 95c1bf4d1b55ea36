// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/letters.h"

#include <pqxx/pqxx>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "libs/base/clock.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/text.h"
#include "libs/jobs/flow_sql.h"
#include "libs/jobs/in_hand.h"
#include "libs/jobs/store.h"
#include "libs/postgres/errors.h"

namespace mainstay::jobs {
namespace {

constexpr size_t kMaxReason = 2000;

std::string Ids(absl::Span<const Uuid> ids) {
  PgArray array;
  for (const Uuid& id : ids) array.Add(id.ToString());
  return std::move(array).Finish();
}

absl::Time Micros(const pqxx::field& field) {
  return absl::FromUnixMicros(field.as<int64_t>());
}

}  // namespace

absl::StatusOr<Revived> Revive(pqxx::transaction_base& tx, absl::Span<const Uuid> ids, const ReviveRequest& request) {
  try {
    Revived out;
    const std::string before =
        request.finished_before == absl::InfiniteFuture() ? "infinity" : FormatTimestamp(request.finished_before);
    std::vector<Uuid> dead;
    std::vector<std::pair<std::string, Uuid>> unique;  // hash, job
    for (const auto& row : Run(tx, sql::kLockDead, Ids(ids), request.tenant, before)) {
      ASSIGN_OR_RETURN(const Uuid id, ParseUuid(row[0].c_str()));
      if (row[1].is_null()) {
        dead.push_back(id);
      } else {
        unique.emplace_back(row[1].c_str(), id);
      }
    }
    if (!unique.empty()) {
      // A key ended with its job's state, so another job may hold it by now; of two dead ones the first gets it.
      PgArray hashes, jobs;
      absl::flat_hash_set<std::string> asked;
      for (const auto& [hash, id] : unique) {
        if (!asked.insert(hash).second) continue;
        hashes.Add(hash);
        jobs.Add(id.ToString());
      }
      absl::flat_hash_set<std::string> won;
      for (const auto& row : Run(tx, sql::kTakeUnique, std::move(hashes).Finish(), std::move(jobs).Finish()))
        won.insert(row[1].c_str());
      for (const auto& [hash, id] : unique) (won.contains(id.ToString()) ? dead : out.taken).push_back(id);
    }
    if (dead.empty()) return out;
    const std::string reason = CleanText(request.reason, kMaxReason);
    for (const auto& row : Run(tx, sql::kRevive, Ids(dead), request.by, reason,
                               request.operation.empty() ? nullptr : request.operation.c_str())) {
      Entry entry;
      Handout handout = ReadHandout(row, &entry);
      out.ids.push_back(entry.id);
      if (row[7].as<int>() == kStatePublished) {
        out.publish.push_back({.stream = std::move(handout.stream), .entry = std::move(handout.entry)});
      } else if (!row[8].is_null()) {
        out.publish.push_back({.key = row[8].as<int64_t>()});
      }
    }
    Run(tx, sql::kReviveFlowJobs, Ids(dead));
    return out;
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

absl::StatusOr<std::vector<Enqueued>> EditArgs(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id,
                                               std::string_view args, std::string_view reason) {
  if (args.size() > kMaxArgs) {
    return MakeProblem("validation-failed", absl::StrCat("args: has ", args.size(), " bytes, the limit is ", kMaxArgs),
                       {{.name = "/args",
                         .code = "too_long",
                         .detail = absl::StrCat("has ", args.size(), " bytes, the limit is ", kMaxArgs)}});
  }
  try {
    const std::string text(args), why = CleanText(reason, kMaxReason);
    const pqxx::result rows =
        Run(tx, sql::kEditHot, id.ToString(), context.principal.tenant, text, context.principal.subject, why);
    if (!rows.empty()) {
      Handout handout = ReadHandout(rows[0]);
      Run(tx, sql::kCutRuns, rows[0][8].c_str());
      if (!rows[0][7].as<bool>()) return std::vector<Enqueued>();
      // It was handed out: its entry is stale now, so it is handed out anew.
      return std::vector<Enqueued>{{.stream = std::move(handout.stream), .entry = std::move(handout.entry)}};
    }
    if (!Run(tx, sql::kEditDead, id.ToString(), context.principal.tenant, text, context.principal.subject, why).empty())
      return std::vector<Enqueued>();
    ASSIGN_OR_RETURN(const JobView job, GetJob(tx, context, id));
    if (job.state == "dead" || !(job.final() || job.state == "running")) {
      return MakeProblem("rule-violation",
                         "the job's arguments are sensitive and cannot be edited; cancel it and add another");
    }
    return MakeProblem("rule-violation", absl::StrCat("the job is ", job.state,
                                                      "; arguments can be edited while it waits or when it is dead"));
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

absl::Status DeleteJob(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id) {
  try {
    if (!Run(tx, sql::kDeleteFinished, id.ToString(), context.principal.tenant).empty()) return absl::OkStatus();
    ASSIGN_OR_RETURN(const JobView job, GetJob(tx, context, id));
    return MakeProblem("rule-violation",
                       absl::StrCat("the job is ", job.state, "; only a finished job can be deleted, cancel it first"));
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

absl::StatusOr<std::vector<FingerprintView>> ListFingerprints(pqxx::transaction_base& tx, const CallContext& context,
                                                              const FingerprintQuery& query) {
  try {
    std::vector<FingerprintView> out;
    const std::string since = query.since.has_value() ? FormatTimestamp(*query.since) : "-infinity";
    for (const auto& row :
         Run(tx, sql::kFingerprints, context.principal.tenant, query.queue, query.kind, since, query.limit)) {
      FingerprintView view;
      view.fingerprint = row[0].c_str();
      view.kind = row[1].c_str();
      view.queue = row[2].c_str();
      view.count = row[3].as<int64_t>();
      view.first_seen = Micros(row[4]);
      view.last_seen = Micros(row[5]);
      if (!row[6].is_null()) view.code = row[6].c_str();
      if (!row[7].is_null()) view.message = row[7].c_str();
      ASSIGN_OR_RETURN(view.job, ParseUuid(row[8].c_str()));
      out.push_back(std::move(view));
    }
    return out;
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

}  // namespace mainstay::jobs
