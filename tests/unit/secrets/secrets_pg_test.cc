// SPDX-License-Identifier: Apache-2.0
#include <catch2/catch.hpp>
#include <fstream>

#include "libs/base/crypto.h"
#include "libs/base/text.h"
#include "libs/postgres/pool.h"
#include "libs/secrets/secrets.h"
#include "tests/support/environment.h"
#include "tests/support/postgres.h"
#include "tests/support/status.h"

namespace mainstay::secrets {
namespace {

using testing::HasProblem;
using testing::IsOk;
using testing::StatusIs;
using Values = std::vector<std::string>;

KeyRing Ring(std::vector<std::string> ids) {
  KeyRing ring;
  for (const auto& id : ids) ring.keys.emplace_back(id, Sha256("test key " + id));
  return ring;
}

TEST_CASE("a secret comes back as it was put, and the database holds nothing of it") {
  const std::string url = testing::NewMigratedDatabase();
  postgres::Pool pool({.url = url, .application_name = "secrets test"});
  Store store(pool, Ring({"k1"}));
  const std::string value("whsec_canary\0with a zero", 24);
  REQUIRE_THAT(store.Put("acme", "payments", value), IsOk());
  CHECK(store.Get("acme", "payments").value() == Values{value});
  CHECK_THAT(store.Get("globex", "payments"), StatusIs(absl::StatusCode::kNotFound, "payments"));
  CHECK_THAT(store.Get("acme", "other"), StatusIs(absl::StatusCode::kNotFound));
  CHECK(testing::SqlValue(url,
                          "SELECT count(*) FROM mainstay.secrets s WHERE position('canary'::bytea IN sealed) > 0 OR "
                          "s::text LIKE '%canary%'") == "0");
  CHECK_THAT(store.Put("acme", "", "x"), HasProblem("invalid-parameter"));
  CHECK_THAT(store.Put("acme", "a|b", "x"), HasProblem("invalid-parameter"));
  CHECK_THAT(store.Put("acme", "empty", ""), HasProblem("invalid-parameter"));
  const auto list = store.List();
  REQUIRE_THAT(list, IsOk());
  REQUIRE(list->size() == 1);
  CHECK((*list)[0].name == "payments");
  CHECK((*list)[0].version == 1);
}

TEST_CASE("rotation: both versions live during the overlap, newest first; without one the old is gone at once") {
  const std::string url = testing::NewMigratedDatabase();
  postgres::Pool pool({.url = url, .application_name = "secrets test"});
  Store store(pool, Ring({"k1"}));
  REQUIRE_THAT(store.Put("acme", "s", "one"), IsOk());
  REQUIRE_THAT(store.Put("acme", "s", "two", absl::Hours(1)), IsOk());
  CHECK(store.Get("acme", "s").value() == Values{"two", "one"});
  REQUIRE_THAT(store.Put("acme", "s", "three", absl::Hours(5)), IsOk());
  // The first one's end is not put off by the later rotation.
  CHECK(testing::SqlValue(
            url,
            "SELECT expires_at < clock_timestamp() + interval '61 minutes' FROM mainstay.secrets WHERE version = 1") ==
        "t");
  testing::Sql(url,
               "UPDATE mainstay.secrets SET expires_at = clock_timestamp() - interval '1 second' WHERE version = 1");
  Store fresh(pool, Ring({"k1"}));
  CHECK(fresh.Get("acme", "s").value() == Values{"three", "two"});
  REQUIRE_THAT(store.Put("acme", "s", "four"), IsOk());
  CHECK(store.Get("acme", "s").value() == Values{"four"});
  REQUIRE_THAT(store.Remove("acme", "s"), IsOk());
  CHECK_THAT(store.Get("acme", "s"), StatusIs(absl::StatusCode::kNotFound));
  CHECK_THAT(store.Remove("acme", "s"), StatusIs(absl::StatusCode::kNotFound));
}

TEST_CASE("a tenant's own secret comes before the installation's") {
  const std::string url = testing::NewMigratedDatabase();
  postgres::Pool pool({.url = url, .application_name = "secrets test"});
  Store store(pool, Ring({"k1"}));
  REQUIRE_THAT(store.Put("", "s", "everyone's"), IsOk());
  CHECK(store.Get("acme", "s").value() == Values{"everyone's"});
  REQUIRE_THAT(store.Put("acme", "s", "acme's"), IsOk());
  CHECK(store.Get("acme", "s").value() == Values{"acme's", "everyone's"});
  CHECK(store.Get("globex", "s").value() == Values{"everyone's"});
  // A change of the installation's reaches tenants that had it cached.
  REQUIRE_THAT(store.Put("", "s", "new"), IsOk());
  CHECK(store.Get("globex", "s").value() == Values{"new"});
}

TEST_CASE("swapped and altered rows are refused") {
  const std::string url = testing::NewMigratedDatabase();
  postgres::Pool pool({.url = url, .application_name = "secrets test"});
  Store writer(pool, Ring({"k1"}));
  for (const auto& [tenant, name] : {std::pair("acme", "a"), std::pair("acme", "b"), std::pair("globex", "a")}) {
    REQUIRE_THAT(writer.Put(tenant, name, std::string(tenant) + name), IsOk());
  }
  testing::Sql(url,
               "UPDATE mainstay.secrets s SET sealed = o.sealed, wrapped_key = o.wrapped_key FROM mainstay.secrets o "
               "WHERE s.tenant = 'acme' AND s.name = 'a' AND o.tenant = 'globex' AND o.name = 'a'");
  testing::Sql(url,
               "UPDATE mainstay.secrets SET sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1) WHERE tenant = "
               "'acme' AND name = 'b'");
  Store reader(pool, Ring({"k1"}));
  CHECK_THAT(reader.Get("acme", "a"), StatusIs(absl::StatusCode::kInternal, "cannot be opened"));
  CHECK_THAT(reader.Get("acme", "b"), StatusIs(absl::StatusCode::kInternal, "changed or swapped"));
  CHECK(reader.Get("globex", "a").value() == Values{"globexa"});
}

TEST_CASE(
    "key-encryption keys rotate: the first wraps, all unwrap, an unknown one is an error and not a missing secret") {
  const std::string url = testing::NewMigratedDatabase();
  postgres::Pool pool({.url = url, .application_name = "secrets test"});
  Store old_store(pool, Ring({"old"}));
  REQUIRE_THAT(old_store.Put("acme", "s", "v"), IsOk());
  Store both(pool, Ring({"new", "old"}));
  CHECK(both.Get("acme", "s").value() == Values{"v"});
  REQUIRE_THAT(both.Put("acme", "t", "w"), IsOk());
  CHECK(testing::SqlValue(url, "SELECT string_agg(kek_id, ',' ORDER BY name) FROM mainstay.secrets") == "old,new");
  Store only_new(pool, Ring({"new"}));
  CHECK(only_new.Get("acme", "t").value() == Values{"w"});
  CHECK_THAT(only_new.Get("acme", "s"), StatusIs(absl::StatusCode::kInternal, "key old"));
}

TEST_CASE("values are cached, so a short loss of the database is not noticed") {
  const auto server = testing::Postgres::StartOwn();
  const std::string url = server->NewMigratedDatabase();
  postgres::Pool pool({.url = url, .application_name = "secrets test"});
  Store store(pool, Ring({"k1"}));
  REQUIRE_THAT(store.Put("acme", "s", "v"), IsOk());
  REQUIRE_THAT(store.Get("acme", "s"), IsOk());
  server->Stop();
  CHECK(store.Get("acme", "s").value() == Values{"v"});
  CHECK_THAT(store.Get("acme", "t"), HasProblem("database-unavailable"));
}

TEST_CASE("only the owner writes secrets; webhooks and integrations read; the others see nothing") {
  const std::string url = testing::NewMigratedDatabase();
  const auto as = [&](const char* role, const char* sql) {
    return testing::Sql(testing::Postgres::As(url, role), sql);
  };
  for (const char* role : {"mainstay_webhooks", "mainstay_integrations"}) {
    CHECK_NOTHROW(as(role, "SELECT * FROM mainstay.secrets"));
    CHECK_THROWS(as(role, "DELETE FROM mainstay.secrets"));
    CHECK_THROWS(as(role, "UPDATE mainstay.secrets SET expires_at = NULL"));
  }
  for (const char* role : {"mainstay_gateway", "mainstay_transfer", "mainstay_worker"})
    CHECK_THROWS(as(role, "SELECT * FROM mainstay.secrets"));
  CHECK_NOTHROW(as("mainstay_gateway", "SELECT tenant, roles, secret_hash FROM mainstay.api_keys"));
  CHECK_NOTHROW(as("mainstay_gateway", "UPDATE mainstay.api_keys SET last_used_at = now()"));
  CHECK_THROWS(as("mainstay_gateway", "UPDATE mainstay.api_keys SET roles = '{admin}'"));
  CHECK_THROWS(as("mainstay_worker", "SELECT * FROM mainstay.api_keys"));
}

TEST_CASE("the key file is checked line by line and never shown") {
  const testing::TempDir dir;
  const std::string file = dir.path() + "/kek";
  const auto write = [&](const std::string& text) { std::ofstream(file) << text; };
  write(KeyRing::NewFile());
  const auto ring = KeyRing::Load(file);
  REQUIRE_THAT(ring, IsOk());
  REQUIRE(ring->keys.size() == 1);
  CHECK(ring->keys[0].second.size() == 32);
  const std::string key = Base64Encode(std::string(32, 'k'));
  write("a " + key + "\n\n# comment\nb " + key + "\n");
  CHECK(KeyRing::Load(file)->keys[1].first == "b");
  for (const std::string& bad : {std::string("a"), "a " + key.substr(4), "a " + key + " x", "a " + key + "\na " + key,
                                 std::string("# nothing")}) {
    write(bad);
    const auto loaded = KeyRing::Load(file);
    CHECK_THAT(loaded, StatusIs(absl::StatusCode::kInvalidArgument, file));
    CHECK(std::string(loaded.status().message()).find(key) == std::string::npos);
  }
  CHECK_THAT(KeyRing::Load(dir.path() + "/none"), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace mainstay::secrets
