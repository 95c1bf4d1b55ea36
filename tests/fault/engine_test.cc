// SPDX-License-Identifier: Apache-2.0
// The engine in bad weather, with real servers that are emptied, stopped and killed, and a worker process that is
// killed. The ledger and the effects table stand outside the engine.
#include "libs/jobs/engine.h"

#include <signal.h>

#include <atomic>
#include <thread>

#include "tests/support/environment.h"
#include "tests/support/subprocess.h"
#include "tests/unit/jobs/world.h"

namespace mainstay::jobs {
namespace {

using testing::IsOk;
using testing::Sql;
using testing::SqlValue;

// A job that takes a moment (at most 50 ms here) and has one effect, under its fence.
void RegisterWork(Registry& registry, World& w) {
  registry.Register("test.work", [&w](RunningJob& job) {
    absl::SleepFor(absl::Milliseconds(std::min(50, std::atoi(std::string(job.args()).c_str()))));
    return Outcome::FromStatus(
        w.pool.Transaction(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
          tx.exec_params("INSERT INTO effects (job, fence) VALUES ($1, $2)", job.id().ToString(), job.fence());
          return job.FinishIn(tx, Outcome::Done());
        }));
  });
}

// Lost 0, double effects 0, nothing leaked.
void CheckAllDone(World& w, int64_t jobs, absl::Duration within = absl::Seconds(30)) {
  if (!Eventually([&] { return w.Count("SELECT count(*) FROM mainstay.jobs") == 0; }, within)) {
    for (const auto& row : Sql(w.url, "SELECT row_to_json(j)::text FROM mainstay.jobs j LIMIT 3"))
      UNSCOPED_INFO(row[0]);
    UNSCOPED_INFO(w.redis.Command({"XPENDING", "mainstay:jobs:{default}:4", "workers"})
                  << " pending, length " << w.redis.Command({"XLEN", "mainstay:jobs:{default}:4"}));
    FAIL(w.Count("SELECT count(*) FROM mainstay.jobs") << " jobs are not final");
  }
  CHECK(w.Finished() == jobs);
  CHECK(w.Count("SELECT count(*) FROM effects") == jobs);
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs_history h JOIN effects e ON e.job = h.id AND e.fence = h.fence") ==
        jobs);
  CHECK(w.Count("SELECT count(*) FROM mainstay.job_slots") == 0);
  CHECK(w.Count("SELECT count(*) FROM mainstay.job_unique") == 0);
}

std::vector<JobSpec> Work(int n, int ms, bool keyed = false) {
  std::vector<JobSpec> jobs;
  for (int i = 0; i < n; ++i)
    jobs.push_back({.kind = "test.work",
                    .args = absl::StrCat(ms),
                    .unique_key = i % 10 == 0 ? NewUuid().ToString() : "",
                    .ordering_key = keyed ? absl::StrCat("k", i % 40) : ""});
  return jobs;
}

TEST_CASE("F11: Redis emptied in the middle of 2000 jobs: none lost, one effect each, soon back") {
  const auto redis = testing::Redis::StartOwn();
  World w(nullptr, redis.get());
  Registry registry;
  RegisterWork(registry, w);
  Engine engine(FastOptions(redis->url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  REQUIRE(Eventually([&] { return engine.stats().leading; }));
  absl::SleepFor(absl::Milliseconds(300));
  w.Add(Work(1800, 3));
  w.Add(Work(200, 3, /*keyed=*/true));
  REQUIRE(Eventually([&] { return w.Finished() > 300; }));
  redis->Command({"FLUSHALL"});
  CheckAllDone(w, 2000);
}

TEST_CASE("F18: Redis killed: work goes on from PostgreSQL, and through the streams again once it is back") {
  const auto redis = testing::Redis::StartOwn();
  World w(nullptr, redis.get());
  Registry registry;
  RegisterWork(registry, w);
  Engine engine(FastOptions(redis->url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  w.Add(Work(300, 2));
  REQUIRE(Eventually([&] { return w.Finished() > 50; }));
  redis->Kill();
  w.Add(Work(200, 2));
  w.Add(Work(40, 2, /*keyed=*/true));
  CheckAllDone(w, 540);
  CHECK(engine.stats().redis_down);
  CHECK(engine.stats().claimed > 0);
  redis->Start();
  REQUIRE(Eventually([&] { return !engine.stats().redis_down; }));
  const int64_t claimed = engine.stats().claimed;
  absl::SleepFor(absl::Seconds(1));
  w.handoff = std::make_unique<RedisHandoff>(redis::ClientOptions{.url = redis->url()}, w.pool);
  w.Add(Work(300, 1));
  CheckAllDone(w, 840);
  CHECK(engine.stats().claimed == claimed);
}

TEST_CASE("F21: PostgreSQL restarted in the middle: results are held and stored, none lost or doubled") {
  const auto postgres = testing::Postgres::StartOwn();
  const auto redis = testing::Redis::StartOwn();
  World w(postgres.get(), redis.get());
  Registry registry;
  std::atomic<int> ran{0};
  registry.Register("test.plain", [&](RunningJob&) {
    absl::SleepFor(absl::Milliseconds(2));
    ++ran;
    return Outcome::Done();
  });
  Engine engine(FastOptions(redis->url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  w.Add(std::vector<JobSpec>(1500, JobSpec{.kind = "test.plain"}));
  REQUIRE(Eventually([&] { return ran > 200; }));
  const bool crash = GENERATE(false, true);
  crash ? postgres->Kill() : postgres->Stop();
  absl::SleepFor(absl::Milliseconds(800));
  postgres->Start();
  REQUIRE(Eventually(
      [&] {
        try {
          return w.Count("SELECT count(*) FROM mainstay.jobs") == 0;
        } catch (const std::exception&) {
          return false;
        }
      },
      absl::Seconds(40)));
  CHECK(w.Finished() == 1500);
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs_history WHERE errors IS NOT NULL") == 0);
  CHECK(ran >= 1500);
}

TEST_CASE(
    "F2: a worker killed with -9 in mid-job: another takes its jobs over under a higher fence, with one effect each") {
  World w;
  w.StartUpkeep();
  testing::Subprocess worker(w.Worker());
  REQUIRE(worker.WaitForOutput(kWorkerReady));
  w.Add(Work(2, 60000));  // long ones: written as running
  w.Add(Work(300, 20));
  REQUIRE(Eventually([&] {
    return w.Count("SELECT count(*) FROM ledger WHERE what = 'end'") > 20 &&
           w.Count("SELECT count(*) FROM mainstay.jobs WHERE state = 5") == 2;
  }));
  worker.Signal(SIGKILL);
  Registry registry;
  RegisterWork(registry, w);
  Engine engine(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  CheckAllDone(w, 302);
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs_history WHERE fence > 1") > 0);
  CHECK(w.Count("SELECT coalesce(max(attempt), 0) FROM mainstay.jobs_history") == 1);
}

TEST_CASE("F5, F6: SIGTERM: short jobs finish, long ones are handed back at no cost and picked up at once") {
  World w;
  w.StartUpkeep();
  auto worker = std::make_unique<testing::Subprocess>(w.Worker());
  REQUIRE(worker->WaitForOutput(kWorkerReady));
  const Uuid slow = w.AddOne({.kind = "test.work", .args = "30000"}),
             keyed = w.AddOne({.kind = "test.work", .args = "30000", .ordering_key = "k"});
  w.Add(Work(200, 5));
  REQUIRE(Eventually([&] {
    return w.Count("SELECT count(*) FROM ledger WHERE what = 'end'") > 20 && w.Get(slow).state == "running" &&
           w.Get(keyed).state == "running";
  }));
  worker->Signal(SIGTERM);
  REQUIRE(worker->Wait(absl::Seconds(10)) == 0);
  CHECK(w.Get(slow).fence > 1);
  CHECK(w.Get(slow).attempt == 0);
  CHECK(w.Get(slow).crashes == 0);
  CHECK(w.Get(keyed).attempt == 0);
  CHECK(w.Count("SELECT count(*) FROM mainstay.job_workers") == 0);
  Registry registry;
  RegisterWork(registry, w);
  Engine engine(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  CheckAllDone(w, 202);
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs_history WHERE errors IS NOT NULL") == 0);
}

}  // namespace
}  // namespace mainstay::jobs
