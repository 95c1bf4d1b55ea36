// SPDX-License-Identifier: Apache-2.0
// Many jobs, hours in one second, history that goes, an old transaction that stays; and everything at once.
#include <signal.h>

#include "tests/fault/stage.h"

namespace mainstay::jobs {
namespace {

bool Long() {
  return std::getenv("MAINSTAY_TEST_LONG") != nullptr;
}

// Straight into the table: a backlog that no producer hands over.
void Backlog(World& w, int64_t jobs, const std::string& kind_and_args, const std::string& run_at = "NULL") {
  testing::Sql(w.url, absl::StrCat("SELECT count(mainstay.enqueue(", kind_and_args, ", run_at => ", run_at,
                                   ")) FROM generate_series(1, ", jobs, ")"));
}

TEST_CASE("F37: a backlog stays in PostgreSQL: Redis holds a window, and all is done") {
  Stage stage(1);
  World& w = stage.w();
  const int64_t jobs = Long() ? 1'000'000 : 20'000;
  const int window = FastOptions("").window;
  Backlog(w, jobs, "'test.noop'");
  for (int i = 0; i < (Long() ? 10 : 2); ++i) stage.StartWorker();
  int64_t most = 0;
  REQUIRE(Eventually(
      [&] {
        most = std::max<int64_t>(most, std::stoll(stage.redis().Command({"XLEN", "mainstay:jobs:{default}:4"})));
        return w.Count("SELECT count(*) FROM mainstay.jobs") == 0;
      },
      absl::Minutes(Long() ? 60 : 3)));
  CHECK(w.Finished() == jobs);
  CHECK(most <= window + 500);
  stage.StopWorkers();
}

TEST_CASE(
    "F38: thousands due in the same second are released in batches; a job of another queue does not wait for them") {
  Stage stage(1);
  World& w = stage.w();
  const int64_t jobs = Long() ? 1'000'000 : 4000;
  Backlog(w, jobs, "'test.deaf', '4'", "clock_timestamp() + interval '1 hour'");
  const Uuid other =
      w.AddOne({.kind = "test.work", .queue = "mainstay", .args = "1", .run_at = absl::Now() + absl::Hours(1)});
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs WHERE state = 1") == jobs + 1);
  stage.StartWorker();
  testing::Sql(w.url, "UPDATE mainstay.jobs SET run_at = now(), due_at = now()");
  REQUIRE(w.WaitFor(other, "succeeded", absl::Minutes(Long() ? 20 : 1)));
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs") > 0);  // most of the others still wait
  REQUIRE(Eventually([&] { return w.Finished() == jobs + 1; }, absl::Minutes(Long() ? 60 : 3)));
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs_history WHERE started_at < run_at") == 0);
  stage.StopWorkers();
}

TEST_CASE("F39: with a transaction left open all the while, every job is done, and the doctor's figure names it") {
  Stage stage(1);
  World& w = stage.w();
  pqxx::connection idle(w.url);
  pqxx::work pin(idle);
  pin.exec("SELECT txid_current()");
  stage.StartWorker();
  stage.StartLoad({.ms = 1}, Long() ? 100'000 : 3000);
  stage.WaitForLoad();
  stage.Judge("F39");
  CHECK(w.Count("SELECT n_dead_tup FROM pg_stat_user_tables WHERE schemaname = 'mainstay' AND relname = 'jobs'") >= 0);
  CHECK(w.Count("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND backend_xid IS NOT "
                "NULL AND datname = current_database()") == 1);
  pin.abort();
  stage.StopWorkers();
}

TEST_CASE(
    "F56: days of history dropped under load, also one that somebody reads: completions go on, unique keys stand") {
  Stage stage(1);
  World& w = stage.w();
  JobSpec once{.kind = "test.work", .args = "1", .unique_key = "once a month", .unique_for = absl::Hours(24 * 30)};
  once.unique_keep = true;
  stage.StartWorker();
  const Uuid holder = w.AddOne(once);
  REQUIRE(w.WaitFor(holder, "succeeded"));
  testing::Sql(w.url, absl::StrCat("INSERT INTO committed (job) VALUES ('", holder.ToString(), "')"));
  stage.StartLoad({.ms = 3, .unique = false});
  stage.WaitForProgress(100);
  testing::Sql(w.url,
               "CREATE TABLE mainstay.jobs_history_20200101 PARTITION OF mainstay.jobs_history FOR VALUES FROM "
               "('2020-01-01 00:00+00') TO ('2020-01-02 00:00+00');"
               "CREATE TABLE mainstay.jobs_history_20200102 PARTITION OF mainstay.jobs_history FOR VALUES FROM "
               "('2020-01-02 00:00+00') TO ('2020-01-03 00:00+00')");
  pqxx::connection reader(w.url);
  {
    pqxx::work reading(reader);
    reading.exec("SELECT count(*) FROM mainstay.jobs_history_20200101");
    const std::string dropped =
        testing::Sql(w.url, "SELECT dropped FROM mainstay.maintain_job_history(3, interval '30 days')")[0][0];
    CHECK(dropped == "1");  // the one that is read is left for the next round
    stage.WaitForProgress(100);
  }
  REQUIRE(Eventually([&] {
    testing::Sql(w.url, "SELECT mainstay.maintain_job_history(3, interval '30 days')");
    return w.Count("SELECT count(*) FROM pg_class WHERE relname LIKE 'jobs_history_2020%'") == 0;
  }));
  stage.WaitForProgress(100);
  CHECK(w.Add({once})[0].existed);
  testing::Sql(w.url, "DELETE FROM mainstay.job_unique");  // held on purpose
  stage.Judge("F56");
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs_history WHERE errors IS NOT NULL") == 0);
  stage.StopWorkers();
}

TEST_CASE("F58: all of it, at random: the judge's zeros hold") {
  Stage stage(GENERATE(from_range(Seeds())));
  struct Place {
    Stage::Worker* worker;
    bool gone = false;
  };
  std::vector<Place> places;
  for (int i = 0; i < 3; ++i) places.push_back({&stage.StartWorker({}, /*lines=*/true)});
  // Nobody dies of bad luck.
  testing::Sql(stage.w().url, "UPDATE mainstay.job_queues SET max_crashes = 1000, max_attempts = 1000");
  stage.StartLoad({.ms = 30});
  for (int i = 0; i < (Long() ? 60 : 8); ++i) {
    stage.WaitForProgress(40);
    stage.SleepBetween(0, 700);
    Place& place = places[static_cast<size_t>(stage.Between(0, 2))];
    const int64_t fault = stage.Between(0, 8);
    switch (fault) {
      case 0:
        place.worker->Kill();
        place.gone = true;
        break;
      case 1:
        place.worker->process->Signal(SIGTERM);
        CHECK(place.worker->process->Wait(absl::Seconds(60)) == 0);
        place.gone = true;
        break;
      case 2:
        place.worker->Signal(SIGSTOP);
        stage.SleepBetween(1000, 5000);
        place.worker->Signal(SIGCONT);
        break;
      case 3:
        testing::Run({.argv = {"pkill", "-KILL", "-P", absl::StrCat(place.worker->process->pid())}});
        break;
      case 4:
        stage.redis().Command({"FLUSHALL"});
        break;
      case 5:
        stage.redis().Kill();
        if (stage.Between(0, 1) == 0) stage.redis().Wipe();
        stage.SleepBetween(0, 3000);
        stage.redis().Start();
        break;
      case 6:
        place.worker->redis->Cut();
        stage.SleepBetween(500, 3000);
        place.worker->redis->Open();
        break;
      case 7:
        stage.Between(0, 1) == 0 ? place.worker->postgres->Cut() : place.worker->postgres->Hold();
        stage.SleepBetween(500, 4000);
        place.worker->postgres->Open();
        break;
      default:
        stage.Between(0, 1) == 0 ? stage.postgres().Stop() : stage.postgres().Kill();
        stage.SleepBetween(0, 1500);
        stage.postgres().Start();
    }
    if (place.gone) place = {&stage.StartWorker({}, /*lines=*/true)};
  }
  stage.Judge("F58", {.within = absl::Seconds(120)});
  stage.StopWorkers();
}

}  // namespace
}  // namespace mainstay::jobs
