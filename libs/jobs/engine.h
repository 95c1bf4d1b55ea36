// SPDX-License-Identifier: Apache-2.0
// A worker: reads entries, checks them against their rows, runs handlers, stores results, and (on one elected worker)
// keeps the queues in order.
//
// The row decides everything; Redis only says sooner what may run. A slow, live job can run twice (its lease looked
// lost), but only the holder of the newest fence can change anything. Redis away: jobs are claimed from PostgreSQL in
// batches. PostgreSQL away: nothing new is started, results wait in bounded memory, nothing is acknowledged before it
// is stored. Handlers run in its runners (runner.h): children of this worker, threads, other programs. Threads of its
// own: one reads and checks, one stores results, one stores progress, one renews leases, one does the upkeep. States
// and protocol: README.md.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "libs/base/ids.h"
#include "libs/jobs/backoff.h"
#include "libs/jobs/handler.h"
#include "libs/jobs/schedules.h"
#include "libs/jobs/shares.h"
#include "libs/redis/client.h"

namespace mainstay::postgres {
class Pool;
struct PoolOptions;
}  // namespace mainstay::postgres

namespace mainstay::jobs {

struct QueuePolicy {
  BackoffPolicy backoff;
  // Soft: the handler sees cancelled(). Hard: the job is taken from it and counted as an error.
  absl::Duration soft_limit = absl::Minutes(30), hard_limit = absl::Minutes(35);
};

struct QueueSettings {
  std::string name;
  int priority = 4;
  bool weighted = false;  // its jobs' priorities are shares of what the queue gets, not an order (shares.h)
  int max_attempts = 20, max_crashes = 3;
  int weight = 1;       // among queues of the same priority
  int concurrency = 0;  // over all workers; 0: any
  // Handed out per second, of the queue and of each of its tenants; 0: any.
  double rate = 0, tenant_rate = 0;
  std::optional<absl::Duration> retention;  // of finished jobs; default: the engine's
};

class Runner;
class Sealer;

// What an engine needs of its pool: pinned plans, and no statement that waits long for a row that somebody holds.
postgres::PoolOptions EnginePool(std::string url, std::string application_name);

struct EngineOptions {
  std::string name;  // for people: "host:pid"
  redis::ClientOptions redis;
  // Opens sensitive arguments for handlers; null: such jobs fail here, and are tried again. Outlives the engine.
  const Sealer* sealer = nullptr;
  Uuid worker = NewUuid();  // its id in rows and streams
  // Handlers at work at once on threads, 1 or more: only for an engine that is given a registry.
  int executors = 16;
  // Entries per read, and the most jobs in hand (waiting, running, finished but not stored).
  int read_batch = 500, max_in_hand = 4000;
  // Results per completing statement.
  int store_batch = 500;
  // Lease renewal, cancellation and "this job lasts" are looked at once per heartbeat; the lease must be at least twice
  // as long.
  absl::Duration heartbeat = absl::Seconds(5), lease = absl::Seconds(15);
  // How often published jobs are compared with the streams, and how old they must be.
  absl::Duration sweep = absl::Seconds(30);
  absl::Duration dispatch_interval = absl::Milliseconds(100);
  // While Redis is away: published jobs older than this are claimed from PostgreSQL.
  absl::Duration claim_stale = absl::Seconds(2);
  // Live entries per stream: at most; and, however slow its workers are, at least. Between the two it follows their
  // rate.
  int window = 20000, window_floor = 500;
  absl::Duration retention = absl::Hours(24 * 7);
  // What lower priorities keep.
  SharesOptions shares;
  // Queues this worker takes jobs from; empty: all.
  std::vector<std::string> takes;
  // false: this worker never stands for election (tests).
  bool upkeep = true;
  // Called for each failed run and each start; empty: defaults.
  std::function<QueuePolicy(std::string_view queue)> policy;
  // The catalog's queues; asked by the elected worker now and then. Empty: queues are left as they are.
  std::function<std::vector<QueueSettings>()> queues;
  // The catalog's schedules, for the elected worker. Empty: they are left as they are.
  std::function<DeclaredSchedules()> schedules;
  // Told of the jobs that schedules start; null: those wait for the sweep. Outlives the engine.
  Handoff* handoff = nullptr;
};
// All mistakes at once.
absl::Status Validate(const EngineOptions& options);

struct EngineStats {
  int64_t succeeded = 0, retried = 0, dead = 0, fenced = 0, claimed = 0, reissued = 0;
  int waiting = 0, running = 0, unstored = 0;
  bool leading = false, redis_down = false;
};

class Engine {
 public:
  // `pool` must pin plans; at least 4 connections beside what handlers use. It outlives this.
  Engine(EngineOptions options, std::vector<std::shared_ptr<Runner>> runners, postgres::Pool& pool);
  // Handlers on threads of this process (threads.h), as a worker with an id of its own. `registry` is constant from now
  // on and outlives this.
  Engine(EngineOptions options, const Registry& registry, postgres::Pool& pool);
  ~Engine();  // Drain with no time, when it was not drained

  // Announces the worker and starts to take jobs. Fails only when PostgreSQL is away: a worker must be known before it
  // holds a lease.
  absl::Status Start();
  // Stops reading, lets running jobs finish within `deadline`, cancels the rest and hands it back under a raised fence
  // and at no cost. Harmless twice or before Start. false: a handler's thread in this process did not return; the
  // process should end without waiting for it.
  bool Drain(absl::Duration deadline);

  const Uuid& id() const;
  EngineStats stats() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace mainstay::jobs
