// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <pqxx/pqxx>

#include "libs/base/clock.h"
#include "libs/base/ids.h"
#include "libs/base/text.h"
#include "libs/postgres/pool.h"
#include "libs/secrets/api_keys.h"
#include "tests/support/postgres.h"
#include "tests/support/status.h"

namespace mainstay::secrets {
namespace {

using testing::HasProblem;
using testing::IsOk;

absl::Time Soon() {
  return absl::Now() + absl::Seconds(5);
}

// As the gateway does it.
std::optional<StoredKey> Read(postgres::Pool& pool, const std::string& id) {
  std::optional<StoredKey> out;
  REQUIRE_THAT(pool.Autocommit(Soon(),
                               [&](pqxx::transaction_base& tx) {
                                 const pqxx::result rows =
                                     tx.exec_params(kSelectApiKey, ParseId("key", id)->ToString());
                                 if (rows.empty()) return absl::OkStatus();
                                 StoredKey key{.principal = {.tenant = rows[0][0].c_str(), .subject = id},
                                               .secret_hash = HexDecode(rows[0][2].c_str()).value()};
                                 CHECK(std::string(rows[0][1].c_str()) == "{staff,\"odd \\\"role\\\"\"}");
                                 if (!rows[0][3].is_null()) key.expires_at = ParseTimestamp(rows[0][3].c_str()).value();
                                 out = key;
                                 return absl::OkStatus();
                               }),
               IsOk());
  return out;
}

TEST_CASE("a key opens once created, and no longer when expired or revoked") {
  const std::string url = testing::NewMigratedDatabase();
  postgres::Pool pool({.url = url, .application_name = "keys test"});
  CreatedApiKey created;
  const absl::Time expires = absl::FromUnixMicros(absl::ToUnixMicros(absl::Now() + absl::Hours(1)));
  REQUIRE_THAT(pool.Transaction(
                   Soon(),
                   [&](pqxx::transaction_base& tx) {
                     auto result = CreateApiKey(
                         tx,
                         {.tenant = "acme", .name = "shop", .roles = {"staff", "odd \"role\""}, .expires_at = expires});
                     if (result.ok()) created = *result;
                     return result.status();
                   }),
               IsOk());
  const auto presented = ParseApiKey(created.key);
  REQUIRE(presented.has_value());
  CHECK(presented->id == created.id);
  const auto stored = Read(pool, created.id);
  REQUIRE(stored.has_value());
  CHECK(stored->principal.tenant == "acme");
  CHECK(stored->expires_at == expires);
  CHECK(Matches(*stored, presented->secret, absl::Now()));
  CHECK_FALSE(Matches(*stored, presented->secret, expires));
  CHECK_FALSE(Matches(*stored, std::string(43, 'A'), absl::Now()));
  CHECK_FALSE(Matches(*stored, "", absl::Now()));
  CHECK(testing::SqlValue(
            url, "SELECT count(*) FROM mainstay.api_keys k WHERE k::text LIKE '%" + presented->secret + "%'") == "0");

  REQUIRE_THAT(pool.Transaction(Soon(), [&](pqxx::transaction_base& tx) { return RevokeApiKey(tx, created.id); }),
               IsOk());
  CHECK_FALSE(Read(pool, created.id).has_value());
  CHECK_THAT(pool.Transaction(Soon(), [&](pqxx::transaction_base& tx) { return RevokeApiKey(tx, NewId("key")); }),
             HasProblem("not-found"));
  std::vector<ListedApiKey> list;
  REQUIRE_THAT(pool.Autocommit(Soon(),
                               [&](pqxx::transaction_base& tx) {
                                 auto result = ListApiKeys(tx);
                                 if (result.ok()) list = *result;
                                 return result.status();
                               }),
               IsOk());
  REQUIRE(list.size() == 1);
  CHECK(list[0].id == created.id);
  CHECK(list[0].roles == std::vector<std::string>{"staff", "odd \"role\""});
  CHECK(list[0].expires_at == expires);
  CHECK(list[0].revoked_at.has_value());
  CHECK(testing::SqlValue(url, "SELECT id FROM mainstay.api_keys_view") == created.id);
}

TEST_CASE("what cannot be a key is told apart without asking the database") {
  const std::string good = "mst_" + NewId("key").substr(4) + "_" + std::string(43, 'A');
  CHECK(ParseApiKey(good).has_value());
  for (const std::string& bad :
       {std::string(), std::string("mst_"), good + "A", good.substr(1), "xst_" + good.substr(4),
        good.substr(0, 30) + "-" + good.substr(31), good.substr(0, 34) + "!" + good.substr(35),
        "mst_8" + good.substr(5), std::string(10'000, 'm'),
        good.substr(0, 40) + std::string(1, '\0') + good.substr(41)}) {
    CHECK_FALSE(ParseApiKey(bad).has_value());
  }
}

TEST_CASE("keys without tenant, name or roles are refused") {
  const std::string url = testing::NewMigratedDatabase();
  postgres::Pool pool({.url = url, .application_name = "keys test"});
  for (const NewApiKey& bad :
       {NewApiKey{"", "n", {"r"}}, NewApiKey{"t", "", {"r"}}, NewApiKey{"t", "n", {}}, NewApiKey{"t", "n\n", {"r"}},
        NewApiKey{"t", "n", {""}}, NewApiKey{std::string("t\0x", 3), "n", {"r"}}}) {
    CHECK_THAT(pool.Transaction(Soon(), [&](pqxx::transaction_base& tx) { return CreateApiKey(tx, bad).status(); }),
               HasProblem("invalid-parameter"));
  }
}

}  // namespace
}  // namespace mainstay::secrets
