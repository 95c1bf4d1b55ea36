// SPDX-License-Identifier: Apache-2.0
// Waiting for jobs: one look for all who wait, whatever their number.
//
// Everybody who wants to know when a job changes leaves a function here; one thread asks PostgreSQL for the marks of
// all watched jobs in one statement per tick (20 ms while somebody came lately, 100 ms else, slower when the answer
// takes long). No LISTEN, so a transaction pooler may stand between; no thread and no connection per waiter. PostgreSQL
// away: nothing is seen until it is back, times run out as they should.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/base/ids.h"

namespace pqxx {
class transaction_base;
}
namespace mainstay::postgres {
class Pool;
}

namespace mainstay::jobs {

// Differs whenever the job's row does; the same for all finished jobs.
inline constexpr char kFinalMark[] = "final";
absl::StatusOr<std::string> MarkOf(pqxx::transaction_base& tx, const Uuid& id);

class Watcher {
 public:
  // `max_watches`: at once.
  Watcher(postgres::Pool& pool, int max_watches = 4000);
  ~Watcher();

  // Set by whoever watches when it has lost interest; the watch is then dropped at the next tick.
  using Gone = std::shared_ptr<std::atomic<bool>>;
  struct Watch {
    std::optional<Uuid> job;  // none: only the time
    std::string mark;         // as it was last seen
    bool only_final = false;  // other changes do not wake
    absl::Time until;         // wakes in any case (wall clock)
    Gone gone;
    std::function<void()> wake;  // once, on the watcher's thread: must not block
  };
  // `overloaded` when there are too many, or when it was stopped.
  absl::Status Add(Watch watch);
  // Wakes everybody at once and takes no more. Harmless twice.
  void Stop();
  int watches() const;

 private:
  void Run();
  postgres::Pool& pool_;
  const int max_watches_;
  mutable absl::Mutex mu_;
  std::list<Watch> watches_ ABSL_GUARDED_BY(mu_);
  absl::Time lively_until_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  bool fresh_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  absl::Mutex stop_mu_;
  std::thread thread_;
};

}  // namespace mainstay::jobs
