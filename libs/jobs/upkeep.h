// SPDX-License-Identifier: Apache-2.0
// Leads: runs the parts of upkeep in turn on one elected worker.
//
// Elected by a lease row; two at once (a stalled leader waking up) do no harm: every step is compare-and-set on the
// fence or idempotent. PostgreSQL away: rounds are skipped. Redis away: windows are closed, so that enqueue waits in
// the backlog, and workers claim from there; a leader that alone does not reach Redis makes way. One thread of its own;
// a Redis connection of its own. Idle, it costs one statement and one round trip to Redis per dispatch interval.
#pragma once

#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libs/jobs/dispatcher.h"
#include "libs/jobs/history.h"
#include "libs/jobs/promoter.h"
#include "libs/jobs/reclaimer.h"
#include "libs/jobs/scheduler.h"
#include "libs/jobs/sweeper.h"
#include "libs/jobs/upkeep_context.h"
#include "libs/postgres/lease.h"
#include "prometheus/gauge.h"

namespace mainstay::jobs {

class Upkeep {
 public:
  Upkeep(const EngineOptions& options, const Uuid& worker, postgres::Pool& pool);
  ~Upkeep();
  void Start();
  void Stop();  // gives the lease up, so that another worker takes over at once
  bool leading() const { return leading_; }
  int64_t reissued() const { return context_.reissued; }

 private:
  // When a step is due again.
  struct Step {
    absl::Time at = absl::InfinitePast();
    bool Due(absl::Time now) const { return now >= at; }
  };

  void Run();
  absl::Status Lead(absl::Time now);
  // Whether to leave the lead to a worker that reaches Redis.
  absl::StatusOr<bool> MakesWay(absl::Time now);
  // One round of everything that is due; how long to wait afterwards.
  absl::Status Round(absl::Time now, absl::Duration* pause);

  const EngineOptions options_;
  UpkeepContext context_;
  postgres::Lease lease_;
  Dispatcher dispatcher_;
  Promoter promoter_;
  Sweeper sweeper_;
  Reclaimer reclaimer_;
  History history_;
  Scheduler scheduler_;
  prometheus::Gauge& held_up_;
  Step refresh_, peek_, limits_, loose_, reclaim_, minute_, purge_, consumers_;
  absl::Duration loose_took_;
  std::atomic<bool> leading_{false};
  absl::Time made_way_ = absl::InfinitePast(), away_since_ = absl::InfiniteFuture();
  absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace mainstay::jobs
