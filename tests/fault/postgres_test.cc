// SPDX-License-Identifier: Apache-2.0
// PostgreSQL restarted, cut off, read-only and full, under load: nothing starts that cannot be checked, results wait.
#include <signal.h>

#include "tests/fault/stage.h"

namespace mainstay::jobs {
namespace {

TEST_CASE("F9: the completion commits and its answer is lost: success, not an error, and no second run") {
  Stage stage(GENERATE(from_range(Seeds())));
  World& w = stage.w();
  w.StartUpkeep(absl::Seconds(10));  // or it takes the jobs of a worker that is slow for a second
  auto& worker = stage.StartWorker({{"MAINSTAY_LEASE", "10s"}}, /*lines=*/true);
  stage.StartLoad({.ms = 0, .keyed = 0, .kind = "test.noop"});
  stage.WaitForProgress(50);
  for (int i = 0; i < 5; ++i) {
    worker.postgres->HoldReplies();
    stage.SleepBetween(30, 200);
    worker.postgres->Cut();
    stage.SleepBetween(0, 100);
    worker.postgres->Open();
    stage.WaitForProgress(50);
  }
  stage.Judge("F9");
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs_history WHERE errors IS NOT NULL OR attempt <> 1 OR fence <> 1") ==
        0);
  stage.StopWorkers();
}

TEST_CASE("F21: PostgreSQL restarted under load, fast or by a crash: results are held, producers get clear errors") {
  Stage stage(GENERATE(from_range(Seeds())));
  stage.StartWorker();
  stage.StartWorker();
  stage.StartLoad({.ms = 10});
  for (const bool crash : {false, true}) {
    stage.WaitForProgress(200);
    stage.SleepBetween(0, 300);
    crash ? stage.postgres().Kill() : stage.postgres().Stop();
    stage.SleepBetween(100, 2000);
    stage.postgres().Start();
  }
  stage.WaitForProgress(200);
  stage.Judge("F21");
  stage.StopWorkers();
}

TEST_CASE("F22: a crash forgets the last commits: what is left of the jobs ends once each, with one effect") {
  Stage stage(GENERATE(from_range(Seeds())), {"synchronous_commit=off"});
  stage.StartWorker();
  stage.StartWorker();
  stage.StartLoad({.ms = 10, .keyed = 30});
  for (int i = 0; i < 3; ++i) {
    stage.WaitForProgress(200);
    stage.postgres().Forget(absl::Milliseconds(stage.Between(100, 500)));
  }
  stage.WaitForProgress(200);
  stage.Judge("F22, commits forgotten", {.forgotten = true});
  stage.StopWorkers();
}

TEST_CASE("F22: entries of transactions that a failover lost: no row, no run") {
  Stage stage(1);
  World& w = stage.w();
  stage.StartWorker();
  stage.StartLoad({.ms = 3}, 300);
  for (int i = 0; i < 200; ++i) {
    const std::string entry = absl::StrCat(NewUuid().ToString(), " 1 0 test.work 1");
    stage.redis().Command({"XADD", "mainstay:jobs:{default}:4", "*", "v1", entry});
  }
  stage.WaitForLoad();
  stage.Judge("F22");
  CHECK(w.Count("SELECT count(DISTINCT job) FROM ledger") == w.Count("SELECT count(*) FROM committed"));
  stage.StopWorkers();
}

TEST_CASE("F23: PostgreSQL read-only, or out of connections: work waits, no worker falls over, all is done after") {
  Stage stage(1, {"max_connections=50"});
  World& w = stage.w();
  auto& worker = stage.StartWorker();
  stage.StartLoad({.ms = 5});
  stage.WaitForProgress(100);
  SECTION("read-only") {
    testing::Sql(w.url, "ALTER SYSTEM SET default_transaction_read_only = on");
    testing::Sql(w.url, "SELECT pg_reload_conf()");
    stage.SleepBetween(1500, 3000);
    testing::Sql(w.url, "ALTER SYSTEM RESET default_transaction_read_only");
    testing::Sql(w.url, "SELECT pg_reload_conf()");
  }
  SECTION("out of connections") {
    std::vector<std::unique_ptr<pqxx::connection>> taken;
    testing::Sql(w.url,
                 "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE "
                 "'mainstay-worker%'");
    try {
      while (taken.size() < 100) taken.push_back(std::make_unique<pqxx::connection>(w.url));
    } catch (const std::exception&) {  // none is left
    }
    CHECK(taken.size() < 100);
    stage.SleepBetween(1500, 3000);
  }
  stage.WaitForProgress(100);
  CHECK(worker.process->Running());
  stage.Judge("F23");
  stage.StopWorkers();
}

TEST_CASE("F24: cut off from PostgreSQL for five leases: starts nothing, others take over, its late ends are fenced") {
  Stage stage(GENERATE(from_range(Seeds())));
  stage.StartWorker();
  auto& cut = stage.StartWorker({}, /*lines=*/true);
  stage.StartLoad({.ms = 30});
  stage.WaitForProgress(100);
  if (GENERATE(true, false))
    cut.postgres->Hold();
  else
    cut.postgres->Cut();
  absl::SleepFor(absl::Milliseconds(5 * 1200));
  stage.WaitForProgress(100);
  cut.postgres->Open();
  stage.WaitForProgress(100);
  stage.Judge("F24");
  stage.StopWorkers();
}

TEST_CASE("F26: PostgreSQL half-open, nothing comes and nothing is closed: connections are rebuilt, work goes on") {
  Stage stage(GENERATE(from_range(Seeds())));
  auto& worker = stage.StartWorker({}, /*lines=*/true);
  stage.StartLoad({.ms = 5});
  stage.WaitForProgress(100);
  worker.postgres->Abandon();
  stage.WaitForProgress(300);
  stage.Judge("F26, PostgreSQL");
  stage.StopWorkers();
}

TEST_CASE("a transaction left open on jobs' rows holds up these jobs and no other") {
  Stage stage(1);
  World& w = stage.w();
  stage.StartWorker();
  stage.StartLoad({.ms = 30, .kind = "test.plain"});
  stage.WaitForProgress(100);
  {
    pqxx::connection console(w.url);
    pqxx::work left_open(console);
    std::vector<std::string> held;
    REQUIRE(Eventually([&] {
      for (const auto& row :
           left_open.exec("SELECT id FROM mainstay.jobs WHERE state IN (2, 4, 5) LIMIT 5 FOR UPDATE SKIP LOCKED"))
        held.push_back(row[0].c_str());
      return held.size() >= 5;
    }));
    stage.WaitForProgress(1000);
    for (const auto& job : held) CHECK(w.Count("SELECT count(*) FROM mainstay.jobs WHERE id = '" + job + "'") == 1);
  }
  stage.Judge("rows held");
  stage.StopWorkers();
}

TEST_CASE("a handler that stops between finishing its job and the commit loses the transaction, not the job") {
  Stage stage(1);
  World& w = stage.w();
  stage.StartWorker({{"MAINSTAY_LEASE", "10s"}});
  stage.StartLoad({.ms = 8000, .keyed = 50, .unique = false, .kind = "test.linger"}, 4, 1);
  stage.WaitForLoad();
  stage.Judge("lingering");
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs_history WHERE errors IS NOT NULL") > 0);
  stage.StopWorkers();
}

TEST_CASE("F57: tables and functions changed under running workers: their plans go on") {
  Stage stage(1);
  World& w = stage.w();
  stage.StartWorker();
  stage.StartLoad({.ms = 5});
  stage.WaitForProgress(100);
  testing::Sql(w.url,
               "SET lock_timeout = '10s'; ALTER TABLE mainstay.jobs ADD COLUMN later_column integer; ALTER TABLE "
               "mainstay.jobs_history ADD COLUMN later_column integer; CREATE INDEX ON mainstay.jobs (later_column)");
  REQUIRE_THAT(testing::MigrateAll(w.url), testing::IsOk());
  stage.WaitForProgress(100);
  stage.StartWorker();
  stage.WaitForProgress(100);
  testing::Sql(w.url, "ALTER TABLE mainstay.jobs DROP COLUMN later_column");
  stage.WaitForProgress(100);
  stage.Judge("F57");
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs_history WHERE errors IS NOT NULL") == 0);
  stage.StopWorkers();
}

}  // namespace
}  // namespace mainstay::jobs
