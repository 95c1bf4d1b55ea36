// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>

#include "libs/integrations/connections.h"
#include "libs/postgres/pool.h"
#include "tests/support/postgres.h"
#include "tests/support/status.h"

namespace mainstay::integrations {
namespace {

using mainstay::testing::HasProblem;
using mainstay::testing::IsOk;
using mainstay::testing::Sql;

TEST_CASE("the tenant's own connection wins over the installation's, and that over the declared secret") {
  std::string url = testing::NewMigratedDatabase();
  Sql(url,
      "INSERT INTO mainstay.connections (id, tenant, provider, name, secret, state) VALUES "
      "(gen_random_uuid(), '', 'pay', 'default', 'shared', 'ready'), (gen_random_uuid(), 'acme', 'pay', 'default', "
      "'own', 'ready'), "
      "(gen_random_uuid(), 'acme', 'pay', 'eu', 'eu-key', 'ready'), (gen_random_uuid(), 'acme', 'pay', 'broken', 'x', "
      "'needs_reconnect')");
  postgres::Pool pool(
      {.url = testing::Postgres::As(url, "mainstay_integrations"), .application_name = "connections_test", .size = 2});
  SimulatedClock clock(absl::Now());
  ConnectionDirectory directory(pool, clock);
  catalog::Provider pay, mail;
  pay.name = "pay";
  mail.name = "mail";
  mail.auth_secret = "declared";
  auto secret = [&](std::string_view tenant, const catalog::Provider& provider, std::string_view name) {
    auto found = directory.Find(tenant, provider, name);
    REQUIRE_THAT(found, IsOk());
    CHECK(found->tenant == tenant);
    return found->secret_name;
  };
  CHECK(secret("acme", pay, "") == "own");
  CHECK(secret("acme", pay, "eu") == "eu-key");
  CHECK(secret("globex", pay, "") == "shared");
  CHECK(secret("acme", mail, "") == "declared");
  CHECK_THAT(directory.Find("globex", pay, "eu"), HasProblem("not-found"));
  CHECK_THAT(directory.Find("acme", pay, "broken"), HasProblem("conflict"));
  CHECK(testing::SqlValue(
            url,
            "SELECT count(*) FROM mainstay.connections_view WHERE last_used_at IS NOT NULL AND id LIKE 'conn\\_%'") ==
        "4");
  // A change is seen once what is remembered is ten seconds old.
  Sql(url, "UPDATE mainstay.connections SET secret = 'rotated' WHERE secret = 'own'");
  CHECK(secret("acme", pay, "") == "own");
  clock.Advance(absl::Seconds(11));
  CHECK(secret("acme", pay, "") == "rotated");
}

TEST_CASE("what is remembered outlasts a short absence of PostgreSQL") {
  auto server = testing::Postgres::StartOwn();
  std::string url = server->NewMigratedDatabase();
  Sql(url,
      "INSERT INTO mainstay.connections (id, tenant, provider, secret) VALUES (gen_random_uuid(), 'acme', 'pay', "
      "'own')");
  postgres::Pool pool(
      {.url = testing::Postgres::As(url, "mainstay_integrations"), .application_name = "connections_test", .size = 1});
  SimulatedClock clock(absl::Now());
  ConnectionDirectory directory(pool, clock);
  catalog::Provider pay;
  pay.name = "pay";
  REQUIRE_THAT(directory.Find("acme", pay, ""), IsOk());
  server->Kill();
  clock.Advance(absl::Seconds(30));
  CHECK_THAT(directory.Find("acme", pay, ""), IsOk());
  clock.Advance(absl::Seconds(60));
  CHECK_FALSE(directory.Find("acme", pay, "").ok());
}

}  // namespace
}  // namespace mainstay::integrations
