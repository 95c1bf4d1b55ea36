// SPDX-License-Identifier: Apache-2.0
// Flows without workers: their members are ended here, as the engine ends them, in any order and all at once.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <pqxx/pqxx>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/jobs/flows.h"
#include "libs/jobs/in_hand.h"
#include "libs/jobs/letters.h"
#include "libs/jobs/store.h"
#include "libs/postgres/pool.h"
#include "tests/support/postgres.h"
#include "tests/support/status.h"

namespace mainstay::jobs {
namespace {

using testing::HasProblem;
using testing::IsOk;
using testing::Sql;
using testing::SqlValue;
using Lines = std::vector<std::string>;

FlowJob Job(std::string name, std::vector<std::string> needs = {}, RunsOn runs_on = RunsOn::kSucceeded) {
  FlowJob job;
  job.job.kind = "a.b";
  job.name = std::move(name);
  job.needs = std::move(needs);
  job.runs_on = runs_on;
  return job;
}

struct Db {
  Db()
      : url(testing::NewMigratedDatabase()),
        pool({.url = testing::Postgres::As(url, "mainstay_worker"), .size = 8, .pin_plans = true}) {
    context.principal = {.tenant = "acme", .subject = "user:1"};
  }
  absl::Status Do(absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body) {
    return pool.Transaction(absl::Now() + absl::Seconds(60), body);
  }
  absl::StatusOr<Flow> Try(const std::vector<FlowJob>& jobs) {
    Flow flow;
    const absl::Status status = Do([&](pqxx::transaction_base& tx) -> absl::Status {
      auto added = EnqueueFlow(tx, context, "test", jobs);
      if (added.ok()) flow = *std::move(added);
      return added.status();
    });
    if (!status.ok()) return status;
    return flow;
  }
  Flow Add(const std::vector<FlowJob>& jobs) {
    auto flow = Try(jobs);
    REQUIRE_THAT(flow.status(), IsOk());
    return *flow;
  }
  absl::Status AddTo(const Uuid& parent, const std::vector<FlowJob>& jobs, std::vector<Enqueued>* added = nullptr) {
    return Do([&](pqxx::transaction_base& tx) -> absl::Status {
      auto more = AddToFlow(tx, context, parent, jobs);
      if (more.ok() && added != nullptr) *added = std::move(more->jobs);
      return more.status();
    });
  }
  // As a worker ends them, in one batch.
  absl::Status End(const std::vector<Uuid>& jobs, const std::vector<int>& states) {
    return Do([&](pqxx::transaction_base& tx) -> absl::Status {
      CompleteArrays batch;
      for (size_t i = 0; i < jobs.size(); ++i) {
        const auto fence =
            tx.exec_params("SELECT fence FROM mainstay.jobs WHERE id = $1", jobs[i].ToString())[0][0].as<int64_t>();
        batch.Add(jobs[i], fence, states[i], nullptr, states[i] == kStateSucceeded ? "" : "broken", "it broke", 1, 0);
      }
      std::vector<int64_t> freed;
      std::vector<Handout> handouts;
      Complete(tx, std::move(batch), nullptr, "test", &freed, &handouts);
      return absl::OkStatus();
    });
  }
  void EndOne(const Uuid& job, int state = kStateSucceeded) { REQUIRE_THAT(End({job}, {state}), IsOk()); }
  // "blocked", or "scheduled" once it is due.
  std::string State(const Uuid& job) {
    return SqlValue(url, absl::StrCat("SELECT state FROM mainstay.jobs_view WHERE uid = '", job.ToString(), "'"));
  }
  FlowView View(const Uuid& flow) {
    FlowView view;
    REQUIRE_THAT(Do([&](pqxx::transaction_base& tx) -> absl::Status {
                   auto read = GetFlow(tx, context, flow);
                   if (read.ok()) view = *std::move(read);
                   return read.status();
                 }),
                 IsOk());
    return view;
  }

  std::string url;
  postgres::Pool pool;
  CallContext context;
};

TEST_CASE("fan out and in: a job waits until those it names have succeeded, and takes its key only then") {
  Db db;
  FlowJob last = Job("", {"a", "b"});
  last.job.ordering_key = "k";
  const Flow flow = db.Add({Job("a"), Job("b", {"a"}), last});
  const Uuid a = flow.jobs[0].id, b = flow.jobs[1].id, c = flow.jobs[2].id;
  CHECK(db.State(a) == "ready");
  CHECK(db.State(b) == "blocked");
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs WHERE key_hash IS NOT NULL") == "0");
  db.EndOne(a);
  CHECK(db.State(b) == "scheduled");
  CHECK(db.State(c) == "blocked");
  const FlowView half = db.View(flow.id);
  CHECK(half.total == 3);
  CHECK(half.succeeded == 1);
  CHECK(half.open == 1);
  CHECK(half.waiting == 1);
  CHECK(!half.finished_at.has_value());
  db.EndOne(b);
  CHECK(Sql(db.url,
            "SELECT state, due_at <= clock_timestamp(), key_hash = mainstay.job_key_hash('acme', 'k'), seq IS NOT "
            "NULL FROM mainstay.jobs")[0] == Lines{"1", "t", "t", "t"});
  db.EndOne(c);
  CHECK(db.View(flow.id).finished_at.has_value());
  CHECK_THAT(ForgetFlows(db.pool, absl::Hours(1)), IsOk());
  CHECK(db.View(flow.id).total == 3);
  CHECK_THAT(ForgetFlows(db.pool, absl::ZeroDuration()), IsOk());
  CHECK(SqlValue(db.url,
                 "SELECT (SELECT count(*) FROM mainstay.job_flows) + (SELECT count(*) FROM mainstay.job_flow_jobs)"
                 " + (SELECT count(*) FROM mainstay.job_flow_edges) + (SELECT count(*) FROM "
                 "mainstay.job_flow_waits)") == "0");
}

TEST_CASE("all done, all succeeded, first failure: each starts by its own rule, whichever end the others met") {
  Db db;
  const Flow flow = db.Add({Job("a"), Job("b"), Job("", {"a", "b"}, RunsOn::kDone), Job("", {"a", "b"}),
                            Job("", {"a", "b"}, RunsOn::kFailed)});
  const Uuid a = flow.jobs[0].id, b = flow.jobs[1].id, done = flow.jobs[2].id, succeeded = flow.jobs[3].id,
             failed = flow.jobs[4].id;
  SECTION("all succeed") {
    db.EndOne(a);
    CHECK(db.State(done) == "blocked");
    db.EndOne(b);
    CHECK(db.State(done) == "scheduled");
    CHECK(db.State(succeeded) == "scheduled");
    CHECK(db.State(failed) == "blocked");
    CHECK_THAT(SettleFlows(db.pool), IsOk());
    CHECK(db.State(failed) == "discarded");
  }
  SECTION("one dies: it may be redriven, so who needs it waits") {
    db.EndOne(a, kStateDead);
    CHECK(db.State(failed) == "scheduled");
    db.EndOne(b);
    CHECK(db.State(done) == "scheduled");
    CHECK_THAT(SettleFlows(db.pool), IsOk());
    CHECK(db.State(succeeded) == "blocked");
    REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) { return RetryJob(tx, db.context, a, "fixed").status(); }),
                 IsOk());
    CHECK(db.View(flow.id).dead == 0);
    CHECK(db.View(flow.id).finished_at == std::nullopt);
    db.EndOne(a);
    CHECK(db.State(succeeded) == "scheduled");
    CHECK(SqlValue(db.url,
                   "SELECT string_agg(succeeded || '/' || dead || '/' || needs, ' ' ORDER BY runs_on) FROM "
                   "mainstay.job_flow_waits") == "2/0/2 2/0/2 2/0/2");
  }
  SECTION("one is cancelled: who needs its success is discarded") {
    REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) { return CancelJob(tx, db.context, a, "no").status(); }),
                 IsOk());
    CHECK(db.State(failed) == "scheduled");
    CHECK_THAT(SettleFlows(db.pool), IsOk());
    CHECK(db.State(succeeded) == "discarded");
    CHECK(db.State(done) == "blocked");
  }
  SECTION("a dead one is purged: so is the hope") {
    db.EndOne(a, kStateDead);
    REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) { return DeleteJob(tx, db.context, a); }), IsOk());
    CHECK_THAT(SettleFlows(db.pool), IsOk());
    CHECK(db.State(succeeded) == "discarded");
  }
}

TEST_CASE(
    "F54: 2,000 children (--long: 10,000) end in the same moments, in every way, some add others: one callback, and "
    "right counts") {
  Db db;
  const size_t size = std::getenv("MAINSTAY_TEST_LONG") != nullptr ? 10000 : 2000;
  std::vector<FlowJob> jobs(size, Job(""));
  jobs[size - 2] = Job("", {"*"}, RunsOn::kDone);
  const Flow flow = db.Add(jobs);
  const Uuid callback = flow.jobs[size - 2].id;
  const unsigned seed = std::random_device()();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  std::vector<Uuid> children;
  for (size_t i = 0; i < size - 2; ++i) children.push_back(flow.jobs[i].id);
  std::vector<Enqueued> more;
  REQUIRE_THAT(db.AddTo(children[0], {Job("late"), Job("", {"late"})}, &more), IsOk());
  for (const Enqueued& one : more) children.push_back(one.id);
  std::vector<int> states;
  int dead = 0;
  for (size_t i = 0; i < children.size(); ++i) {
    const int state = std::vector<int>{6, 6, 6, 7, 8, 9}[random() % 6];
    states.push_back(i == size - 2 ? 6 : state);
    dead += states.back() == 9;
  }
  std::vector<size_t> order(children.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), random);
  std::atomic<size_t> next{0};
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (size_t from = next.fetch_add(97); from < order.size(); from = next.fetch_add(97)) {
        std::vector<Uuid> some;
        std::vector<int> ends;
        for (size_t i = from; i < std::min(from + 97, order.size()); ++i)
          some.push_back(children[order[i]]), ends.push_back(states[order[i]]);
        if (!db.End(some, ends).ok()) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  REQUIRE(failures == 0);
  CHECK(db.State(callback) == "scheduled");
  CHECK(Sql(db.url,
            "SELECT needs, succeeded + dead + lost, dead, released_at IS NOT NULL FROM mainstay.job_flow_waits "
            "WHERE runs_on = 1")[0] == Lines{absl::StrCat(size), absl::StrCat(size), absl::StrCat(dead), "t"});
  CHECK(db.View(flow.id).dead == dead);
  db.EndOne(callback);
  // Redriven after the callback: counted, and no second one.
  std::vector<Uuid> again;
  for (size_t i = 0; i < children.size() && again.size() < 100; ++i)
    if (states[i] == 9) again.push_back(children[i]);
  REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) {
    return Revive(tx, again, {.tenant = "acme", .by = "user:1", .reason = "fixed"}).status();
  }),
               IsOk());
  CHECK(db.View(flow.id).dead == dead - static_cast<int>(again.size()));
  REQUIRE_THAT(db.End(again, std::vector<int>(again.size(), 6)), IsOk());
  CHECK_THAT(SettleFlows(db.pool), IsOk());
  CHECK(SqlValue(db.url, absl::StrCat("SELECT count(*) FROM mainstay.jobs_view WHERE uid = '", callback.ToString(),
                                      "'")) == "1");
  CHECK(db.State(callback) == "succeeded");
  const FlowView view = db.View(flow.id);
  CHECK(view.total == static_cast<int>(size) + 2);
  CHECK(view.open == 1);  // the one that nobody ended
  CHECK(view.waiting == 0);
}

TEST_CASE("F54: a child that adds others holds back those who wait for it; a finished one cannot") {
  Db db;
  const Flow flow = db.Add({Job("a"), Job("", {"a"}), Job("", {"a"}, RunsOn::kFailed)});
  const Uuid a = flow.jobs[0].id, last = flow.jobs[1].id;
  std::vector<Enqueued> more;
  REQUIRE_THAT(db.AddTo(a, {Job("b"), Job("", {"a", "b"})}, &more), IsOk());
  CHECK(db.State(more[0].id) == "ready");
  CHECK(db.State(more[1].id) == "blocked");
  db.EndOne(a);
  CHECK(db.State(last) == "blocked");
  db.EndOne(more[0].id);
  CHECK(db.State(more[1].id) == "scheduled");
  CHECK(db.State(last) == "blocked");
  db.EndOne(more[1].id);
  CHECK(db.State(last) == "scheduled");
  CHECK_THAT(db.AddTo(a, {Job("c")}), HasProblem("validation-failed"));
  CHECK_THAT(db.AddTo(last, {Job("b")}), HasProblem("validation-failed"));  // a name that is taken
  // What it waits for is over already: it goes out at once.
  REQUIRE_THAT(db.AddTo(last, {Job("", {"a", "b"})}, &more), IsOk());
  CHECK(db.State(more[0].id) == "scheduled");
  db.context.principal.tenant = "globex";
  CHECK_THAT(db.AddTo(last, {Job("d")}), HasProblem("not-found"));
}

TEST_CASE("a waiting job that was locked when its turn came is released by the next round") {
  Db db;
  const Flow flow = db.Add({Job("a"), Job("", {"a"})});
  {
    pqxx::connection connection(db.url);
    pqxx::work lock(connection);
    lock.exec_params("SELECT 1 FROM mainstay.jobs WHERE id = $1 FOR UPDATE", flow.jobs[1].id.ToString());
    db.EndOne(flow.jobs[0].id);
    CHECK_THAT(SettleFlows(db.pool), IsOk());
    CHECK(db.State(flow.jobs[1].id) == "blocked");
  }
  CHECK_THAT(SettleFlows(db.pool), IsOk());
  CHECK(db.State(flow.jobs[1].id) == "scheduled");
}

TEST_CASE("cancelling a flow ends all of it at once, and starts none of those that waited") {
  Db db;
  const Flow flow = db.Add({Job("a"), Job("b"), Job("", {"a"}, RunsOn::kDone), Job("", {"*"}, RunsOn::kFailed)});
  db.EndOne(flow.jobs[0].id);
  REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) { return CancelFlow(tx, db.context, flow.id, "no").status(); }),
               IsOk());
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs") == "0");
  CHECK(db.View(flow.id).cancelled == 3);
  CHECK(db.View(flow.id).finished_at.has_value());
}

TEST_CASE("what is wrong with a flow is refused with its place, and leaves nothing") {
  Db db;
  CHECK_THAT(db.Try({}), HasProblem("validation-failed"));
  CHECK_THAT(db.Try({Job("a", {"b"}), Job("b")}), HasProblem("validation-failed"));  // after it: so no cycle either
  CHECK_THAT(db.Try({Job("a", {"a"})}), HasProblem("validation-failed"));
  CHECK_THAT(db.Try({Job("a"), Job("a")}), HasProblem("validation-failed"));
  CHECK_THAT(db.Try({Job("*")}), HasProblem("validation-failed"));
  CHECK_THAT(db.Try({Job("", {"*"})}), HasProblem("validation-failed"));
  CHECK_THAT(db.Try(std::vector<FlowJob>(1000, Job("", {"*"}))), HasProblem("validation-failed"));
  FlowJob wrong = Job("");
  wrong.job.priority = 11;
  const absl::Status status = db.Try({Job("a"), wrong}).status();
  CHECK_THAT(status, HasProblem("validation-failed"));
  CHECK(ProblemFromStatus(status).errors[0].name == "/jobs/1/job/priority");
  FlowJob unique = Job("");
  unique.job.unique_key = "u";
  db.Add({unique});
  CHECK_THAT(db.Try({Job("a"), unique}), HasProblem("unique-violation"));
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs") == "1");
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.job_flows") == "1");
}

TEST_CASE("from SQL: jobs that wait for one another, in the caller's own transaction") {
  Db db;
  const std::string call =
      "SELECT item, coalesce(name, ''), id, flow FROM mainstay.enqueue_flow(ARRAY(SELECT "
      "mainstay.flow_job(mainstay.new_job('page.render', json_build_object('page', n), tenant => 'acme')) FROM "
      "generate_series(1, 3) n) || mainstay.flow_job(mainstay.new_job('book.bind', tenant => 'acme'), name => 'bind', "
      "needs => '{*}', runs_on => 'done'), label => 'book')";
  const auto rows = Sql(db.url, call);
  REQUIRE(rows.size() == 4);
  CHECK(rows[3][1] == "bind");
  CHECK(SqlValue(db.url, "SELECT string_agg(state::text, ' ' ORDER BY kind DESC) FROM mainstay.jobs") == "3 3 3 2");
  std::vector<Uuid> pages;
  for (int i = 0; i < 3; ++i) pages.push_back(*ParseId("job", rows[static_cast<size_t>(i)][2]));
  REQUIRE_THAT(db.End(pages, {6, 9, 6}), IsOk());
  CHECK(db.State(*ParseId("job", rows[3][2])) == "scheduled");
  CHECK(SqlValue(db.url, "SELECT label || ' ' || total || ' ' || open || ' ' || dead FROM mainstay.flows_view") ==
        "book 4 1 1");
  {
    pqxx::connection connection(db.url);
    pqxx::work tx(connection);
    tx.exec(call);
    tx.abort();
  }
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.job_flows") == "1");
  pqxx::connection connection(db.url);
  pqxx::work tx(connection);
  CHECK_THROWS_WITH(
      tx.exec("SELECT * FROM mainstay.enqueue_flow(ARRAY[mainstay.flow_job(mainstay.new_job('a.b'), needs "
              "=> '{x}')])"),
      Catch::Contains("item 0: needs: no job before it has the name \"x\""));
}

}  // namespace
}  // namespace mainstay::jobs
