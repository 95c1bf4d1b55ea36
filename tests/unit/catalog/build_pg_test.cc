// SPDX-License-Identifier: Apache-2.0
// Declarations joined with live tables: defaults come from the database, every reference is checked against it.
#include <chrono>
#include <iostream>

#include "libs/catalog/build.h"
#include "tests/unit/catalog/world.h"

namespace mainstay::catalog {
namespace {

using testing::IsOk;
using testing::Sql;
using Lines = std::vector<std::string>;

std::shared_ptr<const Model> Checked_(const std::string& url, const std::string& text) {
  absl::StatusOr<Checked> checked = Check(url, OneFile(text));
  REQUIRE_THAT(checked, IsOk());
  return checked->model;
}

TEST_CASE("the demo catalog builds against the demo schema") {
  const std::string url = ShopDatabase();
  absl::StatusOr<Checked> checked = Check(url, DemoFiles(), kDemoVariables);
  REQUIRE_THAT(checked, IsOk());
  const Model& model = *checked->model;
  CHECK(model.hash == checked->hash);
  CHECK(model.schema_hash.size() == 64);

  const Resource& orders = *model.FindResource("orders");
  CHECK(orders.problem.empty());
  CHECK(orders.fields[orders.key[0]].name == "id");
  CHECK(orders.key.size() == 1);
  CHECK_FALSE(orders.client_chooses_key);
  CHECK(orders.FindField("id")->read_only);
  CHECK(orders.fields[orders.tenant].name == "tenant_id");
  CHECK(orders.FindField("version")->read_only);
  const Field& total = *orders.FindField("total");
  CHECK(total.type.family == TypeFamily::kDecimal);
  CHECK(total.type.precision == 12);
  CHECK(total.type.scale == 2);
  CHECK(total.has_default);
  CHECK_FALSE(total.nullable);
  const Field& status = *orders.FindField("status");
  CHECK(status.type.family == TypeFamily::kEnum);
  CHECK(status.type.name == "\"shop\".\"order_status\"");
  CHECK(status.type.enum_values == Lines{"draft", "open", "paid", "shipped", "cancelled", "refunded"});
  CHECK(status.filterable);
  // Behind the tenant an index's next column counts as its lead.
  CHECK(orders.FindField("created_at")->sortable);
  CHECK(orders.FindField("number")->filterable);
  CHECK(orders.FindField("number")->sortable);
  CHECK_FALSE(orders.FindField("note")->filterable);
  CHECK_FALSE(orders.FindField("note")->sortable);
  CHECK(orders.FindField("number")->max_length == 40);
  CHECK(orders.default_sort == std::vector<std::pair<int, bool>>{{orders.FindField("created_at")->position, true}});

  const Relation& customer = orders.relations.at("customer");
  CHECK(customer.kind == Relation::Kind::kToOne);
  CHECK(customer.columns == Lines{"customer_id"});
  CHECK(customer.target_columns == Lines{"id"});
  const Relation& items = orders.relations.at("items");
  CHECK(items.kind == Relation::Kind::kToMany);
  CHECK(items.columns == Lines{"id"});
  CHECK(items.target_columns == Lines{"order_id"});

  const Permission& viewer = model.FindResource("customers")->permissions.at("viewer");
  CHECK(viewer.read);
  CHECK_FALSE(viewer.update);
  CHECK_FALSE(viewer.all_fields_readable);
  CHECK(std::find(viewer.readable.begin(), viewer.readable.end(), "credit_limit") == viewer.readable.end());
  CHECK(std::find(viewer.readable.begin(), viewer.readable.end(), "password_hash") == viewer.readable.end());
  CHECK(std::find(viewer.readable.begin(), viewer.readable.end(), "email") != viewer.readable.end());
  CHECK(model.FindResource("customers")->FindField("password_hash")->hidden);
  CHECK(model.FindResource("customers")->FindField("password_hash")->sensitive);

  const Resource& payments = *model.FindResource("payments");
  CHECK(payments.client_chooses_key);
  CHECK_FALSE(payments.FindField("id")->read_only);
  CHECK(payments.FindField("id")->write_once);
  REQUIRE(orders.constraints.contains("orders_customer_id_fkey"));
  CHECK(orders.constraints.at("orders_customer_id_fkey") ==
        std::vector<int>{orders.FindField("customer_id")->position});
  CHECK(orders.constraints.contains("orders_total_check"));
  CHECK(orders.constraints.contains("orders_tenant_id_number_key"));
  REQUIRE(orders.unique_keys.size() == 1);
  REQUIRE(orders.references.size() == 2);
  CHECK(std::any_of(orders.references.begin(), orders.references.end(),
                    [](const Reference& r) { return r.target == "customers" && r.target_columns == Lines{"id"}; }));
  // A provider's id as key: the same id at two tenants would tell that it exists.
  CHECK(std::any_of(checked->warnings.begin(), checked->warnings.end(), [](const std::string& w) {
    return w.find("payments_pkey (id) spans tenants") != std::string::npos;
  }));
}

TEST_CASE("mistakes against the tables are said where they were written") {
  const std::string url = ShopDatabase();
  const std::string head = "resources:\n  orders:\n    table: shop.orders\n    tenant: tenant_id\n";
  auto wrong = [&](const std::string& more) { return Mistakes(url, head + more); };
  CHECK(wrong("").empty());
  CHECK(wrong("    fields:\n      totl: {}\n") == Lines{"c.yaml:6:7: resources.orders.fields.totl: the table "
                                                        "shop.orders has no column \"totl\"; did you mean \"total\"?"});
  CHECK(wrong("    fields: {x: {column: totl}}\n") ==
        Lines{"c.yaml:5:26: resources.orders.fields.x.column: the table shop.orders has no column \"totl\"; did you "
              "mean \"total\"?"});
  CHECK(
      wrong("    version: note\n") ==
      Lines{"c.yaml:5:14: resources.orders.version: a version column is a whole number; \"note\" is character varying",
            "c.yaml:5:14: resources.orders.version: the version column \"note\" must be NOT NULL"});
  CHECK(wrong("    deleted_at: created_at\n") ==
        Lines{"c.yaml:5:17: resources.orders.deleted_at: the column \"created_at\" must allow NULL: a row that is not "
              "deleted has none"});
  CHECK(wrong("    default_sort: [-total]\n") ==
        Lines{"c.yaml:5:20: resources.orders.default_sort[0]: the field \"total\" is not sortable; no index leads with "
              "it. Say `sortable: true` at the field if it should be all the same"});
  CHECK(wrong("    fields: {total: {sortable: true}}\n    default_sort: -total\n").empty());
  CHECK(wrong("    fields: {note: {sortable: true}}\n") ==
        Lines{"c.yaml:5:31: resources.orders.fields.note.sortable: text to sort by needs a maximum length of at most "
              "256, for it stands in cursors; say `max_length: 256`"});
  CHECK(wrong("    fields: {note: {sortable: true, max_length: 200}}\n").empty());
  CHECK(wrong("    fields: {total: {pattern: 'a'}}\n") ==
        Lines{"c.yaml:5:31: resources.orders.fields.total.pattern: is for text; the column \"total\" is numeric"});
  CHECK(wrong("    fields: {total: {minimum: few}}\n") ==
        Lines{"c.yaml:5:31: resources.orders.fields.total.minimum: \"few\" is not a number"});
  CHECK(wrong("    fields: {status: {one_of: [open, payed]}}\n") ==
        Lines{"c.yaml:5:38: resources.orders.fields.status.one_of[1]: the type \"shop\".\"order_status\" has no value "
              "\"payed\"; did you mean \"paid\"?"});
  CHECK(wrong("    fields: {id: {hidden: true}}\n") ==
        Lines{"c.yaml:5:14: resources.orders.fields.id: the field \"id\" is part of the key and can't be hidden"});
  CHECK(wrong("    key: [number]\n") ==
        Lines{"c.yaml:5:10: resources.orders.key: no unique index of shop.orders holds exactly these columns"});
  CHECK(wrong("    require_if_match: true\n") ==
        Lines{"c.yaml:5:23: resources.orders.require_if_match: needs a version column: `version: COLUMN`"});
  CHECK(wrong("    views: {short: [id, totals]}\n") ==
        Lines{"c.yaml:5:25: resources.orders.views.short[1]: the resource orders has no field \"totals\"; did you mean "
              "\"total\"?"});
  CHECK(wrong("    permissions: {staff: {actions: all}}\n") ==
        Lines{"c.yaml:5:19: resources.orders.permissions.staff: there is no role \"staff\"; declare it under `roles`"});
  CHECK(wrong("    permissions: {admin: {actions: all}}\n") ==
        Lines{"c.yaml:5:19: resources.orders.permissions.admin: the role admin is built in and may do everything; it "
              "needs no line here"});
  CHECK(wrong("    permissions: {'source:pay': {actions: all}}\n") ==
        Lines{"c.yaml:5:19: resources.orders.permissions.source:pay: there is no source \"pay\""});
  CHECK(wrong("    relations: {customer: {to: custmers}}\n") ==
        Lines{"c.yaml:5:32: resources.orders.relations.customer.to: there is no resource \"custmers\""});
  CHECK(Mistakes(url, "resources: {o: {table: shop.ordrs, shared: read}}\n") ==
        Lines{"c.yaml:1:24: resources.o.table: the database has no table shop.ordrs; did you mean \"shop.orders\"?"});
  CHECK(
      Mistakes(url, "resources: {o: {table: orders, shared: read}}\n") ==
      Lines{"c.yaml:1:24: resources.o.table: the database has no table public.orders; did you mean \"shop.orders\"?"});
}

TEST_CASE("row predicates are checked like queries") {
  const std::string url = ShopDatabase();
  auto wrong = [&](const std::string& where) {
    return Mistakes(url,
                    "roles: {r: {}}\nresources:\n  customers: {table: shop.customers, tenant: tenant_id, relations: "
                    "{orders: {many: orders}}}\n  orders:\n    table: shop.orders\n    tenant: tenant_id\n" +
                        std::string("    relations: {customer: {to: customers}}\n    permissions:\n      r:\n        "
                                    "actions: read\n        where: '") +
                        where + "'\n");
  };
  for (const char* good :
       {"filter[status]=open", "filter[status][ne]=draft&filter[number]={subject}", "filter[tenant_id]={tenant}",
        "filter[or][0][status]=open&filter[or][1][total][gte]=5", "filter[not][status]=paid",
        "filter[customer.country]=DE", "filter[customer.orders][some][status]=open", "filter[status][in]=open,paid",
        "filter[note][is_null]=true"}) {
    INFO(good);
    CHECK(wrong(good).empty());
  }
  const std::string at = "c.yaml:11:16: resources.orders.permissions.r.where: ";
  CHECK(wrong("filter[stats]=open") ==
        Lines{at + "the resource orders has no field \"stats\"; did you mean \"status\"?"});
  CHECK(wrong("filter[status]=opn") ==
        Lines{at + "\"opn\" is no value of status, which has draft, open, paid, shipped, cancelled, refunded"});
  CHECK(wrong("filter[status][equals]=open").size() == 1);
  CHECK(wrong("filter[status][nee]=open") == Lines{at + "\"nee\" is no operator; did you mean \"ne\"?"});
  CHECK(wrong("status=open") == Lines{at + "\"status\" is not filter[FIELD]; write for example filter[status]=open"});
  CHECK(wrong("filter[number]={owner}") == Lines{at + "\"{owner}\" is not {tenant} or {subject}"});
  CHECK(wrong("filter[customer]=5").size() == 1);
  CHECK(wrong("filter[or][x][status]=open").size() == 1);
  CHECK(wrong("filter[note][is_null]=maybe").size() == 1);
  CHECK(wrong("filter[customer.orders][status]=open").size() == 1);
}

TEST_CASE("checks, jobs of writes and nested relations are checked against fields, types and queues") {
  const std::string url = ShopDatabase();
  const auto wrong = [&](const std::string& keys) {
    return Mistakes(url,
                    "resources:\n  subscriptions:\n    table: shop.subscriptions\n    tenant: tenant_id\n    " + keys +
                        "\n  orders: {table: shop.orders, tenant: tenant_id, relations: {items: {many: order-items, "
                        "by: order_id, nested: true}}}\n  order-items: {table: shop.order_items, tenant: tenant_id}\n");
  };
  CHECK(wrong("checks: {c: {that: 'filter[version][gte]={id}', fields: [plan]}}").empty());
  CHECK(wrong("checks: {c: {if: 'filter[plan]=x', that: 'filter[active]=true'}}").empty());
  CHECK(wrong("checks: {c: {that: 'filter[version][gte]={plan}'}}") ==
        Lines{"c.yaml:5:24: resources.subscriptions.checks.c.that: \"plan\" is character varying and can't be compared "
              "with \"version\""});
  CHECK(wrong("checks: {c: {that: 'filter[version][gte]={nothing}'}}").size() == 1);
  CHECK(wrong("checks: {c: {that: 'filter[plam]=x', fields: [pla]}}").size() == 2);
  CHECK(wrong("checks: {c: {if: 'filter[plan]=x'}}").size() == 1);
  CHECK(wrong("jobs: {j: {on: [create, update], changed: plan, when: 'filter[active]=true', kind: a.b, args: [id]}}")
            .empty());
  CHECK(wrong("jobs: {j: {on: create, kind: a.b, changed: plan}}").size() == 1);
  CHECK(wrong("jobs: {j: {on: fly, kind: A, queue: q, args: nothing}}").size() == 4);
  CHECK(wrong("jobs: {j: {kind: a.b}}").size() == 1);
  CHECK(wrong("relations: {customer: {to: orders, by: customer_id, references: id, nested: true}}").size() == 2);
  CHECK(wrong("read_only: true\n    changes: true\n    history: 1d").size() == 2);
}

TEST_CASE("routes are checked against provider, role, fields, keys and enum values") {
  const std::string url = ShopDatabase();
  auto wrong = [&](const std::string& apply, const std::string& permission = "{actions: [read, create, update]}") {
    return Mistakes(url,
                    "resources:\n  payments:\n    table: shop.payments\n    tenant: tenant_id\n    version: version\n  "
                    "  permissions: {'source:pay': " +
                        permission +
                        "}\nsources:\n  pay:\n    scheme: stripe\n    secrets: s\n    tenant: acme\n    routes:\n      "
                        "- types: '*'\n        apply: " +
                        apply + "\n");
  };
  const std::string map =
      "{id: 'json:id', order_id: 'json:o', status: 'const:succeeded', amount: 'json:a', currency: 'json:c', "
      "provider_updated_at: 'json:t'}";
  CHECK(wrong("{resource: payments, map: " + map + "}").empty());
  CHECK(wrong("{resource: payment, map: " + map + "}") ==
        Lines{"c.yaml:14:27: sources.pay.routes[0].apply[0].resource: there is no resource \"payment\"; did you mean "
              "\"payments\"?"});
  CHECK(wrong("{resource: payments, map: " + map + "}", "{actions: [read, update]}") ==
        Lines{"c.yaml:14:16: sources.pay.routes[0].apply[0].mode: the role source:pay lacks the action create on "
              "payments"});
  CHECK(wrong("{resource: payments, mode: update, map: {id: 'json:id', status: 'json:s'}}",
              "{actions: [read, update], write: [amount]}") ==
        Lines{"c.yaml:14:72: sources.pay.routes[0].apply[0].map.status: the role source:pay may not write the field "
              "\"status\" of payments"});
  CHECK(
      wrong("{resource: payments, key: [order_id], map: " + map + "}") ==
      Lines{
          "c.yaml:14:42: sources.pay.routes[0].apply[0].key: does not identify a row of payments; its keys are [id]"});
  CHECK(wrong("{resource: payments, mode: update, map: {id: 'json:id', status: 'const:done'}}").size() == 1);
  CHECK(wrong("{resource: payments, mode: update, map: {id: 'json:id', version: 'json:v'}}") ==
        Lines{"c.yaml:14:72: sources.pay.routes[0].apply[0].map.version: the field \"version\" is read-only"});
  CHECK(wrong("{resource: payments, mode: update, map: {id: 'json:id', tenant_id: 'json:v'}}") ==
        Lines{"c.yaml:14:72: sources.pay.routes[0].apply[0].map.tenant_id: the tenant comes from the source (`tenant` "
              "or `tenant_from`), not from a mapping"});
  CHECK(wrong("{resource: payments, mode: update, stale: amount, map: {id: 'json:id', status: 'json:s'}}").size() == 1);
  CHECK(wrong("{resource: payments, mode: update, map: {id: 'json:id', status: 'json:s'}, transitions: {field: status, "
              "allowed: {pending: [done]}}}")
            .size() == 1);

  auto changed = [&](const std::string& from, const std::string& to) {
    std::vector<File> files = DemoFiles();
    for (File& file : files)
      if (size_t at = file.text.find(from); at != std::string::npos) file.text.replace(at, from.size(), to);
    absl::StatusOr<Checked> checked = Check(url, files, kDemoVariables);
    return std::string(checked.status().message());
  };
  CHECK_THAT(changed("operation: get_payment", "operation: get_paymnt"),
             Catch::EndsWith("the provider payments has no operation \"get_paymnt\"; did you mean \"get_payment\"?"));
  CHECK_THAT(changed("provider: payments", "provider: paymants"),
             Catch::EndsWith("there is no provider \"paymants\"; did you mean \"payments\"?"));
  const std::string params = changed("params: {id: 'event:entity'}", "params: {idd: 'event:entity'}");
  CHECK_THAT(params, Catch::Contains("the operation get_payment needs the parameter \"id\""));
  CHECK_THAT(params, Catch::Contains("the operation get_payment has no parameter \"idd\"; did you mean \"id\"?"));
}

TEST_CASE("imports and exports are checked against their resource") {
  const std::string url = ShopDatabase();
  const std::string head =
      "resources:\n  customers: {table: shop.customers, tenant: tenant_id, created_at: created_at}\n";
  CHECK(Mistakes(url, head + "imports: {c: {resource: customers, key: [email], columns: {Mail: email}}}\n").empty());
  CHECK(Mistakes(url, head + "imports: {c: {resource: customers, key: [name]}}\n") ==
        Lines{"c.yaml:3:41: imports.c.key: does not identify a row of customers; its keys are [id] or [email]"});
  CHECK(Mistakes(url, head + "imports: {c: {resource: customers, columns: {Mail: mail}}}\n") ==
        Lines{"c.yaml:3:52: imports.c.columns.Mail: the resource customers has no field \"mail\"; did you mean "
              "\"email\"?"});
  CHECK(Mistakes(url, head + "imports: {c: {resource: customers, columns: {When: created_at}}}\n") ==
        Lines{"c.yaml:3:52: imports.c.columns.When: the field \"created_at\" is read-only"});
  CHECK(Mistakes(url, head + "exports: {c: {resource: customers, fields: [id, nam]}}\n") ==
        Lines{"c.yaml:3:49: exports.c.fields[1]: the resource customers has no field \"nam\"; did you mean \"name\"?"});
  CHECK(Mistakes(url, head + "exports: {c: {resource: customers, query: 'filter[country]=DE&sort=-created_at'}}\n")
            .empty());
  CHECK(Mistakes(url, head + "exports: {c: {resource: customers, query: 'sort=name'}}\n") ==
        Lines{"c.yaml:3:43: exports.c.query: the field \"name\" is not sortable"});
}

TEST_CASE("odd names, types of every family, composite keys, domains, partitions, views") {
  const std::string url = testing::NewDatabase();
  Sql(url, R"sql(
CREATE SCHEMA "Odd Schema"; CREATE SCHEMA types; CREATE EXTENSION IF NOT EXISTS citext;
CREATE TYPE types."Farbe" AS ENUM ('rot', 'grün', 'it''s "blue"');
CREATE DOMAIN types.email AS varchar(254) NOT NULL CHECK (VALUE ~ '@');
CREATE DOMAIN types.work_email AS types.email;
CREATE DOMAIN types.tags AS text[] DEFAULT '{}';
CREATE TABLE "Odd Schema"."Order ""Details"".x" (
  "Order Id" bigint, "line.no" smallint, "größe" numeric(10, 3), "select" text, "createdAt" timestamptz DEFAULT now(),
  farbe types."Farbe" DEFAULT 'rot', farben types."Farbe"[], mail types.work_email, tags types.tags, span int4range, moment timestamp, clock time, length interval,
  data jsonb, raw bytea, ip inet, ratio double precision, half real, flag boolean, day date, code char(3), nick citext, label text COLLATE "C", bits bit(3), pt point,
  twice bigint GENERATED ALWAYS AS ("Order Id" * 2) STORED, n numeric(5, -2), many numeric(12, 2)[],
  PRIMARY KEY ("line.no", "Order Id"));
CREATE TABLE types.events (id bigint GENERATED ALWAYS AS IDENTITY, at date NOT NULL, order_id bigint NOT NULL, line smallint NOT NULL, parent bigint, parent_at date, PRIMARY KEY (id, at),
  FOREIGN KEY (order_id, line) REFERENCES "Odd Schema"."Order ""Details"".x" ("Order Id", "line.no"),
  FOREIGN KEY (parent, parent_at) REFERENCES types.events) PARTITION BY RANGE (at);
CREATE TABLE types.events_2026 PARTITION OF types.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE VIEW types.totals AS SELECT order_id, count(*) AS n FROM types.events GROUP BY order_id;
CREATE VIEW types.simple AS SELECT id, at, line FROM types.events;
CREATE TABLE types.no_key (a int);
CREATE TABLE types.people (id serial PRIMARY KEY, boss int REFERENCES types.people);
CREATE TABLE types.groups (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text);
CREATE TABLE types.members (person int REFERENCES types.people, grp uuid REFERENCES types.groups, PRIMARY KEY (person, grp));
)sql");
  const std::string text = R"(
resources:
  details:
    table: 'Odd Schema."Order ""Details"".x"'
    shared: write
    fields:
      colour: {column: farbe}
    relations:
      events: {many: events}
  events:
    table: types.events
    shared: write
    relations:
      detail: {to: details}
      parent_event: {to: events, by: [parent, parent_at]}
      children: {many: events, by: [parent, parent_at]}
  totals: {table: types.totals, shared: read, key: order_id}
  people:
    table: types.people
    shared: write
    relations:
      groups: {many: groups, through: types.members}
      manager: {to: people}
      reports: {many: people}
  groups: {table: types.groups, shared: write, expose: declared, fields: {name: {}, id: {}}}
)";
  auto model = Checked_(url, text);
  const Resource& details = *model->FindResource("details");
  auto field = [&](const char* name) -> const Field& {
    INFO(name);
    REQUIRE(details.FindField(name) != nullptr);
    return *details.FindField(name);
  };
  CHECK(field("order_id").column == "Order Id");
  CHECK(details.key == std::vector<int>{field("line_no").position, field("order_id").position});
  CHECK(details.client_chooses_key);
  CHECK(field("grosse").type.precision == 10);
  CHECK(field("created_at").has_default);
  CHECK(field("select").type.family == TypeFamily::kText);
  CHECK(field("colour").type.enum_values == Lines{"rot", "grün", "it's \"blue\""});
  CHECK(field("colour").type.name == "\"types\".\"Farbe\"");
  CHECK(field("farben").type.array);
  CHECK(field("farben").type.name == "\"types\".\"Farbe\"[]");
  CHECK(field("mail").type.family == TypeFamily::kText);
  CHECK(field("mail").type.name == "character varying");
  CHECK(field("mail").max_length == 254);
  CHECK_FALSE(field("mail").nullable);
  CHECK(field("tags").type.array);
  CHECK(field("tags").has_default);
  CHECK(field("span").type.family == TypeFamily::kRange);
  CHECK(field("moment").type.family == TypeFamily::kTimestamp);
  CHECK(field("clock").type.family == TypeFamily::kTime);
  CHECK(field("length").type.family == TypeFamily::kInterval);
  CHECK(field("data").type.family == TypeFamily::kJson);
  CHECK(field("raw").type.family == TypeFamily::kBytes);
  CHECK(field("ip").type.family == TypeFamily::kInet);
  CHECK(field("ratio").type.family == TypeFamily::kFloat64);
  CHECK(field("half").type.family == TypeFamily::kFloat32);
  CHECK(field("flag").type.family == TypeFamily::kBool);
  CHECK(field("day").type.family == TypeFamily::kDate);
  CHECK(field("code").type.name == "bpchar");  // a cast to `character` would cut to one letter
  CHECK(field("code").max_length == 3);
  CHECK(field("nick").type.family == TypeFamily::kText);
  CHECK(field("label").type.collation == "pg_catalog.\"C\"");
  CHECK(field("bits").type.family == TypeFamily::kOther);
  CHECK(field("pt").type.family == TypeFamily::kOther);
  CHECK(field("twice").generated);
  CHECK(field("twice").read_only);
  CHECK(field("n").type.scale == -2);
  CHECK(field("many").type.array);
  CHECK(field("many").type.scale == 2);
  // Every type's name can be cast to, and cuts nothing.
  pqxx::connection connection(url);
  pqxx::nontransaction tx(connection);
  for (const Field& f : details.fields) CHECK_NOTHROW(tx.exec("SELECT NULL::" + f.type.name));

  const Resource& events = *model->FindResource("events");
  CHECK(events.FindField("id")->generated);
  CHECK(events.relations.at("detail").columns == Lines{"order_id", "line"});
  CHECK(events.relations.at("detail").target_columns == Lines{"Order Id", "line.no"});
  CHECK(details.relations.at("events").columns == Lines{"Order Id", "line.no"});
  CHECK(events.relations.at("children").target_columns == Lines{"parent", "parent_at"});
  CHECK(model->FindResource("totals")->view);
  CHECK(model->FindResource("totals")->read_only);
  CHECK(model->FindResource("totals")->key.size() == 1);
  const Relation& groups = model->FindResource("people")->relations.at("groups");
  CHECK(groups.through == "\"types\".\"members\"");
  CHECK(groups.through_columns == Lines{"person"});
  CHECK(groups.through_target_columns == Lines{"grp"});
  CHECK(model->FindResource("people")->relations.at("manager").columns == Lines{"boss"});
  CHECK(model->FindResource("people")->relations.at("reports").target_columns == Lines{"boss"});
  CHECK(model->FindResource("people")->FindField("id")->has_default);

  CHECK(Mistakes(url, "resources: {x: {table: types.no_key, shared: read}}\n") ==
        Lines{"c.yaml:1:24: resources.x.table: types.no_key has no primary key; name the columns that identify a row: "
              "`key: [COLUMN, …]`"});
  CHECK(Mistakes(url, "resources: {x: {table: types.totals, shared: write, read_only: false, key: order_id}}\n") ==
        Lines{"c.yaml:1:64: resources.x.read_only: types.totals is a view that PostgreSQL cannot write through; it can "
              "only be read_only"});
  CHECK(
      Mistakes(url, "resources: {x: {table: types.simple, shared: write, read_only: false, key: [id, at]}}\n").empty());
  CHECK(Mistakes(url,
                 "roles: {r: {}}\nresources: {x: {table: types.people, shared: read, permissions: {r: {actions: [read, "
                 "update]}}}}\n")
            .size() == 1);
}

TEST_CASE("two foreign keys to one table ask which is meant, and two columns of one public name ask for another") {
  const std::string url = testing::NewDatabase();
  Sql(url, R"sql(
CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, first int REFERENCES a, second int REFERENCES a, t text, d date);
CREATE TABLE c (id int PRIMARY KEY, "userId" int, user_id int);)sql");
  auto relation = [&](const std::string& text) {
    return Mistakes(url, "resources:\n  as: {table: a, shared: read}\n  bs: {table: b, shared: read, relations: {x: " +
                             text + "}}\n");
  };
  CHECK(relation("{to: as, by: first}").empty());
  CHECK(relation("{to: as}") == Lines{"c.yaml:3:44: resources.bs.relations.x: public.b has 2 foreign keys to public.a; "
                                      "say which is meant: `by: [first]` or `by: [second]`"});
  CHECK(relation("{to: as, by: t}") ==
        Lines{"c.yaml:3:60: resources.bs.relations.x.by: the column \"t\" is text, but \"id\" of public.a is integer"});
  CHECK(relation("{to: as, by: [first, second]}") ==
        Lines{"c.yaml:3:60: resources.bs.relations.x.by: 2 columns point at the 1 of public.a (id); give as many"});
  CHECK(relation("{many: as}") == Lines{"c.yaml:3:44: resources.bs.relations.x: public.a has no foreign key to "
                                        "public.b; say which fields point there: `by: [FIELD, …]`"});
  CHECK(Mistakes(url, "resources: {cs: {table: c, shared: read}}\n") ==
        Lines{"c.yaml:1:13: resources.cs.fields: the columns \"userId\" and \"user_id\" would both be the field "
              "\"user_id\"; give one another name: `other_name: {column: \"user_id\"}`"});
  CHECK(Mistakes(url, "resources: {cs: {table: c, shared: read, fields: {login: {column: userId}}}}\n").empty());
}

TEST_CASE("a resource that no longer fits its table is broken alone; those that point at it go on") {
  const std::string url = ShopDatabase();
  absl::StatusOr<Document> document = ParseFiles(DemoFiles(), kDemoVariables);
  REQUIRE_THAT(document, IsOk());
  Sql(url, "DROP TABLE shop.subscriptions; ALTER TABLE shop.orders DROP COLUMN version");
  pqxx::connection connection(url);
  pqxx::work tx(connection);
  absl::StatusOr<Database> database = Introspect(tx, document->Tables(), document->Queries());
  REQUIRE_THAT(database, IsOk());
  Built built = Build(*document, *database);
  CHECK(built.model->FindResource("subscriptions")->problem.find("the database has no table shop.subscriptions") !=
        std::string::npos);
  CHECK(built.model->FindResource("orders")->problem.find("the table shop.orders has no column \"version\"") !=
        std::string::npos);
  CHECK(built.model->FindResource("customers")->problem.empty());
  CHECK_FALSE(built.model->FindResource("customers")->relations.contains("orders"));
  CHECK(built.model->FindResource("products")->problem.empty());
  CHECK(built.model->FindResource("order-items")->relations.contains("product"));
  CHECK(built.mistakes.size() == 2);
}

TEST_CASE("the schema's hash and fingerprint follow what matters") {
  const std::string url = ShopDatabase();
  auto hashes = [&] {
    absl::StatusOr<Checked> checked = Check(url, DemoFiles(), kDemoVariables);
    REQUIRE_THAT(checked, IsOk());
    pqxx::connection connection(url);
    pqxx::work tx(connection);
    absl::StatusOr<std::string> fingerprint = SchemaFingerprint(tx, {"shop.orders", "shop.customers"});
    REQUIRE_THAT(fingerprint, IsOk());
    return std::make_pair(checked->model->schema_hash, *fingerprint);
  };
  auto last = hashes();
  CHECK(hashes() == last);
  Sql(url, "INSERT INTO shop.tenants VALUES ('acme', 'Acme'); ANALYZE");
  CHECK(hashes() == last);
  for (const char* change :
       {"ALTER TABLE shop.orders ADD COLUMN extra int", "ALTER TABLE shop.orders ALTER COLUMN extra SET NOT NULL",
        "ALTER TABLE shop.orders ALTER COLUMN extra SET DEFAULT 1", "ALTER TYPE shop.order_status ADD VALUE 'lost'",
        "CREATE INDEX o ON shop.orders (extra)", "ALTER TABLE shop.orders ALTER COLUMN extra TYPE bigint",
        "ALTER TABLE shop.orders ADD CONSTRAINT c CHECK (extra > 0)",
        "ALTER TABLE shop.orders RENAME COLUMN extra TO more"}) {
    INFO(change);
    Sql(url, change);
    auto now = hashes();
    CHECK(now.first != last.first);
    CHECK(now.second != last.second);
    last = now;
  }
  Sql(url, "CREATE TABLE public.other (id int)");
  CHECK(hashes() == last);
}

TEST_CASE("a list of the suite's own is a resource too") {
  const std::string url = testing::NewDatabase();
  Sql(url,
      "CREATE SCHEMA mainstay; CREATE VIEW mainstay.things_view AS SELECT 1::bigint AS id, 'x'::text AS tenant, "
      "'a'::text AS name, '{}'::jsonb AS hide");
  pqxx::connection connection(url);
  pqxx::work tx(connection);
  absl::StatusOr<Resource> resource = SystemResource(
      tx, "mainstay.things_view",
      {.name = "things", .default_sort = "-id,name", .filterable = {"name"}, .sortable = {"name"}, .hidden = {"hide"}});
  REQUIRE_THAT(resource, IsOk());
  CHECK(resource->read_only);
  CHECK(resource->key == std::vector<int>{0});
  CHECK(resource->tenant == 1);
  CHECK(resource->FindField("id")->filterable);
  CHECK(resource->FindField("name")->sortable);
  CHECK_FALSE(resource->FindField("tenant")->filterable);
  CHECK(resource->FindField("hide")->hidden);
  CHECK(resource->default_sort == std::vector<std::pair<int, bool>>{{0, true}, {2, false}});
  CHECK_FALSE(SystemResource(tx, "mainstay.things_view", {.name = "things", .filterable = {"nope"}}).ok());
  CHECK_THAT(SystemResource(tx, "mainstay.none", {.name = "x"}),
             testing::StatusIs(absl::StatusCode::kNotFound, "mainstay migrate"));
}

TEST_CASE("a thousand tables load in a constant number of statements") {
  const std::string url = testing::NewDatabase();
  Sql(url, "CREATE SCHEMA big");
  for (int from = 1; from <= 1000;
       from += 100)  // in parts: one transaction would need more locks than a server has by default
    Sql(url,
        "DO $$ BEGIN FOR i IN " + std::to_string(from) + ".." + std::to_string(from + 99) + R"sql( LOOP EXECUTE format(
      'CREATE TABLE big.t%s (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, tenant_id text NOT NULL, parent bigint %s, name varchar(100), status text, amount numeric(12, 2),
       data jsonb, tags text[], created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz, UNIQUE (tenant_id, name))',
      i, CASE WHEN i > 1 THEN 'REFERENCES big.t' || (i - 1) ELSE '' END); END LOOP; END $$)sql");
  std::string text = "roles: {staff: {}}\nresources:\n";
  for (int i = 1; i <= 1000; ++i) {
    const std::string n = std::to_string(i);
    text += "  t" + n + ":\n    table: big.t" + n +
            "\n    tenant: tenant_id\n    created_at: created_at\n    updated_at: updated_at\n    default_sort: "
            "[-id]\n    fields: {name: {pattern: '[a-z]+'}, status: {filterable: true}}\n";
    if (i > 1) text += "    relations: {up: {to: t" + std::to_string(i - 1) + ", by: parent}}\n";
    text += "    permissions: {staff: {actions: all, where: 'filter[status][ne]=draft'}}\n";
  }
  auto started = std::chrono::steady_clock::now();
  pqxx::connection connection(url);
  pqxx::work tx(connection);
  absl::StatusOr<Document> document = ParseFiles(OneFile(text));
  REQUIRE_THAT(document, IsOk());
  auto parsed = std::chrono::steady_clock::now();
  absl::StatusOr<Database> database = Introspect(tx, document->Tables(), document->Queries());
  REQUIRE_THAT(database, IsOk());
  auto read = std::chrono::steady_clock::now();
  Built built = Build(*document, *database);
  auto done = std::chrono::steady_clock::now();
  absl::StatusOr<std::string> fingerprint = SchemaFingerprint(tx, document->Tables());
  auto fingerprinted = std::chrono::steady_clock::now();
  CHECK(built.mistakes.empty());
  CHECK(built.model->resources.size() == 1000);
  auto ms = [](auto a, auto b) { return std::chrono::duration_cast<std::chrono::milliseconds>(b - a).count(); };
  std::cout << "1000 resources: parse " << ms(started, parsed) << " ms, introspect " << ms(parsed, read)
            << " ms, build " << ms(read, done) << " ms, fingerprint " << ms(done, fingerprinted) << " ms\n";
}

}  // namespace
}  // namespace mainstay::catalog
