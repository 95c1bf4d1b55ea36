// SPDX-License-Identifier: Apache-2.0
// Single jobs of many callers in one statement and one commit: for enqueues that have no business change of their own.
//
// A caller returns once its job is committed, never before. Whoever finds no commit on its way makes the next one, with
// all that wait by then; there is no timer and no thread. What one job does wrong (a rejected unique key, arguments
// that are no JSON) is found by halving the batch and stays its own caller's error. PostgreSQL away: all that wait get
// the same error. A connection lost in the commit leaves it unknown whether the jobs exist; give a unique key to be
// able to try again. Thread-safe.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "libs/jobs/enqueue.h"

namespace mainstay::jobs {

struct MergingOptions {
  int batch = 500;               // jobs per commit
  size_t batch_bytes = 4 << 20;  // of arguments per commit; a larger one goes alone
  int waiting = 10000;           // jobs, beyond which callers are told `overloaded`
  size_t waiting_bytes = 64 << 20;
};

class MergingEnqueuer {
 public:
  // All outlive this; `sealer` may be null.
  MergingEnqueuer(postgres::Pool& pool, Handoff& handoff, const Sealer* sealer = nullptr, MergingOptions options = {});
  ~MergingEnqueuer();  // no caller may be inside
  // Until the call's deadline; past it the job may exist or not.
  absl::StatusOr<Enqueued> Enqueue(const CallContext& context, JobSpec job);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mainstay::jobs
