// SPDX-License-Identifier: Apache-2.0
// Flows: jobs that wait for other jobs. Fan out, and go on when all are done, all succeeded, or one failed.
//
// The truth is a row per member and a row of counters per waiting job, changed in the very transaction that finishes a
// member: whichever end the members meet, and however many at once, one of them is the last, and the waiting job starts
// once. What a crash or a lock left is released by the elected worker's next round. Functions take the caller's
// transaction; any thread.
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
#include "libs/jobs/letters.h"

namespace mainstay::jobs {

// What a job waits for. kSucceeded: for ever, as long as one of them is dead and may be redriven; when one can never
// succeed any more (cancelled, discarded, purged) the waiting job is discarded. kFailed: for the first that is dead,
// cancelled or discarded; discarded itself when all succeed.
enum class RunsOn { kDone = 1, kSucceeded = 2, kFailed = 3 };

struct FlowJob {
  JobSpec job;                     // a unique key that is taken is a refusal here
  std::string name;                // unique in its flow; only needed when others wait for it
  std::vector<std::string> needs;  // names of jobs that stand before it or are in the flow already; "*": all before it
  RunsOn runs_on = RunsOn::kSucceeded;
};

struct Flow {
  Uuid id;
  std::vector<Enqueued> jobs;  // in order; for Handoff::Publish after the commit
};

// Adds jobs that wait for one another, all or none: at most 10,000, and 100,000 dependencies. Refusals name the field
// ("/jobs/3/needs/0"); roll back after one.
absl::StatusOr<Flow> EnqueueFlow(pqxx::transaction_base& tx, const CallContext& context, std::string_view label,
                                 absl::Span<const FlowJob> jobs, const Sealer* sealer = nullptr);

// More jobs for the flow of `parent`, a member that is not finished (usually the caller itself, running). Whoever waits
// for the parent waits for them too. To add them once although the parent may run again, finish it in the same
// transaction (RunningJob::FinishIn) or give them unique keys.
absl::StatusOr<Flow> AddToFlow(pqxx::transaction_base& tx, const CallContext& context, const Uuid& parent,
                               absl::Span<const FlowJob> jobs, const Sealer* sealer = nullptr);

struct FlowView {
  Uuid id;
  std::string tenant, label, created_by;
  absl::Time created_at;
  std::optional<absl::Time> finished_at;  // of the last job; none while one is not final
  // `waiting`: for others; `open`: not final otherwise, and of those:
  int total = 0, waiting = 0, open = 0, succeeded = 0, discarded = 0, cancelled = 0, dead = 0;
  int scheduled = 0, blocked = 0, ready = 0, published = 0, running = 0;
};
// Another tenant's flow is not-found.
absl::StatusOr<FlowView> GetFlow(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id);
// Cancels every job of the flow that is not final. What comes back is for Handoff::Publish after the commit.
absl::StatusOr<std::vector<Enqueued>> CancelFlow(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id,
                                                 std::string_view reason);
// Its dead jobs run again with fresh budgets, and are waited for again by whoever has not started.
absl::StatusOr<Revived> RetryFlow(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id,
                                  std::string_view reason);

// The elected worker's round: releases what was locked when its turn came, discards what waits in vain. Safe with two.
absl::Status SettleFlows(postgres::Pool& pool);
// Forgets flows whose last job finished so long ago.
absl::Status ForgetFlows(postgres::Pool& pool, absl::Duration retention);

}  // namespace mainstay::jobs
