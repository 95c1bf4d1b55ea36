// SPDX-License-Identifier: Apache-2.0
// What filters over jobs find, and that they find it by the indexes they are meant for.
#include <catch2/catch.hpp>
#include <pqxx/pqxx>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/http/list_query.h"
#include "libs/jobs/enqueue.h"
#include "libs/postgres/pool.h"
#include "services/worker/job_query.h"
#include "tests/support/postgres.h"
#include "tests/support/status.h"

namespace mainstay::worker {
namespace {

using testing::HasProblem;
using testing::IsOk;
using testing::Sql;

struct Db {
  Db() : url(testing::NewMigratedDatabase()), pool({.url = url, .size = 4}) {
    context.principal = {.tenant = "acme", .subject = "user:1"};
  }
  absl::Status Do(absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body) {
    return pool.Transaction(absl::Now() + absl::Seconds(20), body);
  }
  // state, and what else differs
  void Done(int state, const std::string& kind, const std::string& more = "NULL, NULL, NULL, NULL") {
    Sql(url, absl::StrCat("INSERT INTO mainstay.jobs_history (id, fence, created_at, kind, state, priority, attempt, "
                          "crashes, snoozes, max_attempts, max_crashes, tenant, queue, args, principal, tags, "
                          "ordering_key, unique_key, fingerprint) VALUES (mainstay.new_job_id(), 1, now(), '",
                          kind, "', ", state, ", 4, 1, 0, 0, 2, 3, 'acme', 'default', '{}', '{\"subject\":\"u\"}', ",
                          more, ")"));
  }
  void Hot(int state, const std::string& kind, const std::string& columns = "", const std::string& values = "") {
    Sql(url, absl::StrCat("INSERT INTO mainstay.jobs (id, kind, state, priority, max_attempts, max_crashes, tenant, "
                          "queue, args, principal",
                          columns, ") VALUES (mainstay.new_job_id(), '", kind, "', ", state,
                          ", 4, 2, 3, 'acme', 'default', '{}', '{\"subject\":\"u\"}'", values, ")"));
  }
  absl::StatusOr<std::string> Kinds(const std::string& query) {
    std::string kinds;
    const auto parsed = http::ParseListQuery(query);
    if (!parsed.ok()) return parsed.status();
    const absl::Status status = Do([&](pqxx::transaction_base& tx) -> absl::Status {
      auto page = queries.List(tx, context, *parsed);
      if (!page.ok()) return page.status();
      size_t column = 0;
      while (page->fields[column] != "kind") ++column;
      kinds.clear();
      for (const auto& row : page->rows) absl::StrAppend(&kinds, kinds.empty() ? "" : " ", *row[column]);
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    return kinds;
  }
  std::string Get(const std::string& query) {
    const auto kinds = Kinds(query);
    REQUIRE_THAT(kinds, IsOk());
    return *kinds;
  }

  std::string url;
  postgres::Pool pool;
  CallContext context;
  JobQueries queries{[] { return std::make_shared<const catalog::Model>(); }, std::string(32, 'k')};
};

TEST_CASE("a filter finds waiting and finished jobs by every field it may name") {
  Db db;
  db.Done(6, "ok.one");
  db.Done(9, "dead.one", "ARRAY['red'], 'o1', 'u1', 'f1'");
  db.Done(9, "dead.two", "ARRAY['red', 'blue'], 'o2', NULL, 'f2'");
  db.Done(8, "off.one");
  db.Hot(3, "ready.one", ", tags", ", ARRAY['red']");
  db.Hot(1, "later.one", ", due_at, run_at", ", now() + interval '1 hour', now() + interval '1 hour'");
  db.Hot(5, "runs.one", ", worker, started_at", ", gen_random_uuid(), now()");
  db.Hot(2, "turn.one", ", ordering_key, key_hash, seq", ", 'o1', mainstay.job_key_hash('acme', 'o1'), 1");
  db.Hot(2, "turn.two", ", ordering_key, key_hash, seq", ", 'o1', mainstay.job_key_hash('acme', 'o1'), 2");
  Sql(db.url,
      "INSERT INTO mainstay.job_slots (key_hash, job, fence) SELECT key_hash, id, 1 FROM mainstay.jobs WHERE "
      "kind = 'turn.one'");

  CHECK(db.Get("") == "turn.two turn.one runs.one later.one ready.one off.one dead.two dead.one ok.one");
  CHECK(db.Get("filter[state]=dead") == "dead.two dead.one");
  CHECK(db.Get("filter[state][in]=dead,cancelled") == "off.one dead.two dead.one");
  CHECK(db.Get("filter[state]=ready") == "ready.one");
  CHECK(db.Get("filter[state]=scheduled") == "later.one");
  CHECK(db.Get("filter[state]=running") == "runs.one");
  CHECK(db.Get("filter[state]=published") == "turn.one");  // holds the slot of its key
  CHECK(db.Get("filter[state]=blocked") == "turn.two");
  CHECK(db.Get("filter[state][in]=blocked,published,ready") == "turn.two turn.one ready.one");
  CHECK(db.Get("filter[state][in]=ready,dead") == "ready.one dead.two dead.one");
  CHECK(db.Get("filter[state][eq]=ready&filter[state][in]=dead,ready") == "ready.one");
  CHECK(db.Get("filter[not][state]=dead&filter[tags][has]=red") == "ready.one");
  CHECK(db.Get("filter[or][0][state]=dead&filter[or][1][kind]=ok.one") == "dead.two dead.one ok.one");
  CHECK(db.Get("filter[tags][has]=blue") == "dead.two");
  CHECK(db.Get("filter[tags][has]=red&filter[state]=dead") == "dead.two dead.one");
  CHECK(db.Get("filter[ordering_key]=o1") == "turn.two turn.one dead.one");
  CHECK(db.Get("filter[ordering_key]=o1&filter[state]=blocked") == "turn.two");
  CHECK(db.Get("filter[unique_key]=u1") == "dead.one");
  CHECK(db.Get("filter[fingerprint]=f2") == "dead.two");
  CHECK(db.Get("filter[state]=asleep").empty());
  CHECK(db.Get("filter[created_at][gte]=2026-01-01T00:00:00Z&filter[state]=cancelled").find("off.one") == 0);
  CHECK(db.Get("filter[created_at][lt]=2020-01-01T00:00:00Z").empty());
  CHECK(db.Get("sort=created_at&filter[state][in]=ready,scheduled&limit=1") == "ready.one");

  db.context.principal.tenant = "globex";
  CHECK(db.Get("").empty());
  db.context.principal.tenant = "*";
  CHECK(db.Get("filter[ordering_key]=o1&filter[tenant]=acme") == "turn.two turn.one dead.one");
}

TEST_CASE("ids find their jobs by the key, whatever is no id finds none, and inner names stay unknown") {
  Db db;
  db.Done(6, "a.a");
  db.Hot(3, "b.b");
  const auto one = *ParseUuid(testing::SqlValue(db.url, "SELECT id FROM mainstay.jobs_history"));
  const auto two = *ParseUuid(testing::SqlValue(db.url, "SELECT id FROM mainstay.jobs"));
  CHECK(db.Get("filter[id]=" + FormatId("job", one)) == "a.a");
  CHECK(db.Get("filter[id][in]=" + FormatId("job", two) + "," + FormatId("job", one) + ",nonsense") == "b.b a.a");
  CHECK(db.Get("filter[id]=nonsense").empty());
  CHECK(db.Get("filter[id][gt]=" + FormatId("job", one)) == "b.b");
  CHECK_THAT(db.Kinds("filter[id][contains]=job"), HasProblem("filter-invalid"));
  for (const char* inner : {"uid", "due_at", "key_hash", "state_number", "worker_uid"})
    CHECK_THAT(db.Kinds(absl::StrCat("filter[", inner, "][is_null]=true")), HasProblem("unknown-field"));
  CHECK_THAT(db.Kinds("fields=uid"), HasProblem("unknown-field"));
}

TEST_CASE("an operation's jobs are those of its kind that were there before it") {
  Db db;
  db.Done(6, "a.a");
  db.Done(9, "a.a");
  db.Hot(3, "a.a");
  db.Hot(3, jobs::kOperationKind);
  const absl::Time now = absl::FromUnixMicros(
      std::stoll(testing::SqlValue(db.url, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")));
  auto count = [&](const char* kind, const char* filter, absl::Time created) {
    int64_t n = -1;
    const absl::Status status = db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
      const auto parsed = db.queries.ParseFilter(tx, db.context, filter, "/filter");
      if (!parsed.ok()) return parsed.status();
      const auto query = db.queries.Targets(kind, *parsed, created);
      const auto counted = db.queries.Count(tx, db.context, query, 100);
      if (!counted.ok()) return counted.status();
      const auto ids = db.queries.Ids(tx, db.context, query, std::nullopt, std::nullopt, 100);
      if (!ids.ok()) return ids.status();
      n = *counted;
      CHECK(static_cast<int64_t>(ids->size()) == n);
      return absl::OkStatus();
    });
    CHECK_THAT(status, IsOk());
    return n;
  };
  CHECK(count("redrive", "{}", now) == 1);
  CHECK(count("redrive", R"({"kind": "b.b"})", now) == 0);
  CHECK(count("redrive", R"({"state": "succeeded"})", now) == 0);
  CHECK(count("purge", "{}", now) == 2);
  CHECK(count("purge", R"({"state": "dead"})", now) == 1);
  CHECK(count("cancel", "{}", now) == 1);
  const absl::Time before = now - absl::Hours(1);
  CHECK(count("redrive", "{}", before) == 0);
  CHECK(count("purge", "{}", before) == 0);
  CHECK(count("cancel", "{}", before) == 0);
  CHECK_THAT(db.Do([&](pqxx::transaction_base& tx) {
    return db.queries.ParseFilter(tx, db.context, R"({"uid": "x"})", "/filter").status();
  }),
             HasProblem("unknown-field"));
  CHECK_THAT(db.Do([&](pqxx::transaction_base& tx) {
    return db.queries.ParseFilter(tx, db.context, "[]", "/filter").status();
  }),
             HasProblem("validation-failed"));
}

TEST_CASE("pages of a list that is half waiting and half finished give every job once, both ways") {
  Db db;
  for (int i = 0; i < 23; ++i) i % 2 == 0 ? db.Done(9, absl::StrCat("k", i)) : db.Hot(3, absl::StrCat("k", i));
  std::vector<std::string> seen;
  std::string cursor;
  do {
    const absl::Status status = db.Do([&](pqxx::transaction_base& tx) -> absl::Status {
      common::v1::ListQuery query;
      query.set_limit(4);
      query.set_cursor(cursor);
      auto page = db.queries.List(tx, db.context, query);
      if (!page.ok()) return page.status();
      size_t column = 0;
      while (page->fields[column] != "kind") ++column;
      for (const auto& row : page->rows) seen.push_back(*row[column]);
      cursor = page->page.has_more() ? page->page.next_cursor() : "";
      return absl::OkStatus();
    });
    REQUIRE_THAT(status, IsOk());
  } while (!cursor.empty());
  REQUIRE(seen.size() == 23);
  for (int i = 0; i < 23; ++i) CHECK(seen[i] == absl::StrCat("k", 22 - i));
}

}  // namespace
}  // namespace mainstay::worker
