// SPDX-License-Identifier: Apache-2.0
// Workers and their children killed, stopped, drained and woken again, under load.
#include <signal.h>

#include "tests/fault/stage.h"

namespace mainstay::jobs {
namespace {

TEST_CASE("F1: children killed with -9 at random moments, under load: all runs again, nobody dies of it") {
  Stage stage(GENERATE(from_range(Seeds())));
  auto& worker = stage.StartWorker({{"MAINSTAY_CHILDREN", "3"}});
  stage.StartLoad();
  stage.WaitForProgress(50);
  for (int i = 0; i < 5; ++i) {
    stage.SleepBetween(50, 800);
    stage.KillChild(worker);
  }
  stage.Judge("F1");
  CHECK(worker.process->Running());
  stage.StopWorkers();
}

TEST_CASE("F2: workers killed with -9 under load: others take over, consumers go once nothing of theirs is pending") {
  Stage stage(GENERATE(from_range(Seeds())));
  stage.StartWorker();
  stage.StartLoad({.ms = 30});
  for (int i = 0; i < 3; ++i) {
    auto& victim = stage.StartWorker();
    stage.WaitForProgress(50);
    stage.SleepBetween(0, 500);
    victim.Kill();
  }
  stage.Judge("F2");
  CHECK(stage.w().Count("SELECT coalesce(max(crashes), 0) FROM mainstay.jobs_history") < 3);
  stage.StopWorkers();
}

TEST_CASE("F3: a worker stopped for three leases and woken again changes nothing of what others finished") {
  Stage stage(GENERATE(from_range(Seeds())));
  const bool with_children = GENERATE(true, false);  // or its children go on while it sleeps
  stage.StartWorker();
  auto& zombie = stage.StartWorker();
  stage.StartLoad({.ms = 60});
  stage.WaitForProgress(50);
  stage.SleepBetween(0, 500);
  if (with_children)
    zombie.Signal(SIGSTOP);
  else
    zombie.process->Signal(SIGSTOP);
  absl::SleepFor(absl::Milliseconds(3 * 1200 + 500));
  stage.WaitForProgress(50);
  zombie.Signal(SIGCONT);
  stage.WaitForProgress(100);
  stage.Judge("F3");
  stage.StopWorkers();
}

TEST_CASE("F5: SIGTERM under load of short jobs: all in hand is stored, exit 0, nothing runs twice") {
  Stage stage(GENERATE(from_range(Seeds())));
  stage.StartWorker({{"MAINSTAY_DRAIN_DEADLINE", "20s"}});
  stage.StartLoad({.ms = 20});
  for (int i = 0; i < 3; ++i) {
    auto& next = stage.StartWorker({{"MAINSTAY_DRAIN_DEADLINE", "20s"}});
    stage.WaitForProgress(50);
    next.process->Signal(SIGTERM);
    CHECK(next.process->Wait(absl::Seconds(60)) == 0);
  }
  stage.Judge("F5");
  CHECK(stage.BegunAgain() == 0);
  CHECK(stage.w().Count("SELECT count(*) FROM mainstay.jobs_history WHERE errors IS NOT NULL OR attempt <> 1") == 0);
  stage.StopWorkers();
}

TEST_CASE("F7: SIGTERM again, then SIGKILL in the middle of a drain: as if killed at once") {
  Stage stage(GENERATE(from_range(Seeds())));
  auto& victim = stage.StartWorker({{"MAINSTAY_DRAIN_DEADLINE", "30s"}});
  stage.StartLoad({.ms = 100});
  stage.WaitForProgress(20);
  victim.process->Signal(SIGTERM);
  stage.SleepBetween(0, 100);
  victim.process->Signal(SIGTERM);
  stage.SleepBetween(0, 150);
  victim.Kill();
  stage.StartWorker();
  stage.Judge("F7");
  stage.StopWorkers();
}

TEST_CASE("F8: killed between a handler's end and the stored completion: runs again, unless it finished itself") {
  Stage stage(1);
  World& w = stage.w();
  auto& victim = stage.StartWorker();
  const Uuid plain = w.AddOne({.kind = "test.plain", .args = "500"});
  const Uuid own = w.AddOne({.kind = "test.work", .args = "500"});
  pqxx::connection other(w.url);
  {
    // Its completion waits for this lock.
    REQUIRE(Eventually([&] { return w.Count("SELECT count(*) FROM ledger WHERE what = 'start'") == 2; }));
    pqxx::work lock(other);
    lock.exec_params("SELECT FROM mainstay.jobs WHERE id = $1 FOR UPDATE", plain.ToString());
    REQUIRE(Eventually([&] { return w.Count("SELECT count(*) FROM ledger WHERE what = 'end'") == 2; }));
    victim.Kill();
    lock.commit();
  }
  stage.StartWorker();
  REQUIRE(w.WaitFor(plain, "succeeded"));
  REQUIRE(w.WaitFor(own, "succeeded"));
  const auto begun = [&](const Uuid& id) {
    return w.Count(absl::StrCat("SELECT count(*) FROM ledger WHERE what = 'start' AND job = '", id.ToString(), "'"));
  };
  CHECK(begun(plain) == 2);
  CHECK(begun(own) == 1);
  CHECK(w.Count("SELECT count(*) FROM effects") == 1);
  stage.StopWorkers();
}

TEST_CASE("F10: completion stored, killed before the entry was acknowledged: the entry starts nothing") {
  Stage stage(GENERATE(from_range(Seeds())));
  World& w = stage.w();
  auto& victim = stage.StartWorker({}, /*lines=*/true);
  stage.StartLoad({.ms = 100}, 100);
  stage.WaitForProgress(20);
  victim.redis->Hold();
  stage.SleepBetween(0, 300);
  victim.Kill();
  stage.WaitForLoad();
  const int64_t finished = w.Count("SELECT count(*) FROM mainstay.jobs_history");
  INFO(finished << " had ended");
  stage.StartWorker();
  stage.Judge("F10");
  CHECK(
      w.Count("SELECT count(*) FROM (SELECT FROM ledger l JOIN mainstay.jobs_history h ON h.id = l.job WHERE l.what = "
              "'start' AND l.fence > h.fence) x") == 0);
  stage.StopWorkers();
}

TEST_CASE("F27: a worker whose clock is an hour wrong starts nothing early and loses no lease") {
  Stage stage(1);
  World& w = stage.w();
  stage.StartWorker(testing::Skewed(GENERATE(3600, -3600)));
  const Uuid later = w.AddOne({.kind = "test.work", .args = "1", .run_at = absl::Now() + absl::Minutes(30)});
  const Uuid soon = w.AddOne({.kind = "test.work", .args = "1", .run_at = absl::Now() + absl::Seconds(1)});
  const Uuid slow = w.AddOne({.kind = "test.work", .args = "4000"});
  JobSpec deadline{.kind = "test.work", .args = "1"};
  deadline.deadline = absl::Now() + absl::Minutes(5);
  const Uuid in_time = w.AddOne(deadline);
  REQUIRE(w.WaitFor(soon, "succeeded"));
  REQUIRE(w.WaitFor(slow, "succeeded"));
  REQUIRE(w.WaitFor(in_time, "succeeded"));
  CHECK(w.Get(later).state == "scheduled");
  CHECK(w.Get(slow).fence == 1);
  CHECK(w.Get(slow).crashes == 0);
  CHECK(stage.BegunAgain() == 0);
  CHECK(w.Count("SELECT count(*) FROM ledger l JOIN mainstay.jobs_history h ON h.id = l.job WHERE l.what = 'start' AND "
                "l.at < h.run_at") == 0);
  stage.StopWorkers();
}

}  // namespace
}  // namespace mainstay::jobs
