// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <pqxx/pqxx>

#include "libs/postgres/copy.h"
#include "libs/postgres/pool.h"
#include "tests/support/postgres.h"
#include "tests/support/status.h"

namespace mainstay::postgres {
namespace {

using testing::HasProblem;
using testing::IsOk;
using testing::StatusIs;
using Cells = std::vector<std::optional<std::string_view>>;

absl::Time Soon() {
  return absl::Now() + absl::Seconds(30);
}

TEST_CASE("rows with every awkward character arrive as they were, in the transaction that merges them") {
  const std::string url = testing::NewDatabase();
  testing::Sql(url, "CREATE SCHEMA \"odd schema\"; CREATE TABLE \"odd schema\".\"order\" (n int, \"Te\"\"xt\" text)");
  Pool pool({.url = url, .application_name = "copy test"});
  const std::vector<std::string> texts = {"",
                                          "plain",
                                          "tab\there",
                                          "line\nbreak\r\n",
                                          "back\\slash",
                                          "\\N",
                                          "\\.",
                                          "Grüße 😀",
                                          std::string(200'000, 'x') + "\n",
                                          "'; drop table x"};
  CHECK_THAT(pool.Transaction(
                 Soon(),
                 [&](pqxx::transaction_base& tx) -> absl::Status {
                   tx.exec("CREATE TEMP TABLE staging (n int, \"Te\"\"xt\" text) ON COMMIT DROP");
                   const std::vector<std::string> columns = {"n", "Te\"xt"};
                   CopyIn copy(tx, "staging", columns);
                   for (size_t i = 0; i < texts.size(); ++i) {
                     const std::string n = std::to_string(i);
                     CHECK_THAT(copy.Row(Cells{n, texts[i]}), IsOk());
                   }
                   CHECK_THAT(copy.Row(Cells{"100", std::nullopt}), IsOk());
                   CHECK_THAT(copy.Row(Cells{"101", std::string_view("a\0b", 3)}), HasProblem("validation-failed"));
                   CHECK_THAT(copy.Row(Cells{"101"}),
                              StatusIs(absl::StatusCode::kInvalidArgument, "1 cells for 2 columns"));
                   const absl::Status finished = copy.Finish();
                   CHECK_THAT(finished, IsOk());
                   tx.exec("INSERT INTO \"odd schema\".\"order\" SELECT * FROM staging");
                   return finished;
                 }),
             IsOk());
  const auto rows =
      testing::Sql(url, "SELECT \"Te\"\"xt\", \"Te\"\"xt\" IS NULL FROM \"odd schema\".\"order\" ORDER BY n");
  REQUIRE(rows.size() == texts.size() + 1);
  for (size_t i = 0; i < texts.size(); ++i) CHECK(rows[i][0] == texts[i]);
  CHECK(rows.back()[1] == "t");
  CHECK_THAT(pool.Transaction(Soon(),
                              [&](pqxx::transaction_base& tx) -> absl::Status {
                                const std::vector<std::string> columns = {"n"};
                                CopyIn copy(tx, "odd schema.order", columns);
                                CHECK_THAT(copy.Row(Cells{"7"}), IsOk());
                                return copy.Finish();
                              }),
             IsOk());
}

TEST_CASE("a bad cell fails the copy with PostgreSQL's reason, and an abandoned copy leaves nothing") {
  const std::string url = testing::NewDatabase();
  testing::Sql(url, "CREATE TABLE t (n int)");
  Pool pool({.url = url, .application_name = "copy test", .size = 1});
  const std::vector<std::string> columns = {"n"};
  CHECK_THAT(pool.Transaction(Soon(),
                              [&](pqxx::transaction_base& tx) -> absl::Status {
                                CopyIn copy(tx, "t", columns);
                                CHECK_THAT(copy.Row(Cells{"x"}), IsOk());
                                return copy.Finish();
                              }),
             HasProblem("validation-failed"));
  CHECK_THAT(pool.Transaction(Soon(),
                              [&](pqxx::transaction_base& tx) -> absl::Status {
                                CopyIn copy(tx, "no_such_table", columns);
                                return copy.Row(Cells{"1"});
                              }),
             StatusIs(absl::StatusCode::kInternal, "42P01"));
  CHECK_THAT(pool.Transaction(Soon(),
                              [&](pqxx::transaction_base& tx) -> absl::Status {
                                CopyIn copy(tx, "t", columns);
                                CHECK_THAT(copy.Row(Cells{"1"}), IsOk());
                                return absl::CancelledError("changed my mind");
                              }),
             StatusIs(absl::StatusCode::kCancelled));
  CHECK(testing::SqlValue(url, "SELECT count(*) FROM t") == "0");
  CHECK_THAT(pool.Transaction(Soon(),
                              [](pqxx::transaction_base& tx) {
                                tx.exec("SELECT 1");
                                return absl::OkStatus();
                              }),
             IsOk());
}

TEST_CASE("a large result streams in batches, with bind parameters") {
  const std::string url = testing::NewDatabase();
  Pool pool({.url = url, .application_name = "copy test"});
  int64_t rows = 0, sum = 0, batches = 0;
  const std::vector<std::optional<std::string>> parameters = {"5000", std::nullopt};
  CHECK_THAT(pool.Snapshot(Soon(),
                           [&](pqxx::transaction_base& tx) {
                             return StreamRows(
                                 tx, "SELECT g FROM generate_series(1, $1::int) g WHERE $2::text IS NULL ORDER BY g",
                                 parameters,
                                 [&](const pqxx::result& result) {
                                   ++batches;
                                   for (const auto& row : result) ++rows, sum += row[0].as<int64_t>();
                                   return absl::OkStatus();
                                 },
                                 1000);
                           }),
             IsOk());
  CHECK(rows == 5000);
  CHECK(sum == 5000 * 5001 / 2);
  CHECK(batches == 5);
  CHECK_THAT(pool.Snapshot(Soon(),
                           [&](pqxx::transaction_base& tx) {
                             return StreamRows(
                                 tx, "SELECT g FROM generate_series(1, 10) g", {},
                                 [](const pqxx::result&) { return absl::CancelledError("enough"); }, 3);
                           }),
             StatusIs(absl::StatusCode::kCancelled, "enough"));
}

}  // namespace
}  // namespace mainstay::postgres
