// SPDX-License-Identifier: Apache-2.0
// Redis emptied, restarted, cut off and filled up, under load: the rows decide, whatever becomes of the entries.
#include <signal.h>

#include "tests/fault/stage.h"

namespace mainstay::jobs {
namespace {

constexpr char kStream[] = "mainstay:jobs:{default}:4";

TEST_CASE("F11: FLUSHALL in the middle of many published jobs") {
  Stage stage(GENERATE(from_range(Seeds())));
  stage.StartWorker();
  stage.StartWorker();
  stage.StartLoad({.batch = 200, .ms = 5}, std::getenv("MAINSTAY_TEST_LONG") != nullptr ? 50000 : 5000);
  stage.WaitForProgress(300);
  stage.SleepBetween(0, 500);
  stage.redis().Command({"FLUSHALL"});
  stage.WaitForLoad();
  stage.Judge("F11");
  stage.StopWorkers();
}

TEST_CASE("F12: FLUSHALL again and again: no storm, the backlog stays bounded") {
  Stage stage(GENERATE(from_range(Seeds())));
  stage.StartWorker();
  stage.StartWorker();
  stage.StartLoad({.ms = 5});
  for (int i = 0; i < (std::getenv("MAINSTAY_TEST_LONG") != nullptr ? 12 : 5); ++i) {
    stage.WaitForProgress(100);
    stage.SleepBetween(0, 1500);
    stage.redis().Command({"FLUSHALL"});
  }
  stage.StopLoad();
  stage.Judge("F12");
  // Handed out anew at most once per flush, and here and there by a sweep.
  CHECK(stage.w().Count("SELECT max(fence) FROM mainstay.jobs_history") <= 8);
  stage.StopWorkers();
}

TEST_CASE("F13: a producer that dies between its commit and the hand-off: the sweeper hands out") {
  Stage stage(1);
  World& w = stage.w();
  stage.StartWorker();
  pqxx::connection producer(w.url);
  pqxx::work tx(producer);
  const auto added = Enqueue(tx, w.context, std::vector<JobSpec>(50, JobSpec{.kind = "test.work", .args = "1"}));
  REQUIRE_THAT(added, testing::IsOk());
  for (const Enqueued& job : *added) tx.exec_params("INSERT INTO committed (job) VALUES ($1)", job.id.ToString());
  tx.commit();
  stage.Judge("F13");
  CHECK(stage.BegunAgain() == 0);
  stage.StopWorkers();
}

TEST_CASE("F14: Redis restarted with nothing, or with what it held a while ago") {
  Stage stage(GENERATE(from_range(Seeds())));
  const bool old = GENERATE(false, true);
  stage.StartWorker();
  stage.StartWorker();
  stage.StartLoad({.ms = 15});
  stage.WaitForProgress(200);
  if (old) {
    stage.redis().Stop();
    stage.redis().Keep();
    stage.redis().Start();
    stage.WaitForProgress(300);
  }
  stage.SleepBetween(0, 500);
  stage.redis().Kill();
  old ? stage.redis().GoBack() : stage.redis().Wipe();
  stage.SleepBetween(0, 3000);
  stage.redis().Start();
  stage.WaitForProgress(300);
  stage.Judge("F14");
  stage.StopWorkers();
}

TEST_CASE("F15: the newest entries lost while an old long job holds its own: found, and run") {
  Stage stage(1);
  World& w = stage.w();
  stage.StartWorker({{"MAINSTAY_EXECUTORS", "2"}});
  const Uuid slow = w.AddOne({.kind = "test.work", .args = "12000"});
  REQUIRE(w.WaitFor(slow, "running"));
  const Uuid busy = w.AddOne({.kind = "test.work", .args = "3000"});
  REQUIRE(Eventually([&] { return w.Count("SELECT count(*) FROM ledger WHERE what = 'start'") == 2; }));
  w.Add(std::vector<JobSpec>(200, JobSpec{.kind = "test.work", .args = "1"}));
  // As a replica that was promoted too early: what came last is not there.
  stage.redis().Command({"EVAL",
                         "local all = redis.call('XRANGE', KEYS[1], '-', '+') local gone = 0 for i = #all, 1, -1 do if "
                         "gone < 150 then redis.call('XDEL', KEYS[1], all[i][1]) gone = gone + 1 end end return gone",
                         "1", kStream});
  REQUIRE(Eventually([&] { return w.Finished() >= 201; }, absl::Seconds(60)));
  CHECK(w.Get(slow).fence == 1);
  REQUIRE(w.WaitFor(busy, "succeeded"));
  REQUIRE(w.WaitFor(slow, "succeeded", absl::Seconds(60)));
  CHECK(w.Count("SELECT count(*) FROM effects") == 202);
  stage.StopWorkers();
}

TEST_CASE("F16: a stream deleted, its group destroyed, its entries trimmed: that queue recovers, others see nothing") {
  Stage stage(GENERATE(from_range(Seeds())));
  stage.StartWorker();
  stage.StartLoad({.ms = 8});
  const std::vector<std::vector<std::string>> wounds = {
      {"DEL", kStream}, {"XGROUP", "DESTROY", kStream, "workers"}, {"XTRIM", kStream, "MAXLEN", "0"}};
  for (const auto& wound : wounds) {
    stage.WaitForProgress(150);
    stage.SleepBetween(0, 300);
    try {
      stage.redis().Command(wound);
    } catch (const std::exception&) {  // no such key at this moment
    }
  }
  stage.WaitForProgress(150);
  stage.Judge("F16");
  stage.StopWorkers();
}

TEST_CASE("F17: Redis full: enqueue commits, work goes on from PostgreSQL, and through Redis once there is room") {
  Stage stage(1);
  stage.StartWorker();
  stage.StartLoad({.ms = 3});
  stage.WaitForProgress(100);
  stage.redis().Command({"CONFIG", "SET", "maxmemory", "1"});
  stage.WaitForProgress(200);
  stage.redis().Command({"CONFIG", "SET", "maxmemory", "0"});
  stage.WaitForProgress(200);
  stage.Judge("F17");
  stage.StopWorkers();
}

TEST_CASE("F18: Redis away for long: claims from PostgreSQL within two sweeps, nothing twice on its return") {
  Stage stage(GENERATE(from_range(Seeds())));
  stage.StartWorker();
  stage.StartWorker();
  stage.StartLoad({.ms = 5});
  stage.WaitForProgress(100);
  stage.redis().Kill();
  stage.WaitForProgress(std::getenv("MAINSTAY_TEST_LONG") != nullptr ? 20000 : 600);
  stage.redis().Start();
  stage.WaitForProgress(300);
  stage.Judge("F18");
  stage.StopWorkers();
}

TEST_CASE("F19, F25: half of the workers cut off from Redis: both halves work, no fence has two holders") {
  Stage stage(GENERATE(from_range(Seeds())));
  stage.StartWorker();
  auto& cut = stage.StartWorker({}, /*lines=*/true);
  stage.StartLoad({.ms = 10});
  stage.WaitForProgress(100);
  cut.redis->Cut();
  stage.WaitForProgress(400);
  cut.redis->Open();
  stage.WaitForProgress(200);
  stage.Judge("F19, F25");
  stage.StopWorkers();
}

TEST_CASE("F20: a hand-off whose outcome is unknown is not sent again: no fence has two holders") {
  Stage stage(1);
  World& w = stage.w();
  testing::Proxy line(stage.redis().url().substr(stage.redis().url().rfind('/') + 1));
  w.handoff = std::make_unique<RedisHandoff>(
      redis::ClientOptions{.url = absl::StrCat("redis://127.0.0.1:", line.port())}, w.pool);
  stage.StartWorker();
  stage.StartLoad({.ms = 5});
  stage.WaitForProgress(50);
  for (int i = 0; i < 3; ++i) {
    line.HoldReplies();
    stage.SleepBetween(100, 600);
    line.Cut();
    stage.SleepBetween(50, 300);
    line.Open();
    stage.WaitForProgress(50);
  }
  stage.Judge("F20");
  stage.StopWorkers();
}

TEST_CASE("F26: Redis half-open, nothing comes and nothing is closed: readers are rebuilt, work goes on") {
  Stage stage(GENERATE(from_range(Seeds())));
  auto& worker = stage.StartWorker({}, /*lines=*/true);
  stage.StartLoad({.ms = 5});
  stage.WaitForProgress(100);
  worker.redis->Abandon();
  stage.WaitForProgress(300);
  stage.Judge("F26, Redis");
  stage.StopWorkers();
}

TEST_CASE("F28: the clocks of PostgreSQL and Redis ten minutes apart: nothing live is handed out again, nothing lost") {
  const auto redis = testing::Redis::StartOwn(GENERATE(600, -600));
  World w(nullptr, redis.get());
  w.StartUpkeep();
  testing::Subprocess worker(w.Worker());
  REQUIRE(worker.WaitForOutput(kWorkerReady, absl::Seconds(30)));
  const Uuid slow = w.AddOne({.kind = "test.work", .args = "5000"});
  w.Add(std::vector<JobSpec>(200, JobSpec{.kind = "test.work", .args = "10"}));
  REQUIRE(w.WaitFor(slow, "succeeded", absl::Seconds(60)));
  REQUIRE(Eventually([&] { return w.Finished() == 201; }, absl::Seconds(60)));
  CHECK(w.Count("SELECT max(fence) FROM mainstay.jobs_history") == 1);
  CHECK(w.Count("SELECT count(*) FROM ledger WHERE what = 'start'") == 201);
  // and what is lost is found
  worker.Signal(SIGSTOP);
  w.Add(std::vector<JobSpec>(50, JobSpec{.kind = "test.work", .args = "1"}));
  redis->Command({"DEL", kStream});
  worker.Signal(SIGCONT);
  REQUIRE(Eventually([&] { return w.Finished() == 251; }, absl::Seconds(60)));
  CHECK(w.Count("SELECT count(*) FROM effects") == 251);
}

}  // namespace
}  // namespace mainstay::jobs
