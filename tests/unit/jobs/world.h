// SPDX-License-Identifier: Apache-2.0
// What the tests of jobs share: a database, a Redis, a ledger outside the engine that handlers write to, and the
// questions asked of it at the end.
#pragma once

#include <catch2/catch.hpp>
#include <functional>
#include <memory>
#include <pqxx/pqxx>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/jobs/engine.h"
#include "libs/jobs/enqueue.h"
#include "libs/jobs/store.h"
#include "libs/jobs/upkeep.h"
#include "libs/postgres/pool.h"
#include "tests/support/environment.h"
#include "tests/support/postgres.h"
#include "tests/support/redis.h"
#include "tests/support/status.h"
#include "tests/support/subprocess.h"

namespace mainstay::jobs {

inline constexpr char kLedger[] =
    "CREATE TABLE ledger (n bigserial, job uuid, fence bigint, what text, at timestamptz DEFAULT clock_timestamp());"
    "CREATE TABLE effects (job uuid PRIMARY KEY, fence bigint);";

inline bool Eventually(const std::function<bool()>& condition, absl::Duration timeout = absl::Seconds(20)) {
  const absl::Time end = absl::Now() + timeout;
  while (!condition()) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return true;
}

// Short times, so that a test waits a second where production waits half a minute.
inline EngineOptions FastOptions(const std::string& redis_url) {
  EngineOptions o;
  o.name = "test";
  o.redis.url = redis_url;
  o.executors = 8;
  o.heartbeat = absl::Milliseconds(250);
  o.lease = absl::Milliseconds(1200);
  o.sweep = absl::Seconds(1);
  o.dispatch_interval = absl::Milliseconds(20);
  o.claim_stale = absl::Milliseconds(500);
  o.policy = [](std::string_view) {
    return QueuePolicy{
        .backoff = {.base = absl::Milliseconds(20), .cap = absl::Milliseconds(100), .floor = absl::Milliseconds(10)}};
  };
  return o;
}

class World {
 public:
  // With servers of its own where the test stops or empties them.
  explicit World(testing::Postgres* own_postgres = nullptr, testing::Redis* own_redis = nullptr)
      : redis(own_redis != nullptr ? *own_redis : testing::Redis::Shared()),
        url(own_postgres != nullptr ? own_postgres->NewMigratedDatabase() : testing::NewMigratedDatabase()),
        pool(EnginePool(url, "jobs-test")) {
    redis.Flush();
    testing::Sql(url, kLedger);
    context.principal = {.tenant = "acme", .subject = "user:1", .roles = {"staff"}};
    context.request_id = "req-1";
    handoff = std::make_unique<RedisHandoff>(redis::ClientOptions{.url = redis.url()}, pool);
  }

  // The usual handler: notes start and end, with the fence, in the ledger.
  void Note(const RunningJob& job, const char* what) {
    const absl::Status status =
        pool.Autocommit(absl::Now() + absl::Seconds(20), [&](pqxx::transaction_base& tx) -> absl::Status {
          tx.exec_params("INSERT INTO ledger (job, fence, what) VALUES ($1, $2, $3)", job.id().ToString(), job.fence(),
                         what);
          return absl::OkStatus();
        });
    (void)status;  // a database that is away loses a note; the tests that stop it count effects instead
  }

  std::vector<Enqueued> Add(const std::vector<JobSpec>& jobs) {
    std::vector<Enqueued> added;
    const absl::Status status =
        pool.Transaction(absl::Now() + absl::Seconds(20), [&](pqxx::transaction_base& tx) -> absl::Status {
          auto result = Enqueue(tx, context, jobs);
          if (!result.ok()) return result.status();
          added = *std::move(result);
          return absl::OkStatus();
        });
    REQUIRE_THAT(status, testing::IsOk());
    handoff->Publish(added);
    return added;
  }
  Uuid AddOne(JobSpec job) { return Add({std::move(job)})[0].id; }

  JobView Get(const Uuid& id) {
    std::optional<JobView> job;
    const absl::Status status =
        pool.Autocommit(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
          auto result = GetJob(tx, context, id);
          if (!result.ok()) return result.status();
          job = *std::move(result);
          return absl::OkStatus();
        });
    REQUIRE_THAT(status, testing::IsOk());
    return *job;
  }
  bool WaitFor(const Uuid& id, const std::string& state, absl::Duration timeout = absl::Seconds(20)) {
    return Eventually([&] { return Get(id).state == state; }, timeout);
  }
  // What a worker process needs of another: due jobs, backlog, leases.
  // `lease`: the workers', where theirs is another.
  void StartUpkeep(absl::Duration lease = absl::ZeroDuration()) {
    EngineOptions options = FastOptions(redis.url());
    if (lease > absl::ZeroDuration()) options.lease = lease;
    upkeep = std::make_unique<Upkeep>(options, NewUuid(), pool);
    upkeep->Start();
  }
  // jobs_test_worker with short times; `more` over them.
  testing::SpawnOptions Worker(const std::map<std::string, std::string>& more = {}) const {
    testing::SpawnOptions spawn{.argv = {testing::BinDir() + "/jobs_test_worker"}};
    spawn.environment = {
        {"MAINSTAY_DATABASE_URL", url},    {"MAINSTAY_REDIS_URL", redis.url()}, {"MAINSTAY_EXECUTORS", "8"},
        {"MAINSTAY_CHILDREN", "2"},        {"MAINSTAY_HEARTBEAT", "250ms"},     {"MAINSTAY_LEASE", "1200ms"},
        {"MAINSTAY_DRAIN_DEADLINE", "2s"}, {"MAINSTAY_BACKOFF_BASE", "50ms"},   {"MAINSTAY_BACKOFF_CAP", "200ms"}};
    for (const auto& [name, value] : more) spawn.environment[name] = value;
    return spawn;
  }
  int64_t Count(const std::string& sql) { return std::stoll(testing::SqlValue(url, sql)); }
  int64_t Finished(int state = 6) {
    return Count(absl::StrCat("SELECT count(*) FROM mainstay.jobs_history WHERE state = ", state));
  }

  testing::Redis& redis;
  const std::string url;
  postgres::Pool pool;
  CallContext context;
  std::unique_ptr<RedisHandoff> handoff;
  std::unique_ptr<Upkeep> upkeep;
};

inline constexpr char kWorkerReady[] = "the worker takes jobs";

}  // namespace mainstay::jobs
