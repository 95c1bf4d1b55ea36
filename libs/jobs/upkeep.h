// SPDX-License-Identifier: Apache-2.0
// What keeps the queues in order, on one elected worker: due jobs, the backlog's top-up, lost entries, expired leases,
// partitions.
//
// Elected by a lease row; two at once (a stalled leader waking up) do no harm: every step is compare-and-set on the
// fence or idempotent. PostgreSQL away: rounds are skipped. Redis away: windows are closed, so that enqueue waits in
// the backlog, and workers claim from there. One thread of its own; a Redis connection of its own.
#pragma once

#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libs/jobs/engine.h"
#include "libs/jobs/in_hand.h"
#include "libs/jobs/scheduler.h"
#include "libs/postgres/lease.h"

namespace mainstay::jobs {

class Upkeep {
 public:
  Upkeep(const EngineOptions& options, const Uuid& worker, postgres::Pool& pool);
  ~Upkeep();
  void Start();
  void Stop();  // gives the lease up, so that another worker takes over at once
  bool leading() const;
  int64_t reissued() const { return reissued_; }

 private:
  using StreamId = std::pair<std::string, int>;
  struct Stream {
    bool paused = false;
    Uuid position;          // jobs up to here were looked at since the last look from the head
    absl::Time head_again;  // when to look from the head again
    bool backlog = true;    // may hold ready jobs
    bool open = false;      // the window, as last written
    absl::Time renewed;
  };

  void Run();
  absl::Status Lead();
  absl::Status RefreshStreams();
  absl::Status PromoteDue();
  // True when there is more to do at once.
  absl::StatusOr<bool> Dispatch();
  absl::Status CheckEpoch();
  absl::Status Sweep(absl::Duration age);
  absl::Status LooseKeys();
  absl::Status ReclaimPending();
  absl::Status ReclaimExpired();
  absl::Status History();
  absl::Status ForgetConsumers();
  absl::Status SetWindow(const StreamId& id, Stream& stream, bool open);
  void CloseWindows();
  // Raises fences and hands out; jobs that have used up their crashes are dead.
  absl::Status Reissue(const std::vector<std::pair<Uuid, int64_t>>& jobs, const std::vector<int>& crashes,
                       const std::vector<int>& suspicions);
  absl::Status Publish(const std::vector<Handout>& handouts);
  absl::Status Query(absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body);

  const EngineOptions options_;
  const Uuid worker_;
  postgres::Pool& pool_;
  postgres::Lease lease_;
  redis::Client redis_;
  Scheduler scheduler_;
  std::map<StreamId, Stream> streams_;
  std::string kinds_ = "{}";  // announced by live workers, as an array literal
  std::string epoch_, run_id_;
  uint64_t generation_ = 0;
  bool windows_closed_ = false;
  absl::Time full_sweep_at_ = absl::InfiniteFuture();
  absl::Time trouble_ =
      absl::InfinitePast();  // when PostgreSQL last failed us: leases are not judged until they could be renewed
  std::atomic<bool> leading_{false};
  std::atomic<int64_t> reissued_{0};
  absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

// XGROUP CREATE for all of them, from the first entry; those that exist already are fine.
absl::Status CreateGroups(redis::Client& redis, const std::vector<std::string>& streams);

}  // namespace mainstay::jobs
