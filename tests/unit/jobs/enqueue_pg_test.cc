// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <set>
#include <thread>

#include "libs/base/text.h"
#include "libs/jobs/enqueue.h"
#include "libs/jobs/merging.h"
#include "libs/jobs/sealer.h"
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

// ---- unique keys ----

TEST_CASE("F53: of 1,000 producers with one unique key, ten at a time, one makes the job and all get it") {
  Db db;
  std::vector<std::thread> producers;
  absl::Mutex mu;
  std::set<Uuid> ids;
  int fresh = 0;
  postgres::Pool pool({.url = db.url, .size = 10, .acquire_timeout = absl::Seconds(30)});
  for (int t = 0; t < 10; ++t) {
    producers.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        absl::StatusOr<std::vector<Enqueued>> added;
        const absl::Status status =
            pool.Transaction(absl::Now() + absl::Seconds(60), [&](pqxx::transaction_base& tx) -> absl::Status {
              const JobSpec spec{.kind = "a.b", .unique_key = "u"};
              added = Enqueue(tx, db.context, {&spec, 1});
              return added.status();
            });
        absl::MutexLock lock(&mu);
        if (!status.ok()) continue;
        ids.insert((*added)[0].id);
        fresh += (*added)[0].existed ? 0 : 1;
      }
    });
  }
  for (auto& producer : producers) producer.join();
  CHECK(ids.size() == 1);
  CHECK(fresh == 1);
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs") == "1");
}

TEST_CASE("F53: a unique key waits for a holder on its way to its end, and is free when that end commits") {
  Db db;
  const auto first = db.Add({{.kind = "a.b", .unique_key = "u"}});
  REQUIRE_THAT(first, IsOk());
  auto other = std::make_unique<pqxx::connection>(db.url);
  auto ending = std::make_unique<pqxx::work>(*other);
  ending->exec("DELETE FROM mainstay.jobs; DELETE FROM mainstay.job_unique");
  absl::StatusOr<std::vector<Enqueued>> second;
  std::thread producer([&] { second = db.Add({{.kind = "a.b", .unique_key = "u"}}); });
  REQUIRE(Eventually([&] {
    return SqlValue(db.url,
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = "
                    "current_database()") == "1";
  }));
  ending->commit();
  producer.join();
  REQUIRE_THAT(second, IsOk());
  CHECK_FALSE((*second)[0].existed);
}

TEST_CASE("a unique key reaches as far as its scope") {
  Db db;
  auto one = [&](const char* kind, const char* queue, UniqueScope scope) {
    const auto added = db.Add({{.kind = kind, .queue = queue, .unique_key = "u", .unique_scope = scope}});
    REQUIRE_THAT(added, IsOk());
    return (*added)[0].existed;
  };
  CHECK_FALSE(one("a.b", "default", UniqueScope::kTenant));
  CHECK(one("c.d", "mainstay", UniqueScope::kTenant));
  CHECK_FALSE(one("a.b", "default", UniqueScope::kQueue));
  CHECK(one("c.d", "default", UniqueScope::kQueue));
  CHECK_FALSE(one("c.d", "mainstay", UniqueScope::kQueue));
  CHECK_FALSE(one("a.b", "default", UniqueScope::kKind));
  CHECK(SqlValue(db.url,
                 "SELECT existed FROM mainstay.enqueue_batch(ARRAY[mainstay.new_job('x', tenant => 'acme', "
                 "unique_key => 'u', unique_scope => 'tenant')])") == "t");
  CHECK(SqlValue(db.url,
                 "SELECT existed FROM mainstay.enqueue_batch(ARRAY[mainstay.new_job('x', tenant => 'acme', "
                 "unique_key => 'u', unique_scope => 'queue')])") == "t");
}

TEST_CASE("a unique key that is held for a time is free after it, whatever became of its job; a kept one not before") {
  Db db;
  const JobSpec hour{.kind = "a.b", .unique_key = "u", .unique_for = absl::Hours(1)};
  JobSpec day{.kind = "a.b", .unique_key = "v", .unique_bucket = UniqueBucket::kDay, .unique_keep = true};
  REQUIRE_THAT(db.Add({hour, day}), IsOk());
  CHECK((*db.Add({hour}))[0].existed);
  CHECK(SqlValue(db.url,
                 "SELECT bool_and(expires_at BETWEEN now() + interval '50 minutes' AND now() + interval '61 "
                 "minutes') FROM mainstay.job_unique WHERE hash = mainstay.job_unique_hash('acme', 'a.b', 'u')") ==
        "t");
  CHECK(SqlValue(db.url,
                 "SELECT expires_at = (date_trunc('day', now() AT TIME ZONE 'UTC') + interval '1 day') AT TIME "
                 "ZONE 'UTC' FROM mainstay.job_unique WHERE hash = mainstay.job_unique_hash('acme', 'a.b', "
                 "'v')") == "t");
  // What the job's end frees.
  CHECK(SqlValue(db.url, "SELECT string_agg(unique_key, ',') FROM mainstay.jobs WHERE unique_hash IS NOT NULL") == "u");
  Sql(db.url, "UPDATE mainstay.job_unique SET expires_at = now() - interval '1 second'");
  const auto again = db.Add({hour, day});
  REQUIRE_THAT(again, IsOk());
  CHECK_FALSE((*again)[0].existed);
  CHECK_FALSE((*again)[1].existed);
  CHECK(SqlValue(db.url,
                 "SELECT count(*) FROM mainstay.job_unique u JOIN mainstay.jobs j ON j.id = u.job AND "
                 "u.expires_at > now()") == "2");
}

TEST_CASE("replace gives a job that has not started its new arguments, under a raised fence when it was handed out") {
  Db db;
  auto replace = [&](const char* args) {
    const auto added = db.Add({{.kind = "a.b", .args = args, .unique_key = "u", .on_conflict = OnConflict::kReplace}});
    REQUIRE_THAT(added, IsOk());
    return (*added)[0];
  };
  const Uuid id = replace("[1]").id;
  const Enqueued waiting = replace("[2]");
  CHECK(waiting.id == id);
  CHECK(waiting.existed);
  CHECK(waiting.replaced);
  CHECK(SqlValue(db.url, "SELECT args::text || ' ' || fence || ' ' || state FROM mainstay.jobs") == "[2] 1 3");
  Sql(db.url, "UPDATE mainstay.jobs SET state = 4, published_at = now()");
  CHECK(replace("[3]").replaced);
  CHECK(SqlValue(db.url,
                 "SELECT args::text || ' ' || fence || ' ' || state || ' ' || (due_at <= now()) FROM "
                 "mainstay.jobs") == "[3] 2 1 true");
  Sql(db.url, "UPDATE mainstay.jobs SET state = 5, due_at = NULL, started_at = now()");
  const Enqueued running = replace("[4]");
  CHECK(running.existed);
  CHECK_FALSE(running.replaced);
  CHECK(SqlValue(db.url, "SELECT args::text || ' ' || fence FROM mainstay.jobs") == "[3] 2");
  // Within one call the last one counts.
  const auto both = db.Add({{.kind = "c.d", .args = "[1]", .unique_key = "u"},
                            {.kind = "c.d", .args = "[2]", .unique_key = "u", .on_conflict = OnConflict::kReplace}});
  REQUIRE_THAT(both, IsOk());
  CHECK((*both)[1].replaced);
  CHECK(SqlValue(db.url, "SELECT args::text FROM mainstay.jobs WHERE kind = 'c.d'") == "[2]");
}

TEST_CASE("reject refuses the whole call, names the item and the job that holds the key") {
  Db db;
  const auto first = db.Add({{.kind = "a.b", .unique_key = "u"}});
  REQUIRE_THAT(first, IsOk());
  const auto second = db.Add({{.kind = "a.b"}, {.kind = "a.b", .unique_key = "u", .on_conflict = OnConflict::kReject}});
  REQUIRE_THAT(second, HasProblem("unique-violation"));
  const Problem problem = ProblemFromStatus(second.status());
  REQUIRE(problem.errors.size() == 1);
  CHECK(problem.errors[0].name == "/items/1/unique_key");
  CHECK(problem.errors[0].detail == "held by " + FormatId("job", (*first)[0].id));
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs") == "1");
}

// ---- the other options ----

TEST_CASE("everything a job can ask for stands in its row") {
  Db db;
  Sql(db.url, "INSERT INTO mainstay.job_windows VALUES ('default', 4, now() + interval '1 minute')");
  const std::string trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const auto added = db.Add({{.kind = "a.b",
                              .concurrency_key = "c",
                              .concurrency_limit = 3,
                              .version = 2,
                              .traceparent = trace,
                              .options = {.backoff = BackoffPolicy::Kind::kFixed,
                                          .soft_limit = absl::Seconds(5),
                                          .retention = absl::Hours(1)}},
                             {.kind = "a.b", .version = 2}});
  REQUIRE_THAT(added, IsOk());
  CHECK((*added)[0].stream.empty());  // the dispatcher counts it
  CHECK_FALSE((*added)[1].stream.empty());
  const auto row = Sql(db.url,
                       "SELECT state, concurrency_key, concurrency_limit, version, traceparent, "
                       "options->'backoff'->>'kind', options->>'soft_ms', options->>'retention_s', limit_hash = "
                       "mainstay.job_key_hash('acme', 'c') FROM mainstay.jobs WHERE concurrency_key IS NOT NULL");
  CHECK(row[0] == std::vector<std::string>{"2", "c", "3", "2", trace, "fixed", "5000", "3600", "t"});
  CHECK(SqlValue(db.url, "SELECT version::text || state FROM mainstay.jobs WHERE concurrency_key IS NULL") == "24");
  CHECK(ParseJobOptions(SqlValue(db.url, "SELECT options FROM mainstay.jobs WHERE options IS NOT NULL"))->retention ==
        absl::Hours(1));
}

TEST_CASE("impossible wishes are refused by name") {
  Db db;
  auto name = [&](JobSpec spec) {
    const auto added = db.Add({std::move(spec)});
    const Problem problem = ProblemFromStatus(added.ok() ? absl::InternalError("accepted") : added.status());
    return problem.errors.empty() ? std::string("none") : problem.errors[0].name;
  };
  const absl::Time later = absl::Now() + absl::Hours(1);
  CHECK(name({.kind = "a", .concurrency_key = "k"}) == "/concurrency_limit");
  CHECK(name({.kind = "a", .concurrency_limit = 1}) == "/concurrency_key");
  CHECK(name({.kind = "a", .concurrency_key = "k", .concurrency_limit = -1}) == "/concurrency_limit");
  CHECK(name({.kind = "a", .unique_for = absl::Hours(1)}) == "/unique_key");
  CHECK(name({.kind = "a", .unique_key = "u", .unique_for = -absl::Hours(1)}) == "/unique_for");
  CHECK(name({.kind = "a", .unique_key = "u", .unique_keep = true}) == "/unique_keep");
  CHECK(name({.kind = "a", .unique_key = "u", .unique_for = absl::Hours(1), .unique_bucket = UniqueBucket::kDay}) ==
        "/unique_bucket");
  CHECK(name({.kind = "a", .version = -1}) == "/version");
  CHECK(name({.kind = "a", .traceparent = "00-x"}) == "/traceparent");
  CHECK(name({.kind = "a", .run_at = later, .deadline = later - absl::Seconds(1)}) == "/deadline");
  CHECK(name({.kind = "a", .options = {.hard_limit = -absl::Seconds(1)}}) == "/hard_limit");
  CHECK(name({.kind = "a", .queue = "nobody-has-it"}) == "/queue");
  CHECK(name({.kind = "a", .args = "{not json"}) == "/args");
  CHECK(name({.kind = "a", .sensitive = true}) == "/sensitive");
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs") == "0");
  // Declared a moment ago, in a catalog that no worker has read yet.
  CHECK(name({.kind = "a", .queue = "brand-new", .catalog_hash = "h"}) == "none");
  CHECK(SqlValue(db.url, "SELECT queue || ' ' || priority || ' ' || state FROM mainstay.jobs") == "brand-new 4 3");
}

TEST_CASE("sensitive arguments are sealed in the row, for this job alone, and in no entry") {
  Db db;
  Sql(db.url, "INSERT INTO mainstay.job_windows VALUES ('default', 4, now() + interval '1 minute')");
  secrets::KeyRing ring;
  ring.keys.emplace_back("k1", std::string(32, 'x'));
  const Sealer sealer(ring);
  const JobSpec spec{.kind = "a.b", .args = R"({"card": "4111"})", .sensitive = true};
  std::vector<Enqueued> added;
  REQUIRE_THAT(db.pool.Transaction(absl::Now() + absl::Seconds(10),
                                   [&](pqxx::transaction_base& tx) -> absl::Status {
                                     auto result = Enqueue(tx, db.context, {&spec, 1}, &sealer);
                                     if (result.ok()) added = *result;
                                     return result.status();
                                   }),
               IsOk());
  CHECK_FALSE(added[0].stream.empty());
  CHECK(added[0].entry.find("4111") == std::string::npos);
  CHECK(SqlValue(db.url, "SELECT args::text FROM mainstay.jobs") == "null");
  CHECK(SqlValue(db.url, "SELECT args::text FROM mainstay.jobs_view") == "\"[sensitive]\"");
  const auto sealed = HexDecode(SqlValue(db.url, "SELECT encode(sensitive_args, 'hex') FROM mainstay.jobs"));
  REQUIRE(sealed.has_value());
  CHECK(sealed->find("4111") == std::string::npos);
  CHECK(*sealer.Open("acme", added[0].id, *sealed) == spec.args);
  CHECK_FALSE(sealer.Open("globex", added[0].id, *sealed).ok());
  CHECK_FALSE(sealer.Open("acme", NewUuid(), *sealed).ok());
  secrets::KeyRing other;
  other.keys.emplace_back("k2", std::string(32, 'x'));
  CHECK_FALSE(Sealer(other).Open("acme", added[0].id, *sealed).ok());
  CHECK_FALSE(sealer.Open("acme", added[0].id, "").ok());
}

TEST_CASE("F43: 256 KiB of arguments are stored, one byte more is refused with its size, a hundred times as many too") {
  Db db;
  auto string = [](size_t bytes) { return "\"" + std::string(bytes - 2, 'x') + "\""; };
  REQUIRE_THAT(db.Add({{.kind = "a", .args = string(kMaxArgs)}}), IsOk());
  CHECK(SqlValue(db.url, "SELECT octet_length(args::text) FROM mainstay.jobs") == std::to_string(kMaxArgs));
  for (const size_t bytes : {kMaxArgs + 1, kMaxArgs * 100}) {
    const auto refused = db.Add({{.kind = "ok"}, {.kind = "a", .args = string(bytes)}});
    REQUIRE_THAT(refused, HasProblem("validation-failed"));
    const Problem problem = ProblemFromStatus(refused.status());
    CHECK(problem.errors[0].name == "/items/1/args");
    CHECK(problem.errors[0].detail == absl::StrCat("has ", bytes, " bytes, the limit is 262144"));
    try {
      Sql(db.url, absl::StrCat("SELECT mainstay.enqueue('a', to_json(repeat('x', ", bytes - 2, ")))"));
      FAIL("accepted");
    } catch (const std::exception& e) {
      CHECK_THAT(std::string(e.what()), Catch::Contains(absl::StrCat("args: has ", bytes, " bytes")));
    }
  }
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs") == "1");
}

TEST_CASE("F29: a savepoint rolled back takes its jobs and their unique keys along, and nothing else") {
  Db db;
  REQUIRE_THAT(db.pool.Transaction(absl::Now() + absl::Seconds(10),
                                   [&](pqxx::transaction_base& tx) -> absl::Status {
                                     const JobSpec kept{.kind = "kept", .unique_key = "u"};
                                     const JobSpec gone{.kind = "gone", .unique_key = "u", .ordering_key = "k"};
                                     if (auto added = Enqueue(tx, db.context, {&kept, 1}); !added.ok())
                                       return added.status();
                                     tx.exec("SAVEPOINT s");
                                     if (auto added = Enqueue(tx, db.context, {&gone, 1}); !added.ok())
                                       return added.status();
                                     tx.exec("ROLLBACK TO SAVEPOINT s");
                                     return absl::OkStatus();
                                   }),
               IsOk());
  CHECK(SqlValue(db.url, "SELECT string_agg(kind, ',') FROM mainstay.jobs") == "kept");
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.job_unique") == "1");
  CHECK_FALSE((*db.Add({{.kind = "gone", .unique_key = "u"}}))[0].existed);
}

TEST_CASE("F29: 100,000 jobs of a trigger that aborts leave nothing") {
  Db db;
  Sql(db.url,
      "CREATE TABLE orders (id int); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE part int; "
      "BEGIN "
      "FOR part IN SELECT DISTINCT id / 10000 FROM fresh LOOP PERFORM mainstay.enqueue_batch(ARRAY(SELECT "
      "mainstay.new_job('order.placed', json_build_object('id', n.id), unique_key => n.id::text) FROM fresh n WHERE "
      "n.id / "
      "10000 = part)); END LOOP; RETURN NULL; END $$; CREATE TRIGGER t AFTER INSERT ON orders REFERENCING NEW TABLE AS "
      "fresh FOR EACH STATEMENT EXECUTE FUNCTION note()");
  Sql(db.url, "BEGIN; INSERT INTO orders SELECT generate_series(0, 99999); ROLLBACK");
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs") == "0");
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.job_unique") == "0");
  Sql(db.url, "INSERT INTO orders SELECT generate_series(0, 99)");
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs WHERE args::json->>'id' = unique_key") == "100");
}

// ---- SQL ----

TEST_CASE("SQL asks for everything that C++ can ask for, and is refused by the field's name") {
  Db db;
  Sql(db.url,
      "SELECT mainstay.enqueue('a.b', '{\"x\": 1.50}', tenant => 'acme', delay => '1 hour', unique_key => 'u', "
      "unique_for "
      "=> '2 hours', unique_keep => true, concurrency_key => 'c', concurrency_limit => 2, version => 3, backoff => "
      "'fixed', backoff_base => '2 seconds', soft_limit => '1 minute', hard_limit => '2 minutes', retention => '1 "
      "day', "
      "ordering_key => 'k', tags => ARRAY['t'], traceparent => "
      "'00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01')");
  const auto row = Sql(db.url,
                       "SELECT args::text, state, due_at > now() + interval '59 minutes', concurrency_key, "
                       "concurrency_limit, limit_hash = mainstay.job_key_hash('acme', 'c'), version, unique_hash IS "
                       "NULL, unique_key, ordering_key, tags, options FROM mainstay.jobs");
  CHECK(
      row[0] ==
      std::vector<std::string>{
          "{\"x\": 1.50}", "1", "t", "c", "2", "t", "3", "t", "u", "k", "{t}",
          R"({"backoff": {"kind": "fixed", "base_ms": 2000}, "hard_ms": 120000, "soft_ms": 60000, "retention_s": 86400})"});
  const std::vector<std::pair<std::string, std::string>> refusals = {
      {"'No Kind'", "kind"},
      {"'a', NULL", "args"},
      {"'a', tenant => '*'", "tenant"},
      {"'a', queue => 'nope'", "queue"},
      {"'a', priority => 10", "priority"},
      {"'a', max_attempts => 0", "max_attempts"},
      {"'a', run_at => now() + interval '9 years'", "run_at"},
      {"'a', delay => '-1 second'", "delay"},
      {"'a', delay => '1 second', run_at => now()", "delay"},
      {"'a', unique_keep => true", "unique_key"},
      {"'a', unique_key => 'u', unique_scope => 'planet'", "unique_scope"},
      {"'a', unique_key => 'u', unique_bucket => 'fortnight'", "unique_bucket"},
      {"'a', on_conflict => 'shrug'", "on_conflict"},
      {"'a', concurrency_key => 'c'", "concurrency_limit"},
      {"'a', concurrency_key => 'c', concurrency_limit => -3", "concurrency_limit"},
      {"'a', hard_limit => '-1 second'", "hard_limit"},
      {"'a', backoff => 'linear'", "backoff"},
      {"'a', traceparent => 'x'", "traceparent"},
      {"'a', version => -1", "version"}};
  for (const auto& [arguments, field] : refusals) {
    INFO(arguments);
    try {
      Sql(db.url, absl::StrCat("SELECT mainstay.enqueue(", arguments, ")"));
      FAIL_CHECK("accepted");
    } catch (const std::exception& e) {
      CHECK_THAT(std::string(e.what()), Catch::Contains(absl::StrCat("mainstay.enqueue: ", field, ":")));
    }
  }
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs") == "1");
  CHECK_NOTHROW(Sql(testing::Postgres::As(db.url, "mainstay_webhooks"), "SELECT mainstay.enqueue('as.webhooks')"));
}

TEST_CASE("many jobs from SQL are all added or none, in order, and unique ones among them find each other") {
  Db db;
  CHECK(SqlValue(db.url,
                 "SELECT string_agg(item || ' ' || existed, ',' ORDER BY item) FROM mainstay.enqueue_batch(ARRAY["
                 "mainstay.new_job('a', '1', unique_key => 'u', ordering_key => 'k'), "
                 "mainstay.new_job('a', '2', unique_key => 'u', on_conflict => 'replace'), "
                 "mainstay.new_job('b', '3', ordering_key => 'k')])") == "0 false,1 true,2 false");
  CHECK(SqlValue(db.url, "SELECT string_agg(args::text, ',' ORDER BY seq) FROM mainstay.jobs") == "2,3");
  try {
    Sql(db.url, "SELECT mainstay.enqueue_batch(ARRAY[mainstay.new_job('ok'), mainstay.new_job('a', priority => 11)])");
    FAIL_CHECK("accepted");
  } catch (const std::exception& e) {
    CHECK_THAT(std::string(e.what()), Catch::Contains("item 1: priority: 11 is not between 0 (first) and 9 (last)"));
  }
  CHECK_THROWS(Sql(db.url,
                   "SELECT mainstay.enqueue_batch(ARRAY[mainstay.new_job('ok'), mainstay.new_job('a', "
                   "unique_key => 'u', on_conflict => 'reject')])"));
  CHECK_THROWS(Sql(db.url,
                   "SELECT mainstay.enqueue_batch(array_agg(mainstay.new_job('ok'))) FROM generate_series(1, "
                   "10001)"));
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs") == "2");
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.enqueue_batch('{}')") == "0");
}

// ---- merged ----

struct Counting : Handoff {
  void Publish(absl::Span<const Enqueued> jobs) override {
    absl::MutexLock lock(&mu);
    ++calls;
    published += jobs.size();
  }
  absl::Mutex mu;
  size_t calls = 0, published = 0;
};

TEST_CASE("single enqueues of many callers share commits, and each is answered with its own job") {
  Db db;
  Counting handoff;
  MergingEnqueuer merging(db.pool, handoff);
  std::vector<std::thread> callers;
  absl::Mutex mu;
  std::set<Uuid> ids;
  for (int t = 0; t < 16; ++t) {
    callers.emplace_back([&, t] {
      CallContext context = db.context;
      context.deadline = absl::Now() + absl::Seconds(60);
      context.principal.subject = absl::StrCat("user:", t);
      for (int i = 0; i < 50; ++i) {
        const auto added = merging.Enqueue(context, {.kind = "a.b", .args = absl::StrCat(t)});
        absl::MutexLock lock(&mu);
        if (added.ok()) ids.insert(added->id);
      }
    });
  }
  for (auto& caller : callers) caller.join();
  CHECK(ids.size() == 800);
  CHECK(handoff.published == 800);
  CHECK(handoff.calls < 800);
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs WHERE principal->>'subject' = 'user:' || args::text") ==
        "800");
}

TEST_CASE("one bad job among merged ones fails alone") {
  Db db;
  Counting handoff;
  MergingEnqueuer merging(db.pool, handoff);
  REQUIRE_THAT(db.Add({{.kind = "a.b", .unique_key = "u"}}), IsOk());
  std::vector<std::thread> callers;
  std::atomic<int> good{0}, rejected{0}, no_json{0}, invalid{0};
  for (int t = 0; t < 12; ++t) {
    callers.emplace_back([&, t] {
      CallContext context = db.context;
      context.deadline = absl::Now() + absl::Seconds(60);
      for (int i = 0; i < 20; ++i) {
        JobSpec spec{.kind = "a.b"};
        if (t == 0) spec.unique_key = "u", spec.on_conflict = OnConflict::kReject;
        if (t == 1) spec.args = "{not json";
        if (t == 2) spec.kind = "Not A Kind";
        const auto added = merging.Enqueue(context, spec);
        const std::string type = added.ok() ? "" : ProblemFromStatus(added.status()).type;
        if (added.ok() && t > 2) ++good;
        if (type == "unique-violation" && t == 0) ++rejected;
        if (type == "validation-failed" && t == 1) ++no_json;
        if (type == "validation-failed" && t == 2) ++invalid;
      }
    });
  }
  for (auto& caller : callers) caller.join();
  CHECK(good == 180);
  CHECK(rejected == 20);
  CHECK(no_json == 20);
  CHECK(invalid == 20);
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.jobs") == "181");
}

TEST_CASE("callers beyond the bound are told to come back, and one past its deadline that its job does not exist") {
  Db db;
  Counting handoff;
  MergingEnqueuer merging(db.pool, handoff, nullptr, {.waiting = 1});
  pqxx::connection other(db.url);
  auto blocker = std::make_unique<pqxx::work>(other);
  blocker->exec("LOCK TABLE mainstay.jobs IN ACCESS EXCLUSIVE MODE");
  CallContext context = db.context;
  context.deadline = absl::Now() + absl::Seconds(60);
  absl::StatusOr<Enqueued> first;
  std::thread leader([&] { first = merging.Enqueue(context, {.kind = "first"}); });
  REQUIRE(Eventually([&] {
    return SqlValue(
               testing::Postgres::Shared().url(),
               "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE "
               "'%jobs_enqueue_alike%' OR (wait_event_type = 'Lock' AND query LIKE '%INSERT INTO mainstay.jobs%')") !=
           "0";
  }));
  CallContext hurried = context;
  hurried.deadline = absl::Now() + absl::Seconds(3);
  absl::StatusOr<Enqueued> second;
  std::thread waiter([&] {  // again while the one place is taken by a third
    do second = merging.Enqueue(hurried, {.kind = "second"});
    while (ProblemFromStatus(second.status()).type == "overloaded");
  });
  absl::StatusOr<Enqueued> third;
  const bool refused = Eventually(
      [&] {
        CallContext now = context;
        now.deadline = absl::Now();
        third = merging.Enqueue(now, {.kind = "third"});
        return ProblemFromStatus(third.status()).type == "overloaded";
      },
      absl::Seconds(3));
  waiter.join();
  CHECK(refused);
  CHECK_THAT(second, HasProblem("query-timeout"));
  blocker->commit();
  leader.join();
  CHECK_THAT(first, IsOk());
  CHECK(SqlValue(db.url, "SELECT string_agg(kind, ',') FROM mainstay.jobs") == "first");
}

}  // namespace
}  // namespace mainstay::jobs
