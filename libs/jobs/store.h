// SPDX-License-Identifier: Apache-2.0
// Jobs and queues as their operators see them: look at one, cancel, run a dead one again, pause. The engine is not
// involved: everything here is rows and fences.
//
// Changes happen in the caller's transaction; what they return goes to Handoff::Publish after its commit.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "libs/base/ids.h"
#include "libs/base/principal.h"
#include "libs/jobs/enqueue.h"

namespace mainstay::jobs {

struct JobView {
  Uuid id;
  std::string tenant, kind, queue, state;  // "succeeded"
  int priority = 4;
  std::string args;
  std::optional<std::string> result;
  int attempt = 0, max_attempts = 0, crashes = 0, max_crashes = 0, snoozes = 0;
  int64_t fence = 0;
  std::string errors, progress, tags;  // JSON; empty when none
  std::string unique_key, ordering_key;
  std::optional<absl::Time> run_at, deadline, created_at, started_at, finished_at;
  std::string principal, traceparent, request_id, catalog_hash, worker;
  int version = 0;
  std::string concurrency_key;
  std::optional<int> concurrency_limit;
  bool final() const { return finished_at.has_value(); }
};

// Another tenant's job is not-found.
absl::StatusOr<JobView> GetJob(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id);
// Those that are there, in any order, with one statement.
absl::StatusOr<std::vector<JobView>> GetJobs(pqxx::transaction_base& tx, const CallContext& context,
                                             absl::Span<const Uuid> ids);
// A job that is not final becomes `cancelled`; a handler that runs it is fenced and told within a heartbeat. Cancelling
// a cancelled job is fine; another final state is rule-violation.
absl::StatusOr<std::vector<Enqueued>> CancelJob(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id,
                                                std::string_view reason);
// A dead job runs again with fresh budgets. rule-violation in any other state, unique-violation when its unique key was
// taken meanwhile.
absl::StatusOr<std::vector<Enqueued>> RetryJob(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id,
                                               std::string_view reason);

struct QueueView {
  std::string name;
  bool paused = false;
  std::string paused_by, paused_reason;
  int64_t scheduled = 0, blocked = 0, ready = 0, published = 0, running = 0;
  std::optional<absl::Duration> oldest_age;
  int workers = 0;  // live ones that take from it
  // Routes of waiting jobs that none of them has announced, and how many wait.
  std::vector<std::pair<std::string, int64_t>> unserved;
};
// Counts are of the caller's tenant. With `name` only that one.
absl::StatusOr<std::vector<QueueView>> ListQueues(pqxx::transaction_base& tx, const CallContext& context,
                                                  const std::optional<std::string>& name = std::nullopt);
// Nothing of the queue starts any more; enqueue goes on, running jobs finish. Stays until it is resumed.
absl::Status PauseQueue(pqxx::transaction_base& tx, const CallContext& context, const std::string& name,
                        std::string_view reason);
absl::Status ResumeQueue(pqxx::transaction_base& tx, const std::string& name);

}  // namespace mainstay::jobs
