// SPDX-License-Identifier: Apache-2.0
// Jobs of one key that a worker runs one after another in one go, under the faults that part it from them. The judge
// looks at their order.
#include <signal.h>

#include <pqxx/pqxx>

#include "tests/fault/stage.h"

namespace mainstay::jobs {
namespace {

// Short ones, so that runs form, and nearly all with a key.
Mix Keyed(const char* kind) {
  return {.batch = 100, .ms = 0, .keyed = 95, .unique = false, .pause_ms = 1, .kind = kind};
}

// Did any form? Seen at the slots, so asked again until it is.
bool RunsForm(Stage& stage) {
  return Eventually(
      [&] { return stage.w().Count("SELECT count(*) FROM mainstay.job_slots WHERE last_seq IS NOT NULL") > 0; },
      absl::Seconds(60));
}

TEST_CASE("runs of a key: workers and children killed with -9 break no order and no fence") {
  Stage stage(GENERATE(from_range(Seeds())));
  Stage::Worker* victim = &stage.StartWorker();
  stage.StartLoad(Keyed("test.plain"));
  REQUIRE(RunsForm(stage));
  for (int i = 0; i < 3; ++i) {
    stage.WaitForProgress(200);
    stage.SleepBetween(0, 300);
    stage.KillChild(*victim);
    stage.WaitForProgress(200);
    auto& next = stage.StartWorker();
    stage.SleepBetween(0, 300);
    victim->Kill();
    victim = &next;
  }
  stage.Judge("runs killed");
  stage.StopWorkers();
}

TEST_CASE("runs of a key: a worker that slept through its lease finishes nothing of them") {
  Stage stage(GENERATE(from_range(Seeds())));
  stage.StartWorker();
  auto& zombie = stage.StartWorker();
  stage.StartLoad(Keyed("test.plain"));
  REQUIRE(RunsForm(stage));
  stage.WaitForProgress(200);
  zombie.process->Signal(SIGSTOP);  // its children go on with what they have
  absl::SleepFor(absl::Milliseconds(3 * 1200 + 500));
  zombie.process->Signal(SIGCONT);
  stage.WaitForProgress(200);
  stage.Judge("runs of a zombie");
  stage.StopWorkers();
}

TEST_CASE("runs of a key: Redis emptied, twice") {
  Stage stage(GENERATE(from_range(Seeds())));
  stage.StartWorker();
  stage.StartWorker();
  stage.StartLoad(Keyed("test.plain"));
  REQUIRE(RunsForm(stage));
  for (int i = 0; i < 2; ++i) {
    stage.WaitForProgress(200);
    stage.SleepBetween(0, 300);
    stage.redis().Flush();
  }
  stage.Judge("runs flushed");
  stage.StopWorkers();
}

// As whoever hands jobs out anew does it, slowly: the results of those behind the one it has locked come meanwhile.
TEST_CASE("runs of a key: a result that waits for its row is waited for by those behind it") {
  Stage stage(GENERATE(from_range(Seeds())));
  stage.StartWorker();
  // Long enough for their results to come one by one.
  stage.StartLoad({.batch = 30, .ms = 2, .keyed = 100, .unique = false, .pause_ms = 30, .kind = "test.plain"});
  for (int i = 0; i < 2; ++i) {
    pqxx::connection connection(stage.w().url);
    pqxx::work slow(connection);
    std::string jobs, keys;
    REQUIRE(Eventually([&] {
      for (const auto& row : slow.exec("SELECT j.id, j.key_hash FROM mainstay.job_slots s JOIN mainstay.jobs j ON j.id "
                                       "= s.job WHERE s.last_seq > j.seq LIMIT 3 FOR UPDATE OF j SKIP LOCKED")) {
        absl::StrAppend(&jobs, jobs.empty() ? "" : ",", row[0].c_str());
        absl::StrAppend(&keys, keys.empty() ? "" : ",", row[1].c_str());
      }
      return !jobs.empty();
    }));
    slow.exec_params("UPDATE mainstay.jobs SET fence = fence + 1, published_at = clock_timestamp() WHERE id = ANY ($1)",
                     "{" + jobs + "}");
    absl::SleepFor(absl::Milliseconds(2000));
    slow.exec_params("SELECT mainstay.cut_key_runs($1)", "{" + keys + "}");
    slow.commit();
    stage.WaitForProgress(200);
  }
  stage.Judge("runs behind a locked row");
  stage.StopWorkers();
}

TEST_CASE("runs of a key: one that fails ends its run and is waited for") {
  Stage stage(GENERATE(from_range(Seeds())));
  stage.StartWorker();
  stage.StartLoad(Keyed("test.flaky"), 2000);
  stage.WaitForLoad();
  stage.Judge("runs with failures");
  CHECK(stage.w().Count("SELECT max(attempt) FROM mainstay.jobs_history") == 2);
  stage.StopWorkers();
}

TEST_CASE("runs of a key: those that finish in their handler's transaction, and drains") {
  Stage stage(GENERATE(from_range(Seeds())));
  stage.StartWorker();
  stage.StartLoad(Keyed("test.work"));
  for (int i = 0; i < 2; ++i) {
    auto& next = stage.StartWorker();
    stage.WaitForProgress(100);
    next.process->Signal(SIGTERM);
    CHECK(next.process->Wait(absl::Seconds(60)) == 0);
  }
  stage.Judge("runs drained");
  CHECK(stage.BegunAgain() == 0);
  stage.StopWorkers();
}

}  // namespace
}  // namespace mainstay::jobs
