// SPDX-License-Identifier: Apache-2.0
// The elected worker's part in schedules: copies them from the catalog, and decides fire times as they come.
//
// Holds nothing that matters: killed between any two steps, the next leader goes on from the rows. Two at once do no
// harm, for each time is decided under the lock of its schedule's row and has a primary key of its own. Between fire
// times it asks PostgreSQL nothing but, every few seconds, whether another process moved them. A schedule that fails
// does not hold up the others. One thread.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "libs/jobs/enqueue.h"
#include "libs/jobs/schedules.h"

namespace mainstay::postgres {
class Pool;
}

namespace mainstay::jobs {

struct SchedulerOptions {
  // The catalog's; asked once a second. Empty: nothing is copied.
  std::function<DeclaredSchedules()> declared;
  // Told of the jobs after each commit; null: they wait for the sweep.
  Handoff* handoff = nullptr;
  // A fire time that is decided this late was missed: room for a change of leader.
  absl::Duration grace = absl::Seconds(30);
  // How long the rows of fire times are kept (the last ten of a schedule always).
  absl::Duration retention = absl::Hours(24 * 7);
  // Fire times per transaction.
  int batch = 500;
};

class Scheduler {
 public:
  Scheduler(SchedulerOptions options, postgres::Pool& pool) : options_(std::move(options)), pool_(pool) {}

  // Does what is due, usually nothing; to be called often while this worker leads. `now` only in tests: the clock is
  // PostgreSQL's. An error is the first one; everything else was done all the same.
  absl::Status Step(std::optional<absl::Time> now = std::nullopt);
  // This worker leads from now on: what it knew may be old.
  void Restart();
  // When Step has something to do again, on the clock of Mono(), unless the catalog changes before.
  absl::Time wake() const { return wake_; }

 private:
  absl::Status Sync(std::optional<absl::Time> now);
  absl::Status Fire(const std::string& name, std::optional<absl::Time> now);

  const SchedulerOptions options_;
  postgres::Pool& pool_;
  std::string synced_;  // the catalog whose schedules the rows are
  absl::Time asked_ = absl::InfinitePast(), wake_ = absl::InfinitePast(), pruned_ = absl::InfinitePast();
};

}  // namespace mainstay::jobs
