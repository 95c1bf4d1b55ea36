// SPDX-License-Identifier: Apache-2.0
// What queues do: runs per queue and kind, counted in a worker's memory and written once per heartbeat, so that a job
// costs no write for being counted.
//
// Workers add to shared rows of ten seconds (mainstay.job_stats); an hour is kept. A worker that is killed loses what
// it counted since its last heartbeat, and a flush whose answer was lost may count twice: these are figures for people,
// the jobs themselves are the truth. The same counts are this process's Prometheus metrics.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace pqxx {
class transaction_base;
}
namespace mainstay::postgres {
class Pool;
}

namespace mainstay::jobs {

// How a run ended, for figures.
enum class RunOutcome { kSucceeded, kFailed, kDead, kDiscarded, kSnoozed };
inline constexpr int kRunOutcomes = 5;
std::string_view RunOutcomeName(RunOutcome outcome);  // "succeeded"

// Upper bounds in seconds; a last bucket takes what is longer. Rows hold the counts by position: a change spoils the
// figures of the hour around the upgrade.
inline constexpr std::array<double, 20> kLatencyBounds = {
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21600};
inline constexpr size_t kLatencyBuckets = kLatencyBounds.size() + 1;

struct LatencyHistogram {
  std::array<int64_t, kLatencyBuckets> counts{};
  double seconds = 0;  // all together
  void Add(absl::Duration value);
  void Add(const LatencyHistogram& other);
  int64_t count() const;
  // Within its bucket by straight line; nullopt when nothing was counted. `q` from 0 to 1.
  std::optional<double> Quantile(double q) const;
};

class StatsAccumulator {
 public:
  StatsAccumulator();
  ~StatsAccumulator();
  // One run. `queued_for`: from when it could run (its creation, its run_at, its retry) to its start; less than nothing
  // (clocks differ) counts as nothing. Thread-safe, no I/O, a lock held for a few additions.
  void Add(std::string_view queue, std::string_view kind, RunOutcome outcome, absl::Duration queued_for,
           absl::Duration ran_for);
  // Writes what was added since the last time: one statement, none when there is nothing. When it fails the counts stay
  // for the next time. Called by one thread.
  absl::Status Flush(postgres::Pool& pool, absl::Time deadline);

 private:
  struct Metrics;
  struct Cell {
    std::array<int64_t, kRunOutcomes> outcomes{};
    LatencyHistogram queued, ran;
    std::shared_ptr<Metrics> metrics;
  };
  using Key = std::pair<std::string, std::string>;
  absl::Mutex mu_;
  absl::flat_hash_map<Key, Cell> cells_ ABSL_GUARDED_BY(mu_);
  absl::Time purged_;  // of the flushing thread
};

// Runs of a span of time, added up.
struct RunFigures {
  double seconds = 0;  // how long the span is: the last slot is not over yet
  std::array<int64_t, kRunOutcomes> outcomes{};
  LatencyHistogram queued, ran;
  void Add(const RunFigures& other);
  int64_t runs() const;
};
struct QueueFigures {
  std::string queue, kind;  // kind: empty when its kinds are added up
  RunFigures minute, five_minutes, quarter;
};
// Of all queues that ran something in the last quarter of an hour, or of one. Whatever the tenant: runs are not counted
// by tenant.
absl::StatusOr<std::vector<QueueFigures>> ReadFigures(pqxx::transaction_base& tx,
                                                      const std::optional<std::string>& queue, bool by_kind);

}  // namespace mainstay::jobs
