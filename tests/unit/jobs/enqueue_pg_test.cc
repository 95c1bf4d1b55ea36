// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/enqueue.h"
#include "tests/unit/jobs/world.h"

namespace mainstay::jobs {
namespace {

using testing::HasProblem;
using testing::IsOk;
using testing::Sql;
using testing::SqlValue;

struct Db {
  Db() : url(testing::NewMigratedDatabase()), pool({.url = url, .size = 4}) {
    context.principal = {.tenant = "acme", .subject = "user:1", .roles = {"staff"}};
  }
  absl::StatusOr<std::vector<Enqueued>> Add(const std::vector<JobSpec>& jobs, bool roll_back = false) {
    absl::StatusOr<std::vector<Enqueued>> added;
    const absl::Status status =
        pool.Transaction(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
          added = Enqueue(tx, context, jobs);
          if (!added.ok()) return added.status();
          return roll_back ? absl::CancelledError("rolled back") : absl::OkStatus();
        });
    if (!roll_back && !status.ok()) return status;
    return added;
  }
  std::string url;
  postgres::Pool pool;
  CallContext context;
};

TEST_CASE("a job exists when its transaction commits and never when it rolls back") {
  Db db;
  REQUIRE_THAT(db.Add({{.kind = "a.b", .unique_key = "u", .ordering_key = "k"}}, /*roll_back=*/true), IsOk());
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs") == "0");
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.job_unique") == "0");
  REQUIRE_THAT(db.Add({{.kind = "a.b", .args = R"({"x": 1.50})"}}), IsOk());
  CHECK(SqlValue(db.url, "SELECT args::text FROM mainstay.jobs") == R"({"x": 1.50})");
  CHECK(
      SqlValue(
          db.url,
          "SELECT tenant || ' ' || (principal->>'subject') || ' ' || (principal->'roles')::text FROM mainstay.jobs") ==
      R"(acme user:1 ["staff"])");
}

TEST_CASE("all columns arrive, shared or different from job to job") {
  Db db;
  CallContext other;
  other.principal = {.tenant = "globex", .subject = "source:payments"};
  other.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  db.context.request_id = "req-7";
  const absl::Time later = absl::Now() + absl::Hours(1);
  const auto added = db.Add({{.kind = "a.b", .args = "[1]", .tags = {"x", "y,\"z\""}, .catalog_hash = "h"},
                             {.kind = "c.d",
                              .queue = "mainstay",
                              .args = "[2]",
                              .priority = 9,
                              .run_at = later,
                              .unique_key = "u",
                              .max_attempts = 2,
                              .deadline = later,
                              .context = &other},
                             {.kind = "a.b", .args = "[3]", .ordering_key = "k"}});
  REQUIRE_THAT(added, IsOk());
  const auto rows = Sql(db.url,
                        "SELECT id, tenant, kind, queue, args::text, priority, state, max_attempts, tags[2], "
                        "request_id, traceparent, unique_key, ordering_key, (due_at IS NOT NULL)::text, "
                        "catalog_hash, seq FROM mainstay.jobs ORDER BY args::text");
  REQUIRE(rows.size() == 3);
  for (int i = 0; i < 3; ++i) CHECK(rows[i][0] == (*added)[i].id.ToString());
  CHECK(rows[0][1] == "acme");
  CHECK(rows[1][1] == "globex");
  CHECK(rows[1][3] == "mainstay");
  CHECK(rows[0][5] == "4");
  CHECK(rows[1][5] == "9");
  CHECK(rows[0][6] == "3");
  CHECK(rows[1][6] == "1");
  CHECK(rows[2][6] == "2");
  CHECK(rows[1][7] == "2");
  CHECK(rows[0][8] == "y,\"z\"");
  CHECK(rows[0][9] == "req-7");
  CHECK(rows[1][10] == other.traceparent);
  CHECK(rows[1][11] == "u");
  CHECK(rows[2][12] == "k");
  CHECK(rows[1][13] == "true");
  CHECK(rows[0][14] == "h");
  CHECK_FALSE(rows[2][15].empty());
}

TEST_CASE("while the window is open rows go in as published and the hand-off gets their entries") {
  Db db;
  Sql(db.url, "INSERT INTO mainstay.job_windows VALUES ('default', 4, now() + interval '1 minute')");
  const auto added = db.Add(
      {{.kind = "a.b", .args = "{\"n\":1}"}, {.kind = "a.b", .priority = 5}, {.kind = "a.b", .ordering_key = "k"}});
  REQUIRE_THAT(added, IsOk());
  CHECK((*added)[0].stream == "mainstay:jobs:{default}:4");
  CHECK((*added)[0].entry == (*added)[0].id.ToString() + " 1 0 a.b {\"n\":1}");
  CHECK((*added)[1].stream.empty());  // no such stream yet: backlog
  CHECK((*added)[2].stream.empty());
  CHECK((*added)[2].key.has_value());
  CHECK(SqlValue(db.url, "SELECT string_agg(state::text, '' ORDER BY state) FROM mainstay.jobs") == "234");
  CHECK(SqlValue(db.url, "SELECT key_hash = mainstay.job_key_hash('acme', 'k') FROM mainstay.jobs WHERE state = 2") ==
        "t");
}

TEST_CASE("jobs of one call get their places in the key's order as they stand in it") {
  Db db;
  std::vector<JobSpec> jobs;
  for (int i = 0; i < 300; ++i)
    jobs.push_back({.kind = "a.b", .args = absl::StrCat(i), .ordering_key = absl::StrCat("k", i % 3)});
  REQUIRE_THAT(db.Add(jobs), IsOk());
  CHECK(SqlValue(db.url,
                 "SELECT bool_and(args::text::int = n - 1) FROM (SELECT args, row_number() OVER (ORDER BY seq) AS n "
                 "FROM mainstay.jobs) t") == "t");
}

TEST_CASE("a taken unique key gives the job that holds it, within a call too, per tenant and kind") {
  Db db;
  const auto first = db.Add({{.kind = "a.b", .unique_key = "u"}});
  REQUIRE_THAT(first, IsOk());
  const auto second = db.Add({{.kind = "a.b", .unique_key = "v"},
                              {.kind = "a.b", .unique_key = "u"},
                              {.kind = "a.b", .unique_key = "v"},
                              {.kind = "c.d", .unique_key = "u"}});
  REQUIRE_THAT(second, IsOk());
  CHECK_FALSE((*second)[0].existed);
  CHECK((*second)[1].existed);
  CHECK((*second)[1].id == (*first)[0].id);
  CHECK((*second)[2].existed);
  CHECK((*second)[2].id == (*second)[0].id);
  CHECK_FALSE((*second)[3].existed);
  db.context.principal.tenant = "globex";
  CHECK_FALSE((*db.Add({{.kind = "a.b", .unique_key = "u"}}))[0].existed);
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs") == "4");
  CHECK(SqlValue(db.url,
                 "SELECT bool_and(hash = mainstay.job_unique_hash(tenant, kind, unique_key)) FROM mainstay.jobs j JOIN "
                 "mainstay.job_unique u ON u.job = j.id") == "t");
}

TEST_CASE("every wrong field is named at once and nothing is half-enqueued") {
  Db db;
  const auto result =
      db.Add({{.kind = "ok"},
              {.kind = "Not A Kind",
               .queue = "No!",
               .args = std::string(kMaxArgs + 1, ' '),
               .priority = 10,
               .max_attempts = 0,
               .tags = {""}},
              {.kind = "a", .run_at = absl::Now() + absl::Hours(24 * 366 * 9), .unique_key = std::string(600, 'x')}});
  REQUIRE_THAT(result, HasProblem("validation-failed"));
  std::string names;
  const Problem problem = ProblemFromStatus(result.status());
  for (const auto& error : problem.errors) names += error.name + " ";
  CHECK(names ==
        "/items/1/kind /items/1/queue /items/1/args /items/1/priority /items/1/max_attempts /items/1/tags/0 "
        "/items/2/run_at /items/2/unique_key ");
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs") == "0");
  CHECK_THAT(db.Add(std::vector<JobSpec>(kMaxBatch + 1, JobSpec{.kind = "a"})), HasProblem("validation-failed"));
  CHECK_THAT(db.Add({{.kind = "a", .args = std::string("{\"a\":\"\0\"}", 9)}}), HasProblem("validation-failed"));
  CHECK_THAT(db.Add({{.kind = "a", .tenant = "globex"}}), HasProblem("validation-failed"));
  CHECK_FALSE(db.Add({{.kind = "a", .args = "{not json"}}).ok());
  db.context.principal.tenant = std::string(kAllTenants);
  CHECK_THAT(db.Add({{.kind = "a"}}), HasProblem("validation-failed"));
  CHECK_THAT(db.Add({{.kind = "a", .tenant = "globex"}}), IsOk());
  CHECK_THAT(db.Add({{.kind = "a", .args = "\"" + std::string(kMaxArgs - 2, 'x') + "\"", .tenant = "globex"}}), IsOk());
}

TEST_CASE("SQL enqueues in the caller's own transaction, with the same keys") {
  Db db;
  const auto added = db.Add({{.kind = "a.b", .unique_key = "u", .ordering_key = "k"}});
  REQUIRE_THAT(added, IsOk());
  CHECK(SqlValue(db.url, "SELECT mainstay.enqueue('a.b', '{}', 'acme', unique_key => 'u')") ==
        FormatId("job", (*added)[0].id));
  const auto id = ParseId(
      "job",
      SqlValue(db.url, "SELECT mainstay.enqueue('c.d', '{\"x\": 1}', 'acme', ordering_key => 'k', priority => 7)"));
  REQUIRE_THAT(id, IsOk());
  CHECK((id->bytes[6] >> 4) == 7);
  CHECK(((id->bytes[8] >> 6) & 3) == 2);
  CHECK(SqlValue(db.url, "SELECT count(DISTINCT key_hash) FROM mainstay.jobs WHERE ordering_key = 'k'") == "1");
  Sql(db.url, "BEGIN; SELECT mainstay.enqueue('gone'); ROLLBACK");
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs WHERE kind = 'gone'") == "0");
  for (const char* bad :
       {"mainstay.enqueue('No Kind')", "mainstay.enqueue('a', tenant => '*')", "mainstay.enqueue('a', queue => 'nope')",
        "mainstay.enqueue('a', priority => 10)", "mainstay.enqueue('a', max_attempts => 0)",
        "mainstay.enqueue('a', to_json(repeat('x', 300000)))"}) {
    INFO(bad);
    CHECK_THROWS(Sql(db.url, absl::StrCat("SELECT ", bad)));
  }
  CHECK_THROWS(Sql(testing::Postgres::As(db.url, "mainstay_webhooks"), "DELETE FROM mainstay.jobs"));
  CHECK_NOTHROW(Sql(testing::Postgres::As(db.url, "mainstay_webhooks"), "SELECT mainstay.enqueue('as.webhooks')"));
}

}  // namespace
}  // namespace mainstay::jobs
