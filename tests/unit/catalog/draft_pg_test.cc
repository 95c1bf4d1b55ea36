// SPDX-License-Identifier: Apache-2.0
// A draft parses, checks and publishes as it stands, over tables nobody here has chosen, and errs on the closed side.
#include "libs/catalog/init.h"
#include "tests/unit/catalog/world.h"

namespace mainstay::catalog {
namespace {

using testing::IsOk;
using testing::Sql;

std::string DraftOf(const std::string& url, const std::vector<std::string>& schemas = {}) {
  pqxx::connection connection(url);
  pqxx::read_transaction tx(connection);
  absl::StatusOr<std::string> draft = Draft(tx, schemas);
  REQUIRE_THAT(draft, IsOk());
  return *draft;
}

TEST_CASE("the shop's draft publishes as it stands") {
  const std::string url = ShopDatabase(true);
  const std::string draft = DraftOf(url, {"shop"});
  INFO(draft);
  absl::StatusOr<Published> published = Publish(url, OneFile(draft), {}, "ada");
  REQUIRE_THAT(published, IsOk());
  pqxx::connection connection(url);
  pqxx::work tx(connection);
  absl::StatusOr<Built> built = LoadActive(tx);
  REQUIRE_THAT(built, IsOk());
  const Resource& customers = *built->model->FindResource("customers");
  CHECK(customers.FindField("password_hash")->hidden);
  CHECK(customers.tenant >= 0);
  CHECK(customers.version >= 0);
  CHECK(customers.created_at >= 0);
  CHECK(customers.relations.contains("orders"));
  const Resource& orders = *built->model->FindResource("orders");
  CHECK(orders.relations.at("customer").target == "customers");
  CHECK(orders.relations.at("order_items").target == "order-items");
}

TEST_CASE("a database of odd tables is drafted whole, and the draft is right") {
  const std::string url = testing::NewDatabase();
  Sql(url, R"sql(
CREATE SCHEMA "Sales Team"; CREATE SCHEMA other;
CREATE TABLE "Sales Team"."Category" ("ID" int PRIMARY KEY, "Name" text, "name" text, "or" int, "user token" text, "true" boolean, "${x}" int);
CREATE TABLE other.category (id int PRIMARY KEY, account_id int);
CREATE TABLE other.employees (id serial PRIMARY KEY, manager_id int REFERENCES other.employees, backup_id int REFERENCES other.employees, ssn text, category int REFERENCES other.category, version int NOT NULL DEFAULT 1, deleted_at timestamptz);
CREATE TABLE other.skills (code varchar(10) PRIMARY KEY);
CREATE TABLE other.employee_skills (employee_id int REFERENCES other.employees, skill_code varchar(10) REFERENCES other.skills, PRIMARY KEY (employee_id, skill_code));
CREATE TABLE other.log (at timestamptz, line text); CREATE VIEW other.v AS SELECT * FROM other.skills;
CREATE TABLE other.parts (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region); CREATE TABLE other.parts_eu PARTITION OF other.parts FOR VALUES IN ('eu');
CREATE TABLE other."odd.name ""quoted""" (k uuid PRIMARY KEY, "Ünïcode Ñame" text, tenant text);
)sql");
  const std::string draft = DraftOf(url);
  INFO(draft);
  absl::StatusOr<Checked> checked = Check(url, OneFile(draft));
  REQUIRE_THAT(checked, IsOk());
  const Model& model = *checked->model;
  CHECK(model.resources.size() == 7);
  const Resource* sales = model.FindResource("sales-team-categories");
  REQUIRE(sales != nullptr);
  CHECK(sales->FindField("name")->column == "name");
  CHECK(sales->FindField("name_2")->column == "Name");
  CHECK(sales->FindField("user_token")->hidden);
  CHECK(sales->FindField("or_")->column == "or");
  CHECK(sales->FindField("x")->column == "${x}");
  const Resource* employees = model.FindResource("employees");
  REQUIRE(employees != nullptr);
  CHECK(employees->FindField("ssn")->hidden);
  CHECK(employees->relations.at("manager").columns == std::vector<std::string>{"manager_id"});
  CHECK(employees->relations.at("employees_by_manager").target_columns == std::vector<std::string>{"manager_id"});
  CHECK(employees->relations.at("skills").through == "\"other\".\"employee_skills\"");
  CHECK(employees->deleted_at >= 0);
  CHECK(model.FindResource("parts") != nullptr);
  CHECK(model.FindResource("odd-name-quoteds")->FindField("unicode_name")->column == "Ünïcode Ñame");
  CHECK(model.FindResource("odd-name-quoteds")->tenant >= 0);
  // What only might be a tenant stays closed to writes until someone decides.
  CHECK(model.FindResource("other-categories")->read_only);
  CHECK_THAT(draft, Catch::Contains("tenant: account_id"));
  CHECK_THAT(draft, Catch::Contains("# Left out: other.log: no usable primary key"));
  CHECK_THAT(draft, Catch::Contains("# Left out: other.v: a view"));
}

TEST_CASE("an empty database gives an empty, valid draft") {
  const std::string url = testing::NewDatabase();
  CHECK_THAT(Check(url, OneFile(DraftOf(url))), IsOk());
}

}  // namespace
}  // namespace mainstay::catalog
