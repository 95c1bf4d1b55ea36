// SPDX-License-Identifier: Apache-2.0
// Publishing: immutable by hash, rights granted and taken back, nothing removed that open work names, all or nothing.
#include "libs/catalog/publish.h"
#include "tests/unit/catalog/world.h"

namespace mainstay::catalog {
namespace {

using testing::IsOk;
using testing::Sql;
using testing::SqlValue;
using testing::StatusIs;

bool May(const std::string& url, const std::string& role, const std::string& right, const std::string& table) {
  return SqlValue(url, "SELECT has_table_privilege('" + role + "', '" + table + "', '" + right + "')") == "t";
}

constexpr char kOrders[] = "resources:\n  orders: {table: shop.orders, tenant: tenant_id}\n";

TEST_CASE("publish stores by hash, activates, and is the same the second time") {
  const std::string url = ShopDatabase(true);
  {
    pqxx::connection connection(url);
    pqxx::work tx(connection);
    CHECK_THAT(ActiveHash(tx), StatusIs(absl::StatusCode::kNotFound, "mainstay publish"));
    CHECK_THAT(LoadActive(tx), StatusIs(absl::StatusCode::kNotFound));
  }
  absl::StatusOr<Published> first = Publish(url, DemoFiles(), kDemoVariables, "ada");
  REQUIRE_THAT(first, IsOk());
  CHECK(first->changed);
  absl::StatusOr<Published> again = Publish(url, DemoFiles(), kDemoVariables, "ada");
  REQUIRE_THAT(again, IsOk());
  CHECK_FALSE(again->changed);
  CHECK(again->hash == first->hash);
  absl::StatusOr<Published> second = Publish(url, OneFile(kOrders), {}, "bob");
  REQUIRE_THAT(second, IsOk());
  CHECK(SqlValue(url, "SELECT hash || ' ' || activated_by FROM mainstay.catalog_active") == second->hash + " bob");
  CHECK(SqlValue(url, "SELECT count(*) FROM mainstay.catalogs") == "2");
  CHECK(SqlValue(url, "SELECT previous FROM mainstay.catalog_history ORDER BY position DESC LIMIT 1") == first->hash);
  REQUIRE_THAT(Publish(url, DemoFiles(), kDemoVariables, "ada"), IsOk());
  CHECK(SqlValue(url, "SELECT count(*) FROM mainstay.catalogs") == "2");
  CHECK(SqlValue(url, "SELECT count(*) FROM mainstay.catalog_history") == "3");

  pqxx::connection connection(testing::Postgres::As(url, "mainstay_gateway"));
  pqxx::work tx(connection);
  absl::StatusOr<Built> built = LoadActive(tx);
  REQUIRE_THAT(built, IsOk());
  CHECK(built->mistakes.empty());
  CHECK(built->model->hash == first->hash);
  CHECK(built->model->providers.at("payments").base_url == "http://127.0.0.1:9000");
}

TEST_CASE("the services get what the catalog needs on the user's tables, and lose it with it") {
  const std::string url = ShopDatabase(true);
  Sql(url, "CREATE TABLE shop.old (id serial PRIMARY KEY); CREATE TABLE shop.log (id serial PRIMARY KEY)");
  REQUIRE_THAT(Publish(url,
                       OneFile(std::string(kOrders) +
                               "  olds: {table: shop.old, shared: write}\n  logs: {table: shop.log, shared: read}\n"),
                       {}, "ada"),
               IsOk());
  for (const char* role : {"mainstay_gateway", "mainstay_worker"}) {
    for (const char* right : {"SELECT", "INSERT", "UPDATE", "DELETE"}) {
      CHECK(May(url, role, right, "shop.orders"));
      CHECK(May(url, role, right, "shop.old"));
    }
    CHECK(May(url, role, "SELECT", "shop.log"));
    CHECK_FALSE(May(url, role, "INSERT", "shop.log"));
    CHECK_FALSE(May(url, role, "TRUNCATE", "shop.orders"));
    CHECK_FALSE(May(url, role, "SELECT", "shop.customers"));
    CHECK(SqlValue(url, "SELECT has_sequence_privilege('" + std::string(role) + "', 'shop.old_id_seq', 'USAGE')") ==
          "t");
    CHECK(SqlValue(url, "SELECT has_sequence_privilege('" + std::string(role) + "', 'shop.log_id_seq', 'USAGE')") ==
          "f");
  }
  for (const char* role : {"mainstay_webhooks", "mainstay_integrations"})
    CHECK_FALSE(May(url, role, "SELECT", "shop.orders"));
  Sql(testing::Postgres::As(url, "mainstay_gateway"), "INSERT INTO shop.old DEFAULT VALUES; SELECT * FROM shop.orders");

  REQUIRE_THAT(Publish(url, OneFile("resources:\n  orders: {table: shop.orders, tenant: tenant_id, read_only: true}\n"),
                       {}, "ada"),
               IsOk());
  CHECK(May(url, "mainstay_gateway", "SELECT", "shop.orders"));
  CHECK_FALSE(May(url, "mainstay_gateway", "UPDATE", "shop.orders"));
  CHECK_FALSE(May(url, "mainstay_worker", "SELECT", "shop.old"));
}

constexpr char kRevenue[] =
    "  revenue: {query: 'SELECT o.tenant_id, c.country, count(*) AS orders FROM shop.orders o JOIN shop.customers c ON "
    "c.id = o.customer_id GROUP BY 1, 2 -- by country', tenant: tenant_id, key: country}\n";

TEST_CASE("a query in place of a table: the services may read what it reads, as long as it is published") {
  const std::string url = ShopDatabase(true);
  REQUIRE_THAT(Publish(url, OneFile(std::string(kOrders) + kRevenue), {}, "ada"), IsOk());
  CHECK(May(url, "mainstay_gateway", "SELECT", "shop.customers"));
  CHECK_FALSE(May(url, "mainstay_gateway", "UPDATE", "shop.customers"));
  CHECK(May(url, "mainstay_gateway", "UPDATE", "shop.orders"));
  CHECK(SqlValue(url, "SELECT count(*) FROM pg_class WHERE relname = 'mainstay_query'") == "0");
  pqxx::connection connection(testing::Postgres::As(url, "mainstay_gateway"));
  pqxx::work tx(connection);
  absl::StatusOr<Built> built = LoadActive(tx);
  REQUIRE_THAT(built, IsOk());
  const Resource& revenue = *built->model->FindResource("revenue");
  CHECK(revenue.problem.empty());
  CHECK(revenue.read_only);
  CHECK(revenue.view);
  CHECK(revenue.FindField("orders")->type.family == TypeFamily::kInt64);
  tx.abort();
  {
    // A service that may not read it knows it as it was published.
    pqxx::connection other(testing::Postgres::As(url, "mainstay_transfer"));
    pqxx::work look(other);
    CHECK_FALSE(LoadActive(look)->model->FindResource("revenue")->problem.empty());
    absl::StatusOr<Built> known = LoadActive(look, QuerySource::kPublished);
    REQUIRE_THAT(known, IsOk());
    const Resource& same = *known->model->FindResource("revenue");
    CHECK(same.problem.empty());
    CHECK(same.FindField("orders")->type.family == TypeFamily::kInt64);
    CHECK(same.FindField("country")->type.name == revenue.FindField("country")->type.name);
  }
  // What it gives may change, and the text stay.
  Sql(url, "ALTER TABLE shop.customers ALTER COLUMN country TYPE varchar(60)");
  REQUIRE_THAT(Publish(url, OneFile(std::string(kOrders) + kRevenue), {}, "ada"), IsOk());
  CHECK(
      SqlValue(
          url,
          "SELECT query_columns->0->'columns'->1->>0 || ' ' || (query_columns->0->'columns'->1->>1)::oid::regtype FROM "
          "mainstay.catalog_active") == "country character varying");
  REQUIRE_THAT(Publish(url, OneFile(kOrders), {}, "ada"), IsOk());
  CHECK_FALSE(May(url, "mainstay_gateway", "SELECT", "shop.customers"));
}

TEST_CASE("a query that is not one SELECT is refused with PostgreSQL's reason, and nothing of it is run") {
  const std::string url = ShopDatabase(true);
  Sql(url, "CREATE TABLE shop.kept AS SELECT 1 AS id");
  const auto reason = [&](const std::string& query) {
    const absl::StatusOr<Checked> checked =
        Check(url, OneFile("resources:\n  q:\n    shared: read\n    key: id\n    query: \"" + query + "\"\n"), {});
    return checked.ok() ? std::string("fine") : std::string(checked.status().message());
  };
  CHECK(reason("SELECT id FROM shop.orders -- all") == "fine");
  CHECK(reason("VALUES (1)") == "c.yaml:4:10: resources.q.key[0]: its query has no column \"id\"");
  CHECK_THAT(reason("SELECT id FROM shop.nothing"),
             Catch::Contains("c.yaml:5:12: resources.q.query: PostgreSQL refuses it: ") &&
                 Catch::Contains("relation \"shop.nothing\" does not exist"));
  for (const char* query :
       {"SELECT 1 AS id; DELETE FROM shop.kept", "DELETE FROM shop.kept RETURNING id", "SELECT 1 AS id) q; --",
        "WITH gone AS (DELETE FROM shop.kept RETURNING id) SELECT id FROM gone", "ANALYZE DELETE FROM shop.kept",
        "SELECT id INTO shop.copy FROM shop.orders", "TABLE", ""}) {
    INFO(query);
    CHECK_THAT(reason(query), Catch::Contains("resources.q"));
    CHECK_FALSE(Publish(url, OneFile("resources: {q: {shared: read, key: id, query: \"" + std::string(query) + "\"}}"),
                        {}, "ada")
                    .ok());
  }
  CHECK(SqlValue(url, "SELECT count(*) FROM shop.kept") == "1");
  CHECK_THAT(reason("SELECT id FROM shop.orders\"\n    table: \"shop.orders"), Catch::Contains("one of the two"));
}

TEST_CASE("a column's type may live in another schema; row security is mentioned") {
  const std::string url = testing::NewMigratedDatabase();
  Sql(url,
      R"sql(CREATE SCHEMA kinds; CREATE TYPE kinds."Colour" AS ENUM ('red'); CREATE TABLE public.cars (id serial PRIMARY KEY, colour kinds."Colour", all_colours kinds."Colour"[]);
ALTER TABLE public.cars ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON public.cars USING (true))sql");
  absl::StatusOr<Published> published = Publish(
      url,
      OneFile("roles: {r: {}}\nresources: {cars: {table: cars, shared: write, permissions: {r: {actions: all}}}}\n"),
      {}, "ada");
  REQUIRE_THAT(published, IsOk());
  CHECK(published->warnings ==
        std::vector<std::string>{"c.yaml:2:13: resources.cars: row security is on for public.cars: the service roles "
                                 "see only what its policies let them see; `row_security: true` tells these who asks"});
  Sql(testing::Postgres::As(url, "mainstay_gateway"),
      R"sql(INSERT INTO public.cars (colour, all_colours) VALUES ('red'::text::kinds."Colour", '{red}'::text::kinds."Colour"[]))sql");
}

TEST_CASE("a bad catalog changes nothing") {
  const std::string url = ShopDatabase(true);
  absl::StatusOr<Published> good = Publish(url, OneFile(kOrders), {}, "ada");
  REQUIRE_THAT(good, IsOk());
  CHECK_THAT(Publish(url, OneFile(std::string(kOrders) + "  things: {table: shop.things, shared: write}\n"), {}, "ada"),
             StatusIs(absl::StatusCode::kInvalidArgument,
                      "c.yaml:3:19: resources.things.table: the database has no table shop.things"));
  CHECK(SqlValue(url, "SELECT hash FROM mainstay.catalog_active") == good->hash);
  CHECK(SqlValue(url, "SELECT count(*) FROM mainstay.catalogs") == "1");
}

TEST_CASE("mistakes of grammar and of reference come together") {
  const std::string url = ShopDatabase();
  CHECK(Mistakes(url,
                 "resources:\n  orders:\n    table: shop.orders\n    tenant: tenant_id\n    ofset: true\n    version: "
                 "vresion\n") ==
        std::vector<std::string>{
            "c.yaml:5:5: resources.orders.ofset: the key \"ofset\" is not known here; did you mean \"offset\"?",
            "c.yaml:6:14: resources.orders.version: the table shop.orders has no column \"vresion\"; did you mean "
            "\"version\"?"});
}

TEST_CASE("words that other libraries own are judged by them, with the place") {
  const std::string url = testing::NewDatabase();
  const Checks checks = {.scheme = [](const SignatureScheme& scheme) {
    return scheme.preset == "stripe" ? absl::OkStatus() : absl::InvalidArgumentError("scheme: unknown");
  }};
  const std::string head = "sources:\n  pay: {secrets: s, tenant: acme, scheme: ";
  CHECK_THAT(Check(url, OneFile(head + "stripe}\n"), {}, checks), IsOk());
  CHECK_THAT(Check(url, OneFile(head + "strip}\n"), {}, checks),
             StatusIs(absl::StatusCode::kInvalidArgument, "c.yaml:2:43: sources.pay.scheme: scheme: unknown"));
}

TEST_CASE("a queue that open jobs name can't be removed yet") {
  const std::string url = ShopDatabase(true);
  REQUIRE_THAT(Publish(url, OneFile("queues: {mail: {}, other: {}}\n"), {}, "ada"), IsOk());
  Sql(url,
      "INSERT INTO mainstay.job_queues (name) VALUES ('mail') ON CONFLICT DO NOTHING; SELECT "
      "mainstay.enqueue('test.kind', '{}', 'acme', 'mail')");
  CHECK_THAT(Publish(url, OneFile("queues: {}\n"), {}, "ada"),
             StatusIs(absl::StatusCode::kFailedPrecondition,
                      "the queue mail can't be removed yet: 1 open jobs name it; let them finish or cancel them, then "
                      "publish again"));
  REQUIRE_THAT(Publish(url, OneFile("queues: {mail: {}}\n"), {}, "ada"), IsOk());
  Sql(url, "DELETE FROM mainstay.jobs");
  REQUIRE_THAT(Publish(url, OneFile("queues: {}\n"), {}, "ada"), IsOk());
}

TEST_CASE("without migrations the sentence says what to run; a stranger can't grant") {
  CHECK_THAT(Publish(ShopDatabase(false), OneFile(kOrders), {}, "ada"),
             StatusIs(absl::StatusCode::kFailedPrecondition, "mainstay migrate"));
  const std::string url = ShopDatabase(true);
  Sql(url,
      "DROP ROLE IF EXISTS catalog_stranger; CREATE ROLE catalog_stranger LOGIN; GRANT USAGE ON SCHEMA mainstay, shop "
      "TO catalog_stranger; GRANT ALL ON ALL TABLES IN SCHEMA mainstay TO "
      "catalog_stranger; GRANT SELECT ON ALL TABLES IN SCHEMA shop TO catalog_stranger; GRANT USAGE ON SCHEMA shop TO "
      "mainstay_gateway, mainstay_worker");
  absl::StatusOr<Published> published =
      Publish(testing::Postgres::As(url, "catalog_stranger"), OneFile(kOrders), {}, "eve");
  CHECK_FALSE(published.ok());
  CHECK(SqlValue(url, "SELECT count(*) FROM mainstay.catalogs") == "0");
  Sql(url, "DROP OWNED BY catalog_stranger; DROP ROLE catalog_stranger");
}

TEST_CASE("a stored catalog that was tampered with is not served") {
  const std::string url = ShopDatabase(true);
  REQUIRE_THAT(Publish(url, OneFile(kOrders), {}, "ada"), IsOk());
  Sql(url, "UPDATE mainstay.catalogs SET files = replace(files::text, 'tenant: tenant_id', 'shared: write')::jsonb");
  pqxx::connection connection(url);
  pqxx::work tx(connection);
  CHECK_THAT(LoadActive(tx), StatusIs(absl::StatusCode::kDataLoss, "was changed"));
}

}  // namespace
}  // namespace mainstay::catalog
