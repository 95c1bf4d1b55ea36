// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <catch2/catch.hpp>
#include <pqxx/pqxx>
#include <thread>

#include "absl/synchronization/notification.h"
#include "libs/base/problem.h"
#include "libs/postgres/errors.h"
#include "libs/postgres/pool.h"
#include "tests/support/postgres.h"
#include "tests/support/status.h"

namespace mainstay::postgres {
namespace {

using testing::HasProblem;
using testing::IsOk;
using testing::StatusIs;

absl::Time Soon() {
  return absl::Now() + absl::Seconds(5);
}

const std::string& Database() {
  static const std::string url = testing::NewDatabase();
  return url;
}

// What a statement's failure becomes.
absl::Status Fail(Pool& pool, const std::string& sql) {
  return pool.Transaction(Soon(), [&](pqxx::transaction_base& tx) {
    tx.exec(sql);
    return absl::OkStatus();
  });
}

TEST_CASE("a transaction commits when its body is OK and rolls back when it is not") {
  Pool pool({.url = Database(), .application_name = "pool test"});
  REQUIRE_THAT(Fail(pool, "DROP TABLE IF EXISTS commits; CREATE TABLE commits (n int)"), IsOk());
  CHECK_THAT(Fail(pool, "INSERT INTO commits VALUES (1)"), IsOk());
  CHECK_THAT(pool.Transaction(Soon(),
                              [](pqxx::transaction_base& tx) -> absl::Status {
                                tx.exec("INSERT INTO commits VALUES (2)");
                                return absl::AbortedError("no");
                              }),
             StatusIs(absl::StatusCode::kAborted, "no"));
  CHECK(testing::SqlValue(Database(), "SELECT array_agg(n) FROM commits") == "{1}");
  CHECK(pool.in_use() == 0);
}

TEST_CASE("sessions have their settings from the first moment") {
  Pool pool({.url = Database(),
             .application_name = "pool test",
             .statement_timeout = absl::Milliseconds(1234),
             .pin_plans = true});
  std::string seen;
  CHECK_THAT(
      pool.Autocommit(Soon(),
                      [&](pqxx::transaction_base& tx) {
                        const auto row = tx.exec1(
                            "SELECT current_setting('statement_timeout') || ' ' || current_setting('TimeZone') || ' ' "
                            "|| current_setting('enable_seqscan') || ' ' || "
                            "current_setting('application_name') || ' ' || '2026-01-02 03:04:05+01'::timestamptz");
                        seen = row[0].c_str();
                        return absl::OkStatus();
                      }),
      IsOk());
  CHECK(seen == "1234ms UTC off pool test 2026-01-02 02:04:05+00");
}

TEST_CASE("a snapshot sees one state and cannot write") {
  Pool pool({.url = Database(), .application_name = "pool test"});
  REQUIRE_THAT(Fail(pool, "DROP TABLE IF EXISTS snap; CREATE TABLE snap (n int)"), IsOk());
  CHECK_THAT(pool.Snapshot(Soon(),
                           [&](pqxx::transaction_base& tx) {
                             const int before = tx.exec1("SELECT count(*) FROM snap")[0].as<int>();
                             testing::Sql(Database(), "INSERT INTO snap VALUES (1)");
                             CHECK(tx.exec1("SELECT count(*) FROM snap")[0].as<int>() == before);
                             return absl::OkStatus();
                           }),
             IsOk());
  CHECK_THAT(pool.Snapshot(Soon(),
                           [&](pqxx::transaction_base& tx) {
                             tx.exec("INSERT INTO snap VALUES (2)");
                             return absl::OkStatus();
                           }),
             HasProblem("read-only"));
}

TEST_CASE("SQLSTATEs become problems, with the names that PostgreSQL gave") {
  Pool pool({.url = Database(), .application_name = "pool test"});
  REQUIRE_THAT(Fail(pool, R"(DROP SCHEMA IF EXISTS err CASCADE; CREATE SCHEMA err;
      CREATE TABLE err.parent (id int PRIMARY KEY, name varchar(3) NOT NULL, code int CONSTRAINT code_positive CHECK (code > 0));
      CREATE TABLE err.child (id int PRIMARY KEY, parent int CONSTRAINT child_parent REFERENCES err.parent);
      INSERT INTO err.parent VALUES (1, 'a', 1); INSERT INTO err.child VALUES (1, 1))"),
               IsOk());
  const auto state = [](const absl::Status& status) { return GetSqlError(status).value_or(SqlError{}).sqlstate; };

  absl::Status status = Fail(pool, "INSERT INTO err.parent VALUES (1, 'b', 1)");
  CHECK_THAT(status, HasProblem("unique-violation"));
  REQUIRE(GetSqlError(status).has_value());
  CHECK(GetSqlError(status)->constraint == "parent_pkey");
  CHECK(GetSqlError(status)->schema == "err");
  CHECK(GetSqlError(status)->table == "parent");
  CHECK(std::string(status.message()).find("parent_pkey") == std::string::npos);
  CHECK_FALSE(IsTransient(status));

  status = Fail(pool, "INSERT INTO err.parent VALUES (2, NULL, 1)");
  CHECK_THAT(status, HasProblem("validation-failed"));
  CHECK(GetSqlError(status)->column == "name");
  status = Fail(pool, "INSERT INTO err.parent VALUES (2, 'b', 0)");
  CHECK(GetSqlError(status)->constraint == "code_positive");
  CHECK_THAT(status, HasProblem("validation-failed"));

  status = Fail(pool, "DELETE FROM err.parent");
  CHECK_THAT(status, HasProblem("still-referenced"));
  CHECK(GetSqlError(status)->constraint == "child_parent");
  status = Fail(pool, "INSERT INTO err.child VALUES (2, 99)");
  CHECK_THAT(status, HasProblem("validation-failed"));
  CHECK(ProblemFromStatus(status).errors.at(0).code == "reference_not_found");

  status = Fail(pool, "SELECT 'x'::int");
  CHECK(ProblemFromStatus(status).errors.at(0).code == "invalid_type");
  status = Fail(pool, "INSERT INTO err.parent VALUES (3, 'toolong', 1)");
  CHECK(ProblemFromStatus(status).errors.at(0).code == "too_long");
  status = Fail(pool, "SELECT 3000000000::int");
  CHECK(ProblemFromStatus(status).errors.at(0).code == "out_of_range");
  CHECK_THAT(Fail(pool, "DO $$ BEGIN RAISE EXCEPTION 'no'; END $$"), HasProblem("rule-violation"));
  // These lose their SQLSTATE in the exceptions of libpqxx.
  status = Fail(pool, "DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$");
  CHECK(state(status) == "40001");
  CHECK_THAT(status, HasProblem("transaction-conflict"));
  CHECK(IsTransient(status));
  testing::Sql(Database(), "DO $$ BEGIN CREATE ROLE poor LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$");
  Pool poor({.url = testing::Postgres::As(Database(), "poor"), .application_name = "poor"});
  status = Fail(poor, "SELECT * FROM err.parent");
  CHECK(state(status) == "42501");
  CHECK_THAT(status, HasProblem("internal"));
  CHECK(ProblemFromStatus(status).detail.find("parent") == std::string::npos);
  CHECK_THAT(Fail(pool, "SELEC 1"), StatusIs(absl::StatusCode::kInternal, "42601"));
}

TEST_CASE("serialization failures run the body again, and only those") {
  Pool pool({.url = Database(), .application_name = "pool test"});
  int runs = 0;
  CHECK_THAT(pool.Transaction(Soon(),
                              [&](pqxx::transaction_base& tx) {
                                if (++runs < 3)
                                  tx.exec("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40001'; END $$");
                                return absl::OkStatus();
                              }),
             IsOk());
  CHECK(runs == 3);
  runs = 0;
  CHECK_THAT(pool.Transaction(Soon(),
                              [&](pqxx::transaction_base& tx) {
                                ++runs;
                                tx.exec("DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '40P01'; END $$");
                                return absl::OkStatus();
                              }),
             HasProblem("transaction-conflict"));
  CHECK(runs == 3);
  runs = 0;
  CHECK_THAT(pool.Transaction(Soon(),
                              [&](pqxx::transaction_base& tx) {
                                ++runs;
                                tx.exec("SELECT 1/0");
                                return absl::OkStatus();
                              }),
             StatusIs(absl::StatusCode::kInternal, "22012"));
  CHECK(runs == 1);
}

TEST_CASE("the deadline cancels a running statement and the pool goes on") {
  Pool pool({.url = Database(), .application_name = "pool test", .size = 1});
  const absl::Time start = absl::Now();
  const auto status = pool.Autocommit(start + absl::Milliseconds(200), [&](pqxx::transaction_base& tx) {
    tx.exec("SELECT pg_sleep(30)");
    return absl::OkStatus();
  });
  CHECK_THAT(status, HasProblem("query-timeout"));
  CHECK(absl::Now() - start < absl::Seconds(5));
  CHECK_THAT(Fail(pool, "SELECT 1"), IsOk());
  CHECK_THAT(pool.Autocommit(absl::Now() - absl::Seconds(1), [](pqxx::transaction_base&) { return absl::OkStatus(); }),
             HasProblem("query-timeout"));
}

TEST_CASE("waiting longer than acquire_timeout for a connection is `overloaded`") {
  Pool pool({.url = Database(), .application_name = "pool test", .size = 1, .acquire_timeout = absl::Milliseconds(50)});
  absl::Notification inside, leave;
  std::thread holder([&] {
    CHECK_THAT(pool.Autocommit(Soon(),
                               [&](pqxx::transaction_base&) {
                                 inside.Notify();
                                 leave.WaitForNotification();
                                 return absl::OkStatus();
                               }),
               IsOk());
  });
  inside.WaitForNotification();
  CHECK(pool.in_use() == 1);
  const auto status = Fail(pool, "SELECT 1");
  CHECK_THAT(status, HasProblem("overloaded"));
  CHECK(ProblemFromStatus(status).retry_after.has_value());
  leave.Notify();
  holder.join();
  CHECK_THAT(Fail(pool, "SELECT 1"), IsOk());
}

TEST_CASE("a lost session is never reopened silently") {
  Pool pool({.url = Database(), .application_name = "victim"});
  const auto status = pool.Autocommit(Soon(), [&](pqxx::transaction_base& tx) {
    tx.exec("CREATE TEMP TABLE mine (n int)");
    testing::Sql(Database(),
                 "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'victim'");
    // libpqxx by itself throws twice and then works on a new session, in which `mine` and all settings are gone.
    for (int i = 0; i < 5; ++i) CHECK_THROWS_AS(tx.exec("SELECT 1"), pqxx::broken_connection);
    tx.exec("SELECT 1");
    return absl::OkStatus();
  });
  CHECK_THAT(status, HasProblem("database-unavailable"));
  CHECK(IsTransient(status));
  CHECK_THAT(Fail(pool, "SELECT 1"), IsOk());
}

TEST_CASE("a session that died while idle costs nobody an error") {
  Pool pool({.url = Database(), .application_name = "idler"});
  for (int i = 0; i < 3; ++i) {
    REQUIRE_THAT(Fail(pool, "SELECT 1"), IsOk());
    testing::Sql(Database(),
                 "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'idler'");
  }
}

TEST_CASE("the server away: calls fail fast, health says so, and all comes back by itself") {
  const auto server = testing::Postgres::StartOwn();
  Pool pool({.url = server->url(), .application_name = "pool test"});
  REQUIRE_THAT(Fail(pool, "SELECT 1"), IsOk());
  CHECK_THAT(pool.Health(), IsOk());
  for (const bool crash : {false, true}) {
    crash ? server->Kill() : server->Stop();
    CHECK_THAT(Fail(pool, "SELECT 1"), HasProblem("database-unavailable"));
    const absl::Time start = absl::Now();
    for (int i = 0; i < 100; ++i) CHECK_THAT(Fail(pool, "SELECT 1"), HasProblem("database-unavailable"));
    CHECK(absl::Now() - start < absl::Seconds(1));
    CHECK_FALSE(pool.Health().ok());
    server->Start();
    // Nobody calls it; the pool looks itself.
    for (int i = 0; i < 200 && !pool.Health().ok(); ++i) absl::SleepFor(absl::Milliseconds(50));
    CHECK_THAT(pool.Health(), IsOk());
    CHECK_THAT(Fail(pool, "SELECT 1"), IsOk());
  }
}

TEST_CASE("a server that accepts and never answers does not hold a caller past its deadline") {
  Pool pool({.url = "postgresql://postgres@10.255.255.1:5432/x", .application_name = "pool test"});
  const absl::Time start = absl::Now();
  CHECK_FALSE(
      pool.Autocommit(start + absl::Milliseconds(300), [](pqxx::transaction_base&) { return absl::OkStatus(); }).ok());
  CHECK(absl::Now() - start < absl::Seconds(2));
  Pool bad({.url = "mysql://secret@x", .application_name = "pool test"});
  const auto status = bad.Autocommit(Soon(), [](pqxx::transaction_base&) { return absl::OkStatus(); });
  CHECK_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, "database URL"));
  CHECK(std::string(status.message()).find("secret") == std::string::npos);
}

TEST_CASE("many threads share few connections") {
  Pool pool({.url = Database(), .application_name = "crowd", .size = 3, .acquire_timeout = absl::Seconds(20)});
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 12; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 30; ++i) failed += !Fail(pool, "SELECT 1").ok();
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(failed == 0);
  CHECK(pool.in_use() == 0);
  CHECK(std::stoi(testing::SqlValue(Database(),
                                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'crowd'")) <= 3);
}

}  // namespace
}  // namespace mainstay::postgres
