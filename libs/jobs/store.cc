// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/store.h"

#include "absl/strings/str_cat.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/jobs/in_hand.h"
#include "libs/jobs/letters.h"
#include "libs/jobs/sql.h"
#include "libs/postgres/errors.h"

namespace mainstay::jobs {
namespace {

std::string Text(const pqxx::field& field) {
  return field.is_null() ? std::string() : std::string(field.c_str(), field.size());
}

std::optional<absl::Time> Micros(const pqxx::field& field) {
  if (field.is_null()) return std::nullopt;
  return absl::FromUnixMicros(field.as<int64_t>());
}

absl::Status NoSuchJob() {
  return MakeProblem("not-found", "no such job");
}

// Runs `body` with libpqxx's exceptions turned into statuses.
template <typename F>
auto Guarded(F body) -> decltype(body()) {
  try {
    return body();
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

std::vector<Enqueued> ToPublish(const std::vector<Handout>& handouts, const std::vector<int64_t>& keys) {
  std::vector<Enqueued> out;
  for (const auto& h : handouts) out.push_back({.stream = h.stream, .entry = h.entry});
  for (const int64_t key : keys) out.push_back({.key = key});
  return out;
}

}  // namespace

absl::StatusOr<JobView> GetJob(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id) {
  ASSIGN_OR_RETURN(auto jobs, GetJobs(tx, context, {&id, 1}));
  if (jobs.empty()) return NoSuchJob();
  return std::move(jobs[0]);
}

absl::StatusOr<std::vector<JobView>> GetJobs(pqxx::transaction_base& tx, const CallContext& context,
                                             absl::Span<const Uuid> ids) {
  return Guarded([&]() -> absl::StatusOr<std::vector<JobView>> {
    PgArray array;
    for (const Uuid& id : ids) array.Add(id.ToString());
    std::vector<JobView> jobs;
    for (const auto& row : Run(tx, sql::kGet, std::move(array).Finish(), context.principal.tenant)) {
      JobView& job = jobs.emplace_back();
      int c = 0;
      ASSIGN_OR_RETURN(job.id, ParseUuid(row[c++].c_str()));
      job.tenant = Text(row[c++]);
      job.kind = Text(row[c++]);
      job.queue = Text(row[c++]);
      job.state = Text(row[c++]);
      job.priority = row[c++].as<int>();
      job.args = Text(row[c++]);
      if (!row[c].is_null()) job.result = Text(row[c]);
      ++c;
      job.attempt = row[c++].as<int>();
      job.max_attempts = row[c++].as<int>();
      job.crashes = row[c++].as<int>();
      job.max_crashes = row[c++].as<int>();
      job.snoozes = row[c++].as<int>();
      job.fence = row[c++].as<int64_t>();
      job.errors = Text(row[c++]);
      job.progress = Text(row[c++]);
      job.unique_key = Text(row[c++]);
      job.ordering_key = Text(row[c++]);
      job.tags = Text(row[c++]);
      job.run_at = Micros(row[c++]);
      job.deadline = Micros(row[c++]);
      job.created_at = Micros(row[c++]);
      job.started_at = Micros(row[c++]);
      job.finished_at = Micros(row[c++]);
      job.principal = Text(row[c++]);
      job.traceparent = Text(row[c++]);
      job.request_id = Text(row[c++]);
      job.catalog_hash = Text(row[c++]);
      job.worker = Text(row[c++]);
      job.version = row[c++].as<int>();
      job.concurrency_key = Text(row[c++]);
      if (!row[c].is_null()) job.concurrency_limit = row[c].as<int>();
    }
    return jobs;
  });
}

absl::StatusOr<std::vector<Enqueued>> CancelJob(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id,
                                                std::string_view reason) {
  return Guarded([&]() -> absl::StatusOr<std::vector<Enqueued>> {
    const pqxx::result rows = Run(tx, sql::kLockHot, id.ToString(), context.principal.tenant);
    if (rows.empty()) {
      ASSIGN_OR_RETURN(const JobView job, GetJob(tx, context, id));
      if (job.state == "cancelled") return std::vector<Enqueued>();
      return MakeProblem("rule-violation", absl::StrCat("the job is ", job.state, " and cannot be cancelled any more"));
    }
    CompleteArrays batch;
    batch.Add(
        id, rows[0][0].as<int64_t>(), kStateCancelled, nullptr, "cancelled",
        CleanText(reason.empty() ? absl::StrCat("cancelled by ", context.principal.subject)
                                 : absl::StrCat("cancelled by ", context.principal.subject, ": ", std::string(reason)),
                  2000),
        0, 0);
    std::vector<int64_t> freed;
    std::vector<Handout> handouts;
    if (Complete(tx, std::move(batch), nullptr, "api", &freed, &handouts) == 0) return NoSuchJob();
    return ToPublish(handouts, freed);
  });
}

absl::StatusOr<std::vector<Enqueued>> RetryJob(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id,
                                               std::string_view reason) {
  return Guarded([&]() -> absl::StatusOr<std::vector<Enqueued>> {
    ASSIGN_OR_RETURN(
        Revived revived,
        Revive(tx, {&id, 1},
               {.tenant = context.principal.tenant, .by = context.principal.subject, .reason = std::string(reason)}));
    if (!revived.taken.empty())
      return MakeProblem("unique-violation", "another job holds the unique key of this one now");
    if (!revived.ids.empty()) return std::move(revived.publish);
    ASSIGN_OR_RETURN(const JobView job, GetJob(tx, context, id));
    return MakeProblem("rule-violation", absl::StrCat("the job is ", job.state, "; only a dead job can be run again"));
  });
}

absl::StatusOr<std::vector<QueueView>> ListQueues(pqxx::transaction_base& tx, const CallContext& context,
                                                  const std::optional<std::string>& name) {
  return Guarded([&]() -> absl::StatusOr<std::vector<QueueView>> {
    std::vector<QueueView> queues;
    for (const auto& row : Run(tx, sql::kQueues, context.principal.tenant,
                               name.has_value() ? name->c_str() : static_cast<const char*>(nullptr))) {
      QueueView q;
      q.name = Text(row[0]);
      q.paused = row[1].as<bool>();
      if (q.paused) {
        q.paused_by = Text(row[2]);
        q.paused_reason = Text(row[3]);
      }
      q.scheduled = row[4].as<int64_t>();
      q.blocked = row[5].as<int64_t>();
      q.ready = row[6].as<int64_t>();
      q.published = row[7].as<int64_t>();
      q.running = row[8].as<int64_t>();
      if (!row[9].is_null()) q.oldest_age = absl::Seconds(std::max(0.0, row[9].as<double>()));
      q.workers = row[10].as<int>();
      queues.push_back(std::move(q));
    }
    for (const auto& row : Run(tx, sql::kUnserved, context.principal.tenant,
                               name.has_value() ? name->c_str() : static_cast<const char*>(nullptr))) {
      const auto queue =
          std::find_if(queues.begin(), queues.end(), [&](const QueueView& q) { return q.name == row[0].c_str(); });
      if (queue != queues.end()) queue->unserved.emplace_back(row[1].c_str(), row[2].as<int64_t>());
    }
    return queues;
  });
}

absl::Status PauseQueue(pqxx::transaction_base& tx, const CallContext& context, const std::string& name,
                        std::string_view reason) {
  return Guarded([&]() -> absl::Status {
    if (Run(tx, sql::kQueueExists, name).empty()) return MakeProblem("not-found", "no such queue");
    Run(tx, sql::kPause, NewUuid().ToString(), "queue", name, "*", context.principal.subject, CleanText(reason, 2000),
        static_cast<const char*>(nullptr));
    return absl::OkStatus();
  });
}

absl::Status ResumeQueue(pqxx::transaction_base& tx, const std::string& name) {
  return Guarded([&]() -> absl::Status {
    if (Run(tx, sql::kQueueExists, name).empty()) return MakeProblem("not-found", "no such queue");
    Run(tx, sql::kResume, "queue", name, "*");
    return absl::OkStatus();
  });
}

}  // namespace mainstay::jobs
