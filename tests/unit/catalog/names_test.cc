// SPDX-License-Identifier: Apache-2.0
// Names: public ones made from columns, table names read back, guesses at misspelt ones.
#include <catch2/catch.hpp>

#include "libs/catalog/build.h"
#include "libs/catalog/introspect.h"
#include "libs/catalog/model.h"
#include "libs/catalog/sensitive.h"

namespace mainstay::catalog {
namespace {

TEST_CASE("a column's public name is snake_case ASCII") {
  CHECK(PublicName("total") == "total");
  CHECK(PublicName("Total Amount") == "total_amount");
  CHECK(PublicName("createdAt") == "created_at");
  CHECK(PublicName("HTTPServerURL") == "http_server_url");
  CHECK(PublicName("größe") == "grosse");
  CHECK(PublicName("Ёлка") == "elka");
  CHECK(PublicName("2fa") == "f_2fa");
  CHECK(PublicName("___") == "field");
  CHECK(PublicName("or") == "or_");
  CHECK(PublicName("a--b..c") == "a_b_c");
}

TEST_CASE("table names are taken as PostgreSQL stores them") {
  using Name = std::pair<std::string, std::string>;
  CHECK(*ParseTableName("shop.orders") == Name("shop", "orders"));
  CHECK(*ParseTableName("orders") == Name("public", "orders"));
  CHECK(*ParseTableName("Shop.Order Items") == Name("Shop", "Order Items"));
  CHECK(*ParseTableName("shop.\"odd.name\"") == Name("shop", "odd.name"));
  CHECK(*ParseTableName("\"a\"\"b\".c") == Name("a\"b", "c"));
  for (const char* bad : {"", ".", "a.", ".b", "a.b.c", "\"a", "a\"b", "\"\".a"}) CHECK_FALSE(ParseTableName(bad).ok());
  CHECK(QuoteName("a\"b", "c d") == "\"a\"\"b\".\"c d\"");
}

TEST_CASE("a misspelt name finds its neighbour, a strange one nobody") {
  CHECK(Nearest("totl", {"status", "total", "note"}) == "total");
  CHECK(Nearest("stauts", {"status", "total"}) == "status");
  CHECK(Nearest("zzz", {"status", "total"}).empty());
}

TEST_CASE("sensitive names are guessed by whole words") {
  for (const char* yes :
       {"password_hash", "apiKey", "access_token", "ssn", "card_number", "Secret", "reset_token", "pin"})
    CHECK(LooksSensitive(yes));
  for (const char* no :
       {"secretary", "passenger", "pinned", "tokens_used_count", "email", "name", "spinning", "company"})
    CHECK_FALSE(LooksSensitive(no));
}

TEST_CASE("scopes are held by name, by * and by admin") {
  Model model;
  model.roles["staff"] = {"staff", "", {"jobs:read"}};
  model.roles["ops"] = {"ops", "", {"*"}};
  CHECK(model.HasScope({"staff"}, "jobs:read"));
  CHECK_FALSE(model.HasScope({"staff"}, "jobs:write"));
  CHECK(model.HasScope({"staff", "ops"}, "jobs:write"));
  CHECK(model.HasScope({"admin"}, "anything:write"));
  CHECK_FALSE(model.HasScope({"unknown"}, "jobs:read"));
  model.roles["jobs"].scopes = {"jobs:*"};
  CHECK(model.HasScope({"jobs"}, "jobs:write"));
  CHECK_FALSE(model.HasScope({"jobs"}, "jobs-archive:write"));
  CHECK_FALSE(model.HasScope({"jobs"}, "imports:write"));
  CHECK_FALSE(model.HasScope({}, "jobs:read"));
}

}  // namespace
}  // namespace mainstay::catalog
