// SPDX-License-Identifier: Apache-2.0
// Handlers in children of a real worker process, and what becomes of the jobs when a child, or the worker, comes to
// grief. The numbers name the faults that they answer.
#include <signal.h>

#include <algorithm>

#include "libs/jobs/letters.h"
#include "tests/fault/stage.h"

namespace mainstay::jobs {
namespace {

bool Alive(int pid) {
  return kill(pid, 0) == 0;
}

struct Fixture {
  explicit Fixture(const std::map<std::string, std::string>& more = {}) {
    w.StartUpkeep();
    worker = std::make_unique<testing::Subprocess>(w.Worker(more));
    REQUIRE(worker->WaitForOutput(kWorkerReady, absl::Seconds(30)));
  }
  bool WaitFor(const Uuid& id, const std::string& state) {
    const bool there = w.WaitFor(id, state, absl::Seconds(60));
    if (!there) UNSCOPED_INFO("is " << w.Get(id).state << "\n" << worker->output());
    return there;
  }
  int64_t Started(const Uuid& id) {
    return w.Count(absl::StrCat("SELECT count(*) FROM ledger WHERE what = 'start' AND job = '", id.ToString(), "'"));
  }
  World w;
  std::unique_ptr<testing::Subprocess> worker;
};

TEST_CASE("jobs run in children of the worker, which end with it") {
  Fixture f;
  std::vector<JobSpec> batch(400, JobSpec{.kind = "test.noop"});
  f.w.Add(batch);
  const Uuid work = f.w.AddOne({.kind = "test.work", .args = "1"});
  REQUIRE(f.WaitFor(work, "succeeded"));
  REQUIRE(Eventually([&] { return f.w.Finished() == 401; }, absl::Seconds(60)));
  CHECK(f.w.Count("SELECT count(*) FROM effects") == 1);
  CHECK(f.w.Get(work).attempt == 1);
  const std::set<int> children = ChildrenOf(f.worker->pid());
  CHECK(children.size() == 2);
  const int how = GENERATE(SIGTERM, SIGKILL);
  f.worker->Signal(how);
  CHECK(f.worker->Wait(absl::Seconds(30)) == (how == SIGTERM ? 0 : 128 + SIGKILL));
  CHECK(Eventually([&] { return std::none_of(children.begin(), children.end(), Alive); }));
}

TEST_CASE(
    "F1, F32: a job that kills its process alone pays with its crash budget, is dead with evidence, and holds up "
    "nobody") {
  Fixture f;
  const char* kind = GENERATE("test.crash", "test.signal");
  const Uuid poison = f.w.AddOne({.kind = kind});
  f.w.Add(std::vector<JobSpec>(50, JobSpec{.kind = "test.work", .args = "1"}));
  REQUIRE(f.WaitFor(poison, "dead"));
  REQUIRE(Eventually([&] { return f.w.Finished() == 50; }, absl::Seconds(60)));
  const JobView job = f.w.Get(poison);
  CHECK(job.crashes == 3);
  CHECK(job.attempt == 0);
  CHECK(job.fence > 3);
  CHECK(job.errors.find("crashed") != std::string::npos);
  CHECK(job.errors.find(kind == std::string("test.crash") ? "exit code 7" : "signal 11") != std::string::npos);
  CHECK(f.w.Count("SELECT count(*) FROM effects") == 50);
  CHECK(f.w.Count("SELECT coalesce(max(crashes), 0) FROM mainstay.jobs_history WHERE state = 6") == 0);
}

TEST_CASE("F1: with siblings nobody is charged: all are suspects, run alone next, and the innocent lose no attempt") {
  Fixture f(std::map<std::string, std::string>{{"MAINSTAY_CHILDREN", "1"}});
  std::vector<Uuid> innocent;
  for (int i = 0; i < 4; ++i) innocent.push_back(f.w.AddOne({.kind = "test.work", .args = "1500"}));
  REQUIRE(Eventually([&] { return f.w.Count("SELECT count(*) FROM ledger WHERE what = 'start'") == 4; },
                     absl::Seconds(30)));
  const Uuid poison = f.w.AddOne({.kind = "test.crash"});
  REQUIRE(f.WaitFor(poison, "dead"));
  for (const Uuid& id : innocent) {
    REQUIRE(f.WaitFor(id, "succeeded"));
    const JobView job = f.w.Get(id);
    CHECK(job.attempt == 1);
    CHECK(job.crashes == 0);
    CHECK(job.fence > 1);
    CHECK(job.errors.empty());
  }
  CHECK(f.w.Get(poison).crashes == 3);
  CHECK(f.Started(poison) == 4);  // once among others, then alone until the budget was spent
  CHECK(f.w.Count("SELECT count(*) FROM effects") == 4);
}

TEST_CASE("F35: the hard limit takes the process; the job is charged an attempt, its neighbours nothing") {
  Fixture f(std::map<std::string, std::string>{{"MAINSTAY_CHILDREN", "1"}});
  JobSpec deaf{.kind = "test.deaf", .args = "600000", .max_attempts = 1};
  deaf.options.soft_limit = absl::Milliseconds(300);
  deaf.options.hard_limit = absl::Milliseconds(1500);
  const Uuid guilty = f.w.AddOne(deaf);
  const Uuid neighbour = f.w.AddOne({.kind = "test.work", .args = "3000"});
  REQUIRE(f.WaitFor(guilty, "dead"));
  REQUIRE(f.WaitFor(neighbour, "succeeded"));
  CHECK(f.w.Get(guilty).errors.find("hard_limit") != std::string::npos);
  CHECK(f.w.Get(guilty).attempt == 1);
  CHECK(f.w.Get(guilty).crashes == 0);
  CHECK(f.w.Get(neighbour).attempt == 1);
  CHECK(f.w.Get(neighbour).crashes == 0);
  CHECK(f.w.Get(neighbour).errors.empty());
  CHECK(f.Started(neighbour) == 2);
  CHECK(f.w.Count("SELECT count(*) FROM effects") == 1);
}

TEST_CASE("F33: a handler gets no more memory than its child may have, and makes no process") {
  Fixture f(std::map<std::string, std::string>{{"MAINSTAY_CHILD_MEMORY_MB", "512"}});
  const Uuid hog = f.w.AddOne({.kind = "test.hog", .max_attempts = 1}), fork = f.w.AddOne({.kind = "test.fork"});
  const Uuid other = f.w.AddOne({.kind = "test.work", .args = "100"});
  REQUIRE(f.WaitFor(hog, "succeeded"));
  CHECK(f.w.Get(hog).result == "\"refused\"");
  REQUIRE(f.WaitFor(fork, "succeeded"));
  CHECK(f.w.Get(fork).result == "\"Operation not permitted\"");
  CHECK(f.WaitFor(other, "succeeded"));
}

TEST_CASE(
    "F36, S19: a job that lasts keeps its lease, shows progress, and goes on from its checkpoint after kill -9 of its "
    "child") {
  Fixture f(std::map<std::string, std::string>{{"MAINSTAY_CHILDREN", "1"}});
  const Uuid id = f.w.AddOne({.kind = "test.step", .args = "{\"steps\":40,\"ms\":100}"});
  REQUIRE(
      Eventually([&] { return f.w.Get(id).progress.find("\"steps\": 10") != std::string::npos; }, absl::Seconds(60)));
  CHECK(f.w.Get(id).state == "running");
  const std::set<int> children = ChildrenOf(f.worker->pid());
  REQUIRE(children.size() == 1);
  kill(*children.begin(), SIGKILL);
  REQUIRE(f.WaitFor(id, "succeeded"));
  const JobView job = f.w.Get(id);
  CHECK(job.crashes == 1);
  CHECK(job.errors.find("signal 9") != std::string::npos);
  REQUIRE(job.result.has_value());
  CHECK(*job.result != "{\"began\":0}");
  CHECK(job.result->rfind("{\"began\":", 0) == 0);
}

TEST_CASE("F6, S19: SIGTERM tells what lasts; it is handed back at no cost and goes on elsewhere from its checkpoint") {
  Fixture f;
  const Uuid id = f.w.AddOne({.kind = "test.step", .args = "{\"steps\":100,\"ms\":50}"});
  REQUIRE(Eventually([&] { return f.w.Get(id).state == "running"; }, absl::Seconds(30)));
  const int64_t fence = f.w.Get(id).fence;
  f.worker->Signal(SIGTERM);
  CHECK(f.worker->Wait(absl::Seconds(30)) == 0);
  const JobView job = f.w.Get(id);
  CHECK_FALSE(job.final());
  CHECK(job.fence == fence + 1);
  CHECK(job.attempt == 0);
  CHECK(job.crashes == 0);
  CHECK(job.errors.empty());
  CHECK(f.w.Count("SELECT count(*) FROM mainstay.job_workers") == 0);
  const std::string step = testing::SqlValue(f.w.url, "SELECT checkpoint ->> 'step' FROM mainstay.jobs");
  CHECK(std::stoi(step) > 0);
  testing::Subprocess other(f.w.Worker());
  REQUIRE(f.WaitFor(id, "succeeded"));
  CHECK(f.w.Get(id).result == absl::StrCat("{\"began\":", step, "}"));
  CHECK(f.w.Get(id).attempt == 1);
}

TEST_CASE("F2, S19: kill -9 of the whole worker: another goes on from the last stored checkpoint") {
  Fixture f;
  const Uuid id = f.w.AddOne({.kind = "test.step", .args = "{\"steps\":60,\"ms\":50}"});
  const char* steps = "SELECT coalesce(max((checkpoint ->> 'step')::int), 0) FROM mainstay.jobs";
  REQUIRE(Eventually([&] { return f.w.Count(steps) >= 10; }, absl::Seconds(60)));
  f.worker->Signal(SIGKILL);
  f.worker->Wait(absl::Seconds(30));
  const int64_t step = f.w.Count(steps);
  testing::Subprocess other(f.w.Worker());
  REQUIRE(f.WaitFor(id, "succeeded"));
  // One more, if PostgreSQL was just storing it.
  const std::string result = f.w.Get(id).result.value_or("");
  CHECK((result == absl::StrCat("{\"began\":", step, "}") || result == absl::StrCat("{\"began\":", step + 1, "}")));
  CHECK(f.w.Get(id).attempt == 1);
}

TEST_CASE("F34: arguments that do not decode: dead at once, and run again once they are edited") {
  Fixture f;
  const Uuid id = f.w.AddOne({.kind = "test.typed", .args = "{\"file_nome\":\"a\"}"});
  REQUIRE(f.WaitFor(id, "dead"));
  CHECK(f.w.Get(id).attempt == 1);
  CHECK(f.w.Get(id).errors.find("bad_arguments") != std::string::npos);
  CHECK(f.w.Get(id).errors.find("file_nome") != std::string::npos);
  pqxx::connection operator_(f.w.url);
  pqxx::work tx(operator_);
  REQUIRE_THAT(EditArgs(tx, f.w.context, id, "{\"file_name\":\"a\"}", "a typing error"), testing::IsOk());
  const auto revived = Revive(tx, {&id, 1}, {.tenant = "acme", .by = "user:1", .reason = "a typing error"});
  REQUIRE_THAT(revived, testing::IsOk());
  tx.commit();
  f.w.handoff->Publish(revived->publish);
  REQUIRE(f.WaitFor(id, "succeeded"));
  CHECK(f.w.Get(id).result == "\"a\"");
}

TEST_CASE("S20: a worker is not given versions of a kind that it did not announce") {
  Fixture f;
  const Uuid known = f.w.AddOne({.kind = "test.noop"}), unknown = f.w.AddOne({.kind = "test.noop", .version = 2});
  REQUIRE(f.WaitFor(known, "succeeded"));
  CHECK_FALSE(f.w.Get(unknown).final());
  CHECK(f.w.Get(unknown).attempt == 0);
}

}  // namespace
}  // namespace mainstay::jobs
