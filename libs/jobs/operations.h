// SPDX-License-Identifier: Apache-2.0
// Redrive, purge and mass cancel: something done to every job that a filter matches, as a job of the engine itself.
//
// The row in mainstay.job_operations is the checkpoint: a step (at most 500 jobs) and its position and counters commit
// together, under the row's lock, so a crash or deploy between steps loses nothing and repeats nothing, and a holder
// that was only slow makes no step after its successor's first. Only jobs that were there when it began are touched, so
// a redriven job that dies again is not redriven by the same operation. What a filter means is the caller's: this
// library knows no query language.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/ids.h"
#include "libs/base/principal.h"
#include "libs/jobs/enqueue.h"
#include "libs/jobs/handler.h"

namespace mainstay::jobs {

inline constexpr char kOperationKind[] = "mainstay.operation";
inline constexpr double kDefaultRedriveRate = 200;
inline constexpr int kOpenOperations = 10;  // per tenant at once

struct OperationSpec {
  std::string kind;    // "redrive", "purge", "cancel"
  std::string filter;  // JSON, checked by the caller
  std::string reason;
  std::optional<double> rate;               // jobs per second
  std::optional<double> max_failure_share;  // redrive only
  int failure_window = 100;
  std::string catalog_hash;
};

struct Operation {
  Uuid id;
  std::string tenant, kind, state, filter, author, reason;
  std::vector<std::string> roles;
  std::optional<double> rate, max_failure_share;
  int failure_window = 100;
  Uuid job;
  int64_t fence = 0;
  std::optional<Uuid> position;
  std::optional<int64_t> total;
  int64_t done = 0, skipped = 0, failed_again = 0;
  std::vector<Uuid> watched;
  std::vector<bool> outcomes;  // true: failed again
  absl::Time created_at;
  bool started = false;
  // Acts as its author.
  CallContext context() const;
};

// The row and the job that executes it, in the caller's transaction; `publish` gets what goes to Handoff::Publish.
// rule-violation when too many are open.
absl::StatusOr<Uuid> CreateOperation(pqxx::transaction_base& tx, const CallContext& context, const OperationSpec& spec,
                                     std::vector<Enqueued>* publish);
// It makes no further step. rule-violation when it has ended.
absl::Status CancelOperation(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id);
// A new job goes on from the row's position, with a clean slate of outcomes. rule-violation while somebody works on it,
// or when there is nothing left to do.
absl::Status ResumeOperation(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id,
                             std::vector<Enqueued>* publish);

// What a filter matches among the jobs an operation applies to (redrive: dead, finished before it was created; purge:
// finished before it; cancel: unfinished, created before it).
class OperationTargets {
 public:
  virtual ~OperationTargets() = default;
  // Ids in their order, after operation.position, up to `end` if given, at most `limit`.
  virtual absl::StatusOr<std::vector<Uuid>> Select(pqxx::transaction_base& tx, const Operation& operation,
                                                   const std::optional<Uuid>& end, int limit) = 0;
  // At most `cap`.
  virtual absl::StatusOr<int64_t> Count(pqxx::transaction_base& tx, const Operation& operation, int64_t cap) = 0;
};

// The handler's work: steps at the operation's rate until it has ended, or for `slice`, then the job is snoozed, so
// that long operations share the executors with everything else.
struct OperationRun {
  postgres::Pool& pool;
  Handoff& handoff;
  OperationTargets& targets;
  absl::Duration slice = absl::Seconds(10);
  int batch = 500;
  // Ids looked at in a step that cannot use an index of its own (purge, cancel).
  int stride = 20000;
};
Outcome RunOperation(RunningJob& job, const OperationRun& run);

}  // namespace mainstay::jobs
