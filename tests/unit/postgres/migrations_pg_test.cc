// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <thread>

#include "libs/base/ids.h"
#include "libs/postgres/migrations.h"
#include "services/cli/all_migrations.h"
#include "tests/support/postgres.h"
#include "tests/support/status.h"

namespace mainstay::postgres {
namespace {

using testing::IsOk;
using testing::StatusIs;
using Domains = std::vector<std::vector<Migration>>;

Domains Two() {
  return {
      {{"one", 1, "first", "CREATE TABLE public.a (n int)"}, {"one", 2, "second", "INSERT INTO public.a VALUES (1)"}},
      {{"two", 1, "other", "CREATE TABLE public.b ()"}}};
}

TEST_CASE("migrations are applied once, in order, and a second run finds them done") {
  const std::string url = testing::NewDatabase();
  CHECK_THAT(CheckSchema(url, Two()), StatusIs(absl::StatusCode::kFailedPrecondition, "mainstay migrate"));
  auto report = Migrate(url, Two());
  REQUIRE_THAT(report, IsOk());
  REQUIRE(report->size() == 3);
  CHECK((*report)[1].title == "second");
  for (const auto& m : *report) CHECK_FALSE(m.already);
  CHECK(testing::SqlValue(url, "SELECT count(*) FROM public.a") == "1");
  CHECK_THAT(CheckSchema(url, Two()), IsOk());
  report = Migrate(url, Two());
  REQUIRE_THAT(report, IsOk());
  for (const auto& m : *report) CHECK(m.already);
  Domains more = Two();
  more[1].push_back({"two", 2, "later", "SELECT 1"});
  CHECK_THAT(CheckSchema(url, more), StatusIs(absl::StatusCode::kFailedPrecondition, "two/2"));
}

TEST_CASE("an edited migration stops the run") {
  const std::string url = testing::NewDatabase();
  REQUIRE_THAT(Migrate(url, Two()), IsOk());
  Domains edited = Two();
  edited[0][0].sql += " ";
  CHECK_THAT(Migrate(url, edited),
             StatusIs(absl::StatusCode::kFailedPrecondition, "migration one/1_first was applied in another form"));
  CHECK_THAT(CheckSchema(url, edited), StatusIs(absl::StatusCode::kFailedPrecondition, "another form"));
}

TEST_CASE("a failing migration leaves nothing of itself and names what went wrong") {
  const std::string url = testing::NewDatabase();
  Domains bad = Two();
  bad[0][1].sql = "CREATE TABLE public.half (n int); SELECT 1/0";
  CHECK_THAT(Migrate(url, bad),
             StatusIs(absl::StatusCode::kFailedPrecondition, "migration one/2_second: division by zero"));
  CHECK(testing::SqlValue(url, "SELECT to_regclass('public.half') IS NULL") == "t");
  CHECK(testing::SqlValue(url, "SELECT count(*) FROM mainstay.migrations") == "1");
}

TEST_CASE("several runs at once apply each migration once") {
  const std::string url = testing::NewDatabase();
  std::vector<absl::Status> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) threads.emplace_back([&] { result = Migrate(url, Two()).status(); });
  for (auto& thread : threads) thread.join();
  for (const auto& result : results) CHECK_THAT(result, IsOk());
  CHECK(testing::SqlValue(url, "SELECT count(*) FROM public.a") == "1");
}

TEST_CASE("a user who may not create roles is told what an administrator must run") {
  const auto server = testing::Postgres::StartOwn();
  testing::Sql(server->url(), "CREATE ROLE owner LOGIN");
  testing::Sql(server->url(), "CREATE DATABASE app OWNER owner");
  std::string app = testing::Postgres::As(server->url(), "owner");
  app.replace(app.find("/postgres?"), 10, "/app?");
  CHECK_THAT(Migrate(app, Two()),
             StatusIs(absl::StatusCode::kFailedPrecondition, "CREATE ROLE mainstay_gateway LOGIN;"));
  testing::Sql(server->url(),
               "CREATE ROLE mainstay_gateway; CREATE ROLE mainstay_webhooks; CREATE ROLE mainstay_integrations; CREATE "
               "ROLE mainstay_transfer; CREATE ROLE mainstay_worker");
  CHECK_THAT(Migrate(app, {Migrations_postgres()}), IsOk());
}

TEST_CASE("all domains' migrations apply to an empty database, and every service may see how far it is") {
  const std::string url = testing::NewMigratedDatabase();
  CHECK_THAT(CheckSchema(url, cli::AllMigrations()), IsOk());
  for (const char* role :
       {"mainstay_gateway", "mainstay_webhooks", "mainstay_integrations", "mainstay_transfer", "mainstay_worker"}) {
    INFO(role);
    CHECK_THAT(CheckSchema(testing::Postgres::As(url, role), cli::AllMigrations()), IsOk());
    CHECK_THROWS(testing::Sql(testing::Postgres::As(url, role), "CREATE TABLE mainstay.intruder ()"));
  }
}

TEST_CASE("typed ids are the same in SQL and in C++") {
  const std::string url = testing::NewMigratedDatabase();
  std::vector<Uuid> ids = {Uuid{}, *ParseUuid("ffffffff-ffff-ffff-ffff-ffffffffffff"),
                           *ParseUuid("80000000-0000-0000-0000-000000000001"),
                           *ParseUuid("00000000-0000-0001-8000-000000000000")};
  for (int i = 0; i < 200; ++i)
    ids.push_back(i % 2 == 0 ? NewUuid() : *ParseUuid(testing::SqlValue(url, "SELECT gen_random_uuid()")));
  std::string values;
  for (const Uuid& id : ids) values += (values.empty() ? "('" : ", ('") + id.ToString() + "'::uuid)";
  const auto rows = testing::Sql(url,
                                 "SELECT mainstay.format_id('job', v.id), mainstay.parse_id('job', "
                                 "mainstay.format_id('job', v.id)) FROM (VALUES " +
                                     values + ") v (id)");
  REQUIRE(rows.size() == ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    CHECK(rows[i][0] == FormatId("job", ids[i]));
    CHECK(rows[i][1] == ids[i].ToString());
  }
  const std::string good = FormatId("job", ids.back());
  for (const std::string& bad : {std::string("job_"), good + "0", "imp" + good.substr(3), "job_8" + good.substr(5),
                                 "job_u" + good.substr(5), std::string("'; drop table x")}) {
    INFO(bad);
    std::string quoted;
    for (const char c : bad) quoted += c == '\'' ? "''" : std::string(1, c);
    CHECK(testing::SqlValue(url, "SELECT mainstay.parse_id('job', '" + quoted + "') IS NULL") == "t");
  }
}

}  // namespace
}  // namespace mainstay::postgres
