// SPDX-License-Identifier: Apache-2.0
// A database nobody here has seen: forty tables with composite keys, enums, arrays, JSON, ranges, domains, generated
// columns, partitions, self-references and odd names, served by what `mainstay init` drafts, with nothing written by
// hand. Everything that the model offers is used: each list, record, sort, filter, relation, figure and format.
#include <set>

#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "tests/unit/records/world.h"

namespace mainstay::records {
namespace {

constexpr char kTables[] = R"sql(
CREATE SCHEMA "Sales Team"; CREATE SCHEMA warehouse; CREATE SCHEMA hr;
CREATE TYPE hr.level AS ENUM ('junior', 'senior', 'it''s complicated');
CREATE DOMAIN hr.email AS text CHECK (VALUE LIKE '%@%');
CREATE TYPE warehouse.spot AS (aisle int, shelf int);

CREATE TABLE hr.employees (id serial PRIMARY KEY, manager_id int REFERENCES hr.employees, backup_id int REFERENCES hr.employees, name varchar(80) NOT NULL, mail hr.email UNIQUE, level hr.level, password_hash text, salary numeric(12,2), skills text[] NOT NULL DEFAULT '{}', hired date, created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz, deleted_at timestamptz, version int NOT NULL DEFAULT 1);
CREATE TABLE hr.offices (code char(3) PRIMARY KEY, "Full Name" text, "city/town" text, opened time, net cidr, gateway inet);
CREATE TABLE hr.postings (employee_id int REFERENCES hr.employees, office char(3) REFERENCES hr.offices, during daterange, share real, PRIMARY KEY (employee_id, office));
CREATE TABLE hr.reviews (employee_id int REFERENCES hr.employees, year smallint, stars double precision, body jsonb, raw json, PRIMARY KEY (employee_id, year));
CREATE TABLE hr.review_notes (employee_id int, year smallint, n int, note text, FOREIGN KEY (employee_id, year) REFERENCES hr.reviews, PRIMARY KEY (employee_id, year, n));
CREATE TABLE hr.skills (name varchar(40) PRIMARY KEY, parent varchar(40) REFERENCES hr.skills);
CREATE TABLE hr.employee_skills (employee_id int REFERENCES hr.employees, skill varchar(40) REFERENCES hr.skills, PRIMARY KEY (employee_id, skill));

CREATE TABLE "Sales Team"."Order" ("ID" uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id text NOT NULL, "select" int, "from" text, "or" boolean, "filter[x]" text, "Größe" numeric, "createdAt" timestamp, total numeric GENERATED ALWAYS AS ("select" * 2.5) STORED);
CREATE INDEX ON "Sales Team"."Order" (tenant_id, "createdAt" DESC, "ID" DESC);
CREATE TABLE "Sales Team"."Order Line" ("Order" uuid REFERENCES "Sales Team"."Order", "Line#" int, tenant_id text NOT NULL, "a""b" text, qty bigint, PRIMARY KEY ("Order", "Line#"));
CREATE TABLE "Sales Team".category (id int PRIMARY KEY, slug varchar(30) UNIQUE, up int REFERENCES "Sales Team".category);
CREATE TABLE "Sales Team".data (data int PRIMARY KEY, page text, "limit" int, cursor text);
CREATE TABLE "Sales Team".order_tags (order_id uuid REFERENCES "Sales Team"."Order", tag int, PRIMARY KEY (order_id, tag));

CREATE TABLE warehouse.category (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
CREATE TABLE warehouse.items (sku varchar(20) PRIMARY KEY, category_id bigint REFERENCES warehouse.category, at warehouse.spot, weight float4, dims float8[], grid int[][], photo bytea, bits bit(4), price money, found tsvector, spoils interval, box box, span int4range, spans int8multirange, meta text, api_token text);
CREATE TABLE warehouse.moves (id bigint, at timestamptz NOT NULL, sku varchar(20) REFERENCES warehouse.items, delta int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE warehouse.moves_2025 PARTITION OF warehouse.moves FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE warehouse.moves_2026 PARTITION OF warehouse.moves FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE warehouse.heap (line text);
CREATE TABLE warehouse.bins (a int, b text, c date, d boolean, e uuid, PRIMARY KEY (a, b, c, d, e));
CREATE TABLE warehouse.no_rows (id int PRIMARY KEY, gone_to int REFERENCES warehouse.no_rows);
CREATE VIEW warehouse.stock AS SELECT sku, sum(delta) AS n FROM warehouse.moves GROUP BY 1;
CREATE TABLE public."Ω" ("ключ" int PRIMARY KEY, "值" text, " " text, "a.b" text);
CREATE TABLE public.a_table_with_a_name_that_is_exactly_sixty_three_bytes_long_____ (id int PRIMARY KEY, a_column_with_a_name_that_is_exactly_sixty_three_bytes_long____ int);

INSERT INTO hr.employees (manager_id, backup_id, name, mail, level, password_hash, salary, skills, hired, deleted_at)
SELECT CASE WHEN i > 3 THEN 1 + i % 3 END, CASE WHEN i > 5 THEN 4 + i % 2 END, 'E ' || i, 'e' || i || '@x.example', (ARRAY['junior', 'senior', 'it''s complicated', NULL])[1 + i % 4]::hr.level, 'h', i * 1000.5, '{a,"b, c"}', '2020-01-01'::date + i, CASE WHEN i % 10 = 0 THEN now() END
FROM generate_series(1, 40) i;
INSERT INTO hr.offices VALUES ('ber', 'Berlin "Mitte"', 'Berlin', '09:00', '10.0.0.0/8', '10.0.0.1'), ('par', NULL, 'Paris', NULL, NULL, NULL), ('x', E'\t,;', '', '23:59:59.999999', '::/0', '::1');
INSERT INTO hr.postings SELECT i, (ARRAY['ber', 'par', 'x'])[1 + i % 3], daterange('2024-01-01', CASE WHEN i % 2 = 0 THEN '2025-01-01'::date END), i / 7.0 FROM generate_series(1, 30) i;
INSERT INTO hr.reviews SELECT i, y, CASE WHEN i = 7 THEN 'NaN' ELSE i / 3.0 END, jsonb_build_object('k', i, 'deep', jsonb_build_array(1, NULL, 'x')), '{"a": 1.0}' FROM generate_series(1, 20) i, generate_series(2024, 2025) y;
INSERT INTO hr.review_notes SELECT i, 2024, n, repeat('ü', n) FROM generate_series(1, 10) i, generate_series(1, 12) n;
INSERT INTO hr.skills VALUES ('c', NULL), ('c++', 'c'), ('c++20', 'c++'), ('a/b,c d', NULL);
INSERT INTO hr.employee_skills SELECT i, s.name FROM generate_series(1, 15) i, hr.skills s WHERE (i + length(s.name)) % 2 = 0;
INSERT INTO "Sales Team"."Order" (tenant_id, "select", "from", "or", "filter[x]", "Größe", "createdAt") SELECT CASE i % 3 WHEN 0 THEN 'globex' ELSE 'acme' END, i, 'f' || i, i % 2 = 0, '[' || i, CASE WHEN i = 5 THEN 'NaN' ELSE i / 7.0 END, '2026-01-01'::timestamp + (i % 9) * interval '1 microsecond' FROM generate_series(1, 30) i;
INSERT INTO "Sales Team"."Order Line" SELECT "ID", n, tenant_id, 'q"', 9007199254740993 + n FROM "Sales Team"."Order", generate_series(1, 3) n;
INSERT INTO "Sales Team".category VALUES (1, 'root', NULL), (2, 'leaf', 1), (3, NULL, 2);
INSERT INTO "Sales Team".data VALUES (1, 'p', 2, 'c'), (2, NULL, NULL, NULL);
INSERT INTO "Sales Team".order_tags SELECT "ID", 1 FROM "Sales Team"."Order" LIMIT 5;
INSERT INTO warehouse.category (name) VALUES ('one'), ('two');
INSERT INTO warehouse.items SELECT 's/' || i, 1 + i % 2, ROW(i, 2)::warehouse.spot, i / 3.0, ARRAY[i, 'NaN'::float8], ARRAY[[1, 2], [3, i]], '\x00ff', B'1010', i::text::money, to_tsvector('english', 'cats and dogs'), i * interval '1 hour 1 minute', box(point(0, 0), point(1, i)), int4range(i, NULL), '{[1,3),[7,9)}', 'm', 'tok' FROM generate_series(1, 12) i;
INSERT INTO warehouse.moves SELECT i, '2025-12-31T00:00:00Z'::timestamptz + i * interval '1 hour', 's/' || (1 + i % 12), i FROM generate_series(1, 60) i;
INSERT INTO warehouse.bins SELECT i, 'b,' || i, '2026-02-01'::date + i, i % 2 = 0, gen_random_uuid() FROM generate_series(1, 5) i;
INSERT INTO public."Ω" VALUES (1, '甲', ' ', '.'), (2, NULL, NULL, NULL);
INSERT INTO public.a_table_with_a_name_that_is_exactly_sixty_three_bytes_long_____ VALUES (1, 1);
DO $$ BEGIN FOR i IN 1..20 LOOP
  EXECUTE format('CREATE TABLE warehouse.%I (id int PRIMARY KEY, tenant_id int, previous_id int REFERENCES warehouse.%I, v%s numeric(10,%s), w text, UNIQUE (tenant_id, v%s))', 'shelf_' || i, 'shelf_' || i, i, i % 5, i);
  EXECUTE format('INSERT INTO warehouse.%I SELECT g, g %% 2, nullif(g - 1, 0), g * 1.0, ''w'' || g FROM generate_series(1, 8) g', 'shelf_' || i);
END LOOP; END $$;
)sql";

// As a client sends it.
std::string Sent(const JsonValue& value) {
  return PercentEncode(value.is_string() || value.is_number() ? value.text() : value.raw());
}

TEST_CASE("an unknown database of forty tables is served as init drafts it") {
  World world(kTables, kDraft);
  const catalog::Model& model = world.model();
  CHECK(std::stoi(world.Value("SELECT count(*) FROM pg_tables WHERE schemaname IN ('hr', 'warehouse', 'Sales Team', "
                              "'public')")) >= 40);
  CHECK(model.resources.size() >= 38);
  // Of all tables, but for the one without a key; the view waits for a key too.
  std::set<std::string> tables;
  for (const auto& [name, resource] : model.resources) tables.insert(StrCat(resource.schema, ".", resource.table));
  for (const auto& row : world.Sql("SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid "
                                   "= c.relnamespace WHERE c.relkind IN "
                                   "('r', 'p') AND NOT c.relispartition AND n.nspname IN ('hr', 'warehouse', 'Sales "
                                   "Team', 'public') AND c.relname <> 'heap'"))
    CHECK(tables.contains(row[0]));

  const Principal who = Someone("1");  // a tenant for whole numbers and for texts
  int lists = 0, sorts = 0, filters = 0, relations = 0;
  for (const auto& [name, resource] : model.resources) {
    INFO(name);
    const std::string path = "/v1/" + name, table = StrCat("\"", resource.schema, "\".\"", resource.table, "\"");
    const std::string tenant = resource.tenant < 0                                                          ? ""
                               : resource.fields[resource.tenant].type.family == catalog::TypeFamily::kText ? "acme"
                                                                                                            : "1";
    const Principal caller = tenant.empty() ? who : Someone(tenant);
    std::string where = tenant.empty() ? "true" : StrCat("tenant_id = '", tenant, "'");
    if (resource.deleted_at >= 0) where += " AND deleted_at IS NULL";
    const std::string rows = world.Value(StrCat("SELECT count(*) FROM ", table, " WHERE ", where));

    // The list, its total, one figure, both other formats.
    Answer list = world.Get(caller, path + "?count=exact&limit=200");
    INFO(list.response.body);
    REQUIRE(list.status() == 200);
    ++lists;
    CHECK(list.json().Find("page")->Find("total")->text() == rows);
    const auto& data = list.json().Find("data")->items();
    CHECK(std::to_string(data.size()) == rows);
    CHECK(world.Get(caller, path + ":aggregate")["data"] == StrCat("[{\"count\":", rows, "}]"));
    const std::vector<std::string> lines =
        absl::StrSplit(world.Call(caller, "GET", path, "", {{"accept", "application/x-ndjson"}}).response.body, '\n',
                       absl::SkipEmpty());
    CHECK(std::to_string(lines.size()) == rows);
    CHECK(world.Call(caller, "GET", path, "", {{"accept", "text/csv"}}).status() == 200);
    if (data.empty()) continue;

    // Each record by its id, as the list shows it.
    for (size_t i = 0; i < std::min<size_t>(data.size(), 3); ++i) {
      std::vector<std::string> id;
      for (int position : resource.key) id.push_back(Sent(*data[i].Find(resource.fields[position].name)));
      // An encoded slash is refused in any path; such a record is found by a filter.
      if (absl::StrJoin(id, ",").find("%2F") != std::string::npos) continue;
      Answer one = world.Get(caller, StrCat(path, "/", absl::StrJoin(id, ",")));
      INFO(absl::StrJoin(id, ","));
      CHECK(one.status() == 200);
      CHECK(one.response.body == data[i].raw());
    }
    for (const catalog::Field& field : resource.fields) {
      INFO(field.name);
      if (field.hidden) {
        CHECK(data[0].Find(field.name) == nullptr);
        CHECK(world.Get(caller, StrCat(path, "?fields=", field.name)).problem() == "unknown-field");
        continue;
      }
      REQUIRE(data[0].Find(field.name) != nullptr);
      // Each order, in pages of two, gives each row once.
      for (const char* direction : {"", "-"}) {
        if (!field.sortable) break;
        ++sorts;
        std::set<std::string> seen;
        size_t shown = 0;
        std::string cursor;
        do {
          Answer page = world.Get(caller, StrCat(path, "?limit=7&sort=", direction, field.name,
                                                 cursor.empty() ? "" : StrCat("&cursor=", cursor)));
          REQUIRE(page.status() == 200);
          for (const JsonValue& row : page.json().Find("data")->items()) {
            ++shown;
            seen.insert(std::string(row.raw()));
          }
          const JsonValue* next = page.json().Find("page")->Find("next_cursor");
          cursor = next->is_string() ? std::string(next->text()) : "";
        } while (!cursor.empty());
        CHECK(shown == data.size());
        CHECK(seen.size() == data.size());
      }
      // Each row is found by its own value.
      if (!field.filterable || field.type.array || field.type.family == catalog::TypeFamily::kJson) continue;
      const JsonValue& value = *data[0].Find(field.name);
      const std::string condition = value.is_null() ? StrCat("filter[", field.name, "][is_null]=true")
                                                    : StrCat("filter[", field.name, "]=", Sent(value));
      Answer found = world.Get(caller, StrCat(path, "?limit=200&", condition));
      INFO(condition << " " << found.response.body);
      REQUIRE(found.status() == 200);
      ++filters;
      bool itself = false;
      for (const JsonValue& row : found.json().Find("data")->items()) itself |= row.raw() == data[0].raw();
      CHECK(itself);
    }
    for (const auto& [relation, unused] : resource.relations) {
      INFO(relation);
      Answer expanded = world.Get(caller, StrCat(path, "?limit=20&expand=", relation));
      INFO(expanded.response.body);
      REQUIRE(expanded.status() == 200);
      CHECK(expanded.json().Find("data")->items()[0].Find(relation) != nullptr);
      ++relations;
    }
  }
  CHECK(lists >= 38);
  CHECK(sorts >= 80);
  CHECK(filters >= 40);
  CHECK(relations >= 40);
}

}  // namespace
}  // namespace mainstay::records
