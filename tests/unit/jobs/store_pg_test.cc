// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/store.h"
#include "tests/unit/jobs/world.h"

namespace mainstay::jobs {
namespace {

using testing::HasProblem;
using testing::IsOk;
using testing::Sql;
using testing::SqlValue;

struct Db {
  Db() : url(testing::NewMigratedDatabase()), pool({.url = url, .size = 4}) {
    context.principal = {.tenant = "acme", .subject = "user:1"};
  }
  absl::Status Do(absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body) {
    return pool.Transaction(absl::Now() + absl::Seconds(10), body);
  }
  Uuid Add(JobSpec job) {
    Uuid id;
    REQUIRE_THAT(Do([&](pqxx::transaction_base& tx) -> absl::Status {
                   auto added = Enqueue(tx, context, {&job, 1});
                   if (!added.ok()) return added.status();
                   id = (*added)[0].id;
                   return absl::OkStatus();
                 }),
                 IsOk());
    return id;
  }
  absl::StatusOr<JobView> Get(const Uuid& id) {
    absl::StatusOr<JobView> job;
    Do([&](pqxx::transaction_base& tx) { return (job = GetJob(tx, context, id)).status(); }).IgnoreError();
    return job;
  }
  absl::Status Cancel(const Uuid& id) {
    return Do([&](pqxx::transaction_base& tx) { return CancelJob(tx, context, id, "why not").status(); });
  }
  absl::Status Retry(const Uuid& id) {
    return Do([&](pqxx::transaction_base& tx) { return RetryJob(tx, context, id, "fixed").status(); });
  }
  std::string url;
  postgres::Pool pool;
  CallContext context;
};

TEST_CASE("a job is seen by its tenant and by those who see all, by nobody else") {
  Db db;
  const Uuid id = db.Add({.kind = "a.b", .args = "{\"x\": 1.50}", .tags = {"t"}});
  const auto job = db.Get(id);
  REQUIRE_THAT(job, IsOk());
  CHECK(job->state == "ready");
  CHECK(job->args == "{\"x\": 1.50}");
  CHECK(job->tags == "[\"t\"]");
  CHECK(job->created_at.has_value());
  CHECK_FALSE(job->final());
  db.context.principal.tenant = "globex";
  CHECK_THAT(db.Get(id), HasProblem("not-found"));
  CHECK_THAT(db.Cancel(id), HasProblem("not-found"));
  CHECK_THAT(db.Retry(id), HasProblem("not-found"));
  db.context.principal.tenant = "*";
  CHECK_THAT(db.Get(id), IsOk());
}

TEST_CASE("cancelled is final, repeatable, and frees the unique key") {
  Db db;
  const Uuid id = db.Add({.kind = "a.b", .unique_key = "u"});
  CHECK_THAT(db.Cancel(id), IsOk());
  CHECK_THAT(db.Cancel(id), IsOk());
  const auto job = db.Get(id);
  REQUIRE_THAT(job, IsOk());
  CHECK(job->state == "cancelled");
  CHECK(job->errors.find("why not") != std::string::npos);
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.job_unique") == "0");
  CHECK_THAT(db.Retry(id), HasProblem("rule-violation"));
}

TEST_CASE("cancelling the holder of a key passes its turn on") {
  Db db;
  const Uuid first = db.Add({.kind = "a", .ordering_key = "k"}), second = db.Add({.kind = "a", .ordering_key = "k"});
  Sql(db.url, "SELECT * FROM mainstay.promote_job_keys((SELECT array_agg(DISTINCT key_hash) FROM mainstay.jobs))");
  CHECK(SqlValue(db.url, "SELECT job FROM mainstay.job_slots") == first.ToString());
  CHECK(db.Get(first)->state == "published");
  CHECK(db.Get(second)->state == "blocked");
  CHECK_THAT(db.Cancel(first), IsOk());
  CHECK(SqlValue(db.url, "SELECT job FROM mainstay.job_slots") == second.ToString());
  CHECK_THAT(db.Cancel(second), IsOk());
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.job_slots") == "0");
}

TEST_CASE("a dead job runs again with fresh budgets unless its unique key was taken") {
  Db db;
  const Uuid id = db.Add({.kind = "a.b", .unique_key = "u"});
  Sql(db.url,
      "WITH d AS (DELETE FROM mainstay.jobs RETURNING *) INSERT INTO mainstay.jobs_history (id, fence, created_at, "
      "state, priority, attempt, crashes, snoozes, max_attempts, max_crashes, "
      "tenant, kind, queue, args, unique_key, unique_hash, principal, errors) SELECT id, fence, created_at, 9, "
      "priority, 20, 1, 2, "
      "20, 3, tenant, kind, queue, args, unique_key, unique_hash, principal, '[{\"code\":\"x\"}]' FROM d");
  Sql(db.url, "DELETE FROM mainstay.job_unique");
  CHECK_THAT(db.Retry(id), IsOk());
  const auto job = db.Get(id);
  REQUIRE_THAT(job, IsOk());
  CHECK(job->state == "ready");
  CHECK(job->attempt == 0);
  CHECK(job->crashes == 0);
  CHECK(job->fence == 2);
  CHECK(job->errors.find("\"x\"") != std::string::npos);
  CHECK(SqlValue(db.url, "SELECT job FROM mainstay.job_unique") == id.ToString());
  CHECK(SqlValue(db.url, "SELECT options->'retried'->>'reason' FROM mainstay.jobs") == "fixed");

  Sql(db.url,
      "WITH d AS (DELETE FROM mainstay.jobs RETURNING *) INSERT INTO mainstay.jobs_history (id, fence, created_at, "
      "state, priority, attempt, crashes, snoozes, max_attempts, max_crashes, "
      "tenant, kind, queue, args, unique_key, unique_hash, principal) SELECT id, fence, created_at, 9, priority, 20, "
      "1, 2, 20, 3, "
      "tenant, kind, queue, args, unique_key, unique_hash, principal FROM d; "
      "DELETE FROM mainstay.job_unique");
  db.Add({.kind = "a.b", .unique_key = "u"});
  CHECK_THAT(db.Retry(id), HasProblem("unique-violation"));
  CHECK(db.Get(id)->state == "dead");
}

TEST_CASE("queues say what is in them and who paused them") {
  Db db;
  db.Add({.kind = "a"});
  db.Add({.kind = "a", .run_at = absl::Now() + absl::Hours(1)});
  db.Add({.kind = "a", .ordering_key = "k"});
  auto queue = [&](const std::string& name) {
    QueueView view;
    REQUIRE_THAT(db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
      auto queues = ListQueues(tx, db.context, name);
      if (!queues.ok()) return queues.status();
      view = queues->at(0);
      return absl::OkStatus();
    }),
                 IsOk());
    return view;
  };
  QueueView view = queue("default");
  CHECK(view.ready == 1);
  CHECK(view.scheduled == 1);
  CHECK(view.blocked == 1);
  CHECK(view.oldest_age.has_value());
  CHECK_FALSE(view.paused);
  CHECK_THAT(db.Do([&](pqxx::transaction_base& tx) { return PauseQueue(tx, db.context, "default", "provider down"); }),
             IsOk());
  view = queue("default");
  CHECK(view.paused);
  CHECK(view.paused_by == "user:1");
  CHECK(view.paused_reason == "provider down");
  CHECK_THAT(db.Do([&](pqxx::transaction_base& tx) { return ResumeQueue(tx, "default"); }), IsOk());
  CHECK_FALSE(queue("default").paused);
  CHECK_THAT(db.Do([&](pqxx::transaction_base& tx) { return PauseQueue(tx, db.context, "nope", "x"); }),
             HasProblem("not-found"));
}

TEST_CASE("upkeep of the history makes the days ahead and drops those past retention") {
  Db db;
  Sql(db.url,
      "CREATE TABLE mainstay.jobs_history_20200101 PARTITION OF mainstay.jobs_history FOR VALUES FROM ('2020-01-01') "
      "TO ('2020-01-02')");
  CHECK(Sql(testing::Postgres::As(db.url, "mainstay_worker"),
            "SELECT * FROM mainstay.maintain_job_history(5, interval '7 days')")[0] ==
        std::vector<std::string>{"2", "1"});
  CHECK(SqlValue(db.url, "SELECT to_regclass('mainstay.jobs_history_20200101') IS NULL") == "t");
}

}  // namespace
}  // namespace mainstay::jobs
