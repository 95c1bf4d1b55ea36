// SPDX-License-Identifier: Apache-2.0
// Faults under load, and the judge of what came of it.
//
// A stage has a PostgreSQL and a Redis of its own, each behind a line that can be broken for the workers alone; worker
// processes; producers that commit jobs of every sort; and three tables outside the engine: `committed` (written by the
// producers in the jobs' own transactions), `ledger` (each start and end) and `effects` (in the finishing
// transactions). Random instants come from a seed that every failure prints; MAINSTAY_TEST_SEED repeats one.
#pragma once

#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "tests/support/proxy.h"
#include "tests/unit/jobs/world.h"

namespace mainstay::jobs {

// Of a worker.
std::set<int> ChildrenOf(pid_t pid);

// One, or 100 with --long.
std::vector<uint64_t> Seeds();

struct Mix {
  int batch = 20;      // jobs per transaction, at most
  int ms = 10;         // that a job takes, at most
  int keyed = 10;      // percent of the jobs, in 8 keys
  bool unique = true;  // a tenth with keys that collide now and then
  bool undone = true;  // a tenth of the transactions rolls back
  int pause_ms = 30;   // between two transactions of a producer
  const char* kind = "test.work";
};

class Stage {
 public:
  explicit Stage(uint64_t seed, const std::vector<std::string>& postgres_settings = {});
  ~Stage();

  // On its own lines to the servers when `lines`: those break for it alone.
  struct Worker {
    std::unique_ptr<testing::Proxy> postgres, redis;
    std::unique_ptr<testing::Subprocess> process;
    void Signal(int signal);  // to the worker and its children
    // Ended and reaped.
    void Kill();
  };
  Worker& StartWorker(const std::map<std::string, std::string>& more = {}, bool lines = false);
  // SIGTERM to all; each must end with 0.
  void StopWorkers();

  // Producers, until StopLoad or `jobs` are committed (0: no end).
  void StartLoad(const Mix& mix = {}, int64_t jobs = 0, int producers = 2);
  void StopLoad();
  void WaitForLoad();  // until `jobs` are committed
  // Waits until so many jobs more have ended.
  void WaitForProgress(int64_t jobs);

  // One of its children, with SIGKILL, if it has any.
  void KillChild(Worker& worker);

  int64_t Between(int64_t low, int64_t high);
  void SleepBetween(int64_t low_ms, int64_t high_ms);

  // After the faults: waits until all is final, then asks. Lost, ghosts, two holders of a fence, double effects, breaks
  // of order, leaks of keys, slots, entries, consumers and processes: all 0. Every job succeeded. Prints what was run
  // again.
  struct Allowed {
    absl::Duration within = absl::Seconds(90);
    // PostgreSQL forgot commits: what it forgot may have run, may run again beside the first under the same fence, and
    // out of its key's order.
    bool forgotten = false;
  };
  void Judge(const char* fault) { Judge(fault, Allowed()); }
  void Judge(const char* fault, const Allowed& allowed);
  // Jobs that were begun more than once.
  int64_t BegunAgain();

  World& w() { return *world_; }
  testing::Postgres& postgres() { return *postgres_; }
  testing::Redis& redis() { return *redis_; }

 private:
  void Produce(int producer, const Mix& mix, int64_t jobs);
  std::unique_ptr<testing::Postgres> postgres_;
  std::unique_ptr<testing::Redis> redis_;
  std::unique_ptr<World> world_;
  const uint64_t seed_;
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::thread> producers_;
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> committed_{0};
  absl::Time quiet_ = absl::Now();
};

}  // namespace mainstay::jobs
