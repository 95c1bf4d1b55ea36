// SPDX-License-Identifier: Apache-2.0
// Live change: a new catalog or a changed table is taken over by itself, a bad one never; each process reports what it
// runs.
#include <atomic>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "libs/catalog/watcher.h"
#include "libs/postgres/pool.h"
#include "tests/unit/catalog/world.h"

namespace mainstay::catalog {
namespace {

using testing::IsOk;
using testing::Sql;
using testing::SqlValue;
using testing::StatusIs;

constexpr char kOrders[] =
    "resources:\n  orders: {table: shop.orders, tenant: tenant_id, version: version}\n  products: {table: "
    "shop.products, tenant: tenant_id}\n";

// The models a watcher announces, to wait for.
class Seen {
 public:
  void Add(ModelPtr model) {
    absl::MutexLock lock(&mu_);
    models_.push_back(std::move(model));
  }
  ModelPtr Await(size_t count) {
    absl::MutexLock lock(&mu_);
    auto enough = [&] { return models_.size() >= count; };
    REQUIRE(mu_.AwaitWithTimeout(absl::Condition(&enough), absl::Seconds(20)));
    return models_[count - 1];
  }
  size_t count() {
    absl::MutexLock lock(&mu_);
    return models_.size();
  }

 private:
  absl::Mutex mu_;
  std::vector<ModelPtr> models_;
};

struct Service {
  explicit Service(const std::string& url, const std::string& role = "mainstay_gateway",
                   QuerySource queries = QuerySource::kDatabase)
      : pool({.url = testing::Postgres::As(url, role), .application_name = "test", .size = 2}),
        watcher(pool, {.service = "gateway",
                       .instance = "one",
                       .poll = absl::Milliseconds(20),
                       .schema_poll = absl::Milliseconds(100),
                       .queries = queries}) {
    watcher.OnChange([this](ModelPtr model) { seen.Add(std::move(model)); });
  }
  Seen seen;
  postgres::Pool pool;
  Watcher watcher;
};

TEST_CASE("nothing published: an empty model, then the first catalog by itself") {
  const std::string url = ShopDatabase(true);
  Service service(url);
  REQUIRE(service.watcher.model() != nullptr);
  CHECK_THAT(service.watcher.Start(), StatusIs(absl::StatusCode::kNotFound));
  CHECK(service.watcher.model()->resources.empty());
  absl::StatusOr<Published> published = Publish(url, OneFile(kOrders), {}, "ada");
  REQUIRE_THAT(published, IsOk());
  CHECK(service.seen.Await(1)->hash == published->hash);
  CHECK(service.watcher.model()->hash == published->hash);
  CHECK_THAT(service.watcher.Refresh(), IsOk());
  CHECK_THAT(service.watcher.status(), IsOk());
  CHECK(
      SqlValue(
          url,
          "SELECT hash || ':' || problem FROM mainstay.catalog_seen WHERE service = 'gateway' AND instance = 'one'") ==
      published->hash + ":");
  service.watcher.Stop();
  service.watcher.Stop();
  CHECK(SqlValue(url, "SELECT count(*) FROM mainstay.catalog_seen") == "0");
}

TEST_CASE("a swap leaves those who hold the old model undisturbed") {
  const std::string url = ShopDatabase(true);
  absl::StatusOr<Published> first = Publish(url, OneFile(kOrders), {}, "ada");
  REQUIRE_THAT(first, IsOk());
  Service service(url);
  REQUIRE_THAT(service.watcher.Start(), IsOk());
  ModelPtr held = service.watcher.model();
  std::atomic<bool> stop = false;
  std::atomic<int64_t> bad = 0;
  std::thread reader([&] {
    while (!stop) {
      ModelPtr model = service.watcher.model();
      if (model->FindResource("orders") == nullptr) ++bad;
      std::this_thread::yield();
    }
  });
  absl::StatusOr<Published> second = Publish(
      url, OneFile(std::string(kOrders) + "  items: {table: shop.order_items, tenant: tenant_id}\n"), {}, "ada");
  REQUIRE_THAT(second, IsOk());
  CHECK(service.seen.Await(2)->hash == second->hash);
  stop = true;
  reader.join();
  CHECK(bad == 0);
  CHECK(held->hash == first->hash);
  CHECK(held->FindResource("items") == nullptr);
  CHECK(service.watcher.model()->FindResource("items") != nullptr);
}

TEST_CASE("what can't be loaded is refused and reported; the last good one keeps serving") {
  const std::string url = ShopDatabase(true);
  absl::StatusOr<Published> good = Publish(url, OneFile(kOrders), {}, "ada");
  REQUIRE_THAT(good, IsOk());
  Service service(url);
  REQUIRE_THAT(service.watcher.Start(), IsOk());
  // As a later version's publish might leave it: valid there, not here.
  Sql(url,
      "INSERT INTO mainstay.catalogs (hash, files, variables, tables, published_by) VALUES (repeat('a', 64), "
      "'[{\"name\": \"c.yaml\", \"text\": \"surprise: {}\"}]', '{}', '{}', 'x'); "
      "UPDATE mainstay.catalog_active SET hash = repeat('a', 64)");
  CHECK_FALSE(service.watcher.Refresh().ok());
  CHECK(service.watcher.model()->hash == good->hash);
  CHECK_FALSE(service.watcher.status().ok());
  CHECK_THAT(SqlValue(url, "SELECT problem FROM mainstay.catalog_seen"),
             Catch::Contains("the key \"surprise\" is not known here"));
  CHECK(service.seen.count() == 1);
  Sql(url, "UPDATE mainstay.catalog_active SET hash = '" + good->hash + "'");
  CHECK_THAT(service.watcher.Refresh(), IsOk());
  CHECK(SqlValue(url, "SELECT problem FROM mainstay.catalog_seen") == "");
}

TEST_CASE("changed tables are noticed without a new catalog, and one broken resource leaves the others") {
  const std::string url = ShopDatabase(true);
  REQUIRE_THAT(Publish(url, OneFile(kOrders), {}, "ada"), IsOk());
  Service service(url);
  REQUIRE_THAT(service.watcher.Start(), IsOk());
  Sql(url, "ALTER TABLE shop.orders ADD COLUMN shipped_at timestamptz");
  CHECK(service.seen.Await(2)->FindResource("orders")->FindField("shipped_at") != nullptr);
  Sql(url, "ALTER TABLE shop.orders RENAME COLUMN version TO revision");
  ModelPtr broken = service.seen.Await(3);
  CHECK_THAT(broken->FindResource("orders")->problem, Catch::Contains("has no column \"version\""));
  CHECK(broken->FindResource("products")->problem.empty());
  CHECK_THAT(service.watcher.Refresh(), IsOk());
  CHECK_THAT(SqlValue(url, "SELECT problem FROM mainstay.catalog_seen"), Catch::StartsWith("orders: "));
  Sql(url, "ALTER TABLE shop.orders RENAME COLUMN revision TO version");
  CHECK(service.seen.Await(4)->FindResource("orders")->problem.empty());
}

TEST_CASE("what a query gives is looked at again when its tables change") {
  const std::string url = ShopDatabase(true);
  REQUIRE_THAT(Publish(url, OneFile("resources: {q: {query: 'SELECT * FROM shop.orders', tenant: tenant_id, key: id}}"),
                       {}, "ada"),
               IsOk());
  Service service(url);
  REQUIRE_THAT(service.watcher.Start(), IsOk());
  CHECK(service.seen.Await(1)->FindResource("q")->problem.empty());
  Sql(url, "ALTER TABLE shop.orders ADD COLUMN shipped_at timestamptz");
  CHECK(service.seen.Await(2)->FindResource("q")->FindField("shipped_at") != nullptr);
  Sql(url, "ALTER TABLE shop.orders RENAME TO sales");
  CHECK_THAT(service.seen.Await(3)->FindResource("q")->problem, Catch::Contains("\"shop.orders\" does not exist"));
  Sql(url, "ALTER TABLE shop.sales RENAME TO orders");
  CHECK(service.seen.Await(4)->FindResource("q")->problem.empty());
}

TEST_CASE(
    "a service that may not read what a query reads takes its columns as published, also when only these change") {
  const std::string url = ShopDatabase(true);
  const auto catalog = OneFile("resources: {q: {query: 'SELECT * FROM shop.orders', tenant: tenant_id, key: id}}");
  REQUIRE_THAT(Publish(url, catalog, {}, "ada"), IsOk());
  Service service(url, "mainstay_transfer", QuerySource::kPublished);
  REQUIRE_THAT(service.watcher.Start(), IsOk());
  CHECK(service.seen.Await(1)->FindResource("q")->problem.empty());
  Sql(url, "ALTER TABLE shop.orders ADD COLUMN shipped_at timestamptz");
  REQUIRE_THAT(Publish(url, catalog, {}, "ada"), IsOk());
  CHECK(service.seen.Await(2)->FindResource("q")->FindField("shipped_at") != nullptr);
}

TEST_CASE("PostgreSQL away: the model stays, and catches up when it is back") {
  auto server = testing::Postgres::StartOwn();
  const std::string url = server->NewMigratedDatabase();
  Sql(url, testing::ReadFile(testing::SourceDir() + "/deploy/demo/schema.sql"));
  absl::StatusOr<Published> first = Publish(url, OneFile(kOrders), {}, "ada");
  REQUIRE_THAT(first, IsOk());
  Service service(url);
  REQUIRE_THAT(service.watcher.Start(), IsOk());
  Sql(url, "CHECKPOINT");  // the test server commits without waiting for the disk
  server->Kill();
  CHECK_FALSE(service.watcher.Refresh().ok());
  CHECK(service.watcher.model()->hash == first->hash);
  server->Start();
  absl::StatusOr<Published> second = Publish(url, OneFile(std::string(kOrders) + "# another\n"), {}, "ada");
  REQUIRE_THAT(second, IsOk());
  CHECK(service.seen.Await(2)->hash == second->hash);
}

}  // namespace
}  // namespace mainstay::catalog
