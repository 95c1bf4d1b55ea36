// SPDX-License-Identifier: Apache-2.0
// Lists as CSV and JSON Lines: pages of them, whole lists in pieces, what is refused.
#include "absl/strings/str_split.h"
#include "libs/base/strings.h"
#include "tests/unit/records/world.h"

namespace mainstay::records {
namespace {

using Lines = std::vector<std::string>;

constexpr char kTables[] = R"sql(
CREATE SCHEMA t;
CREATE TABLE t.groups (id int PRIMARY KEY, tenant text NOT NULL, name text NOT NULL);
CREATE TABLE t.rows (id int PRIMARY KEY, tenant text NOT NULL, group_id int REFERENCES t.groups, label text, price numeric(8,2), at timestamptz, flag boolean, tags text[], data bytea);
CREATE INDEX ON t.rows (group_id);
INSERT INTO t.groups SELECT g, 'acme', 'G' || g FROM generate_series(1, 3) g;
INSERT INTO t.rows SELECT i, CASE WHEN i % 10 = 0 THEN 'globex' ELSE 'acme' END, 1 + i % 3, repeat('x', i % 50), i / 4.0, '2026-01-01T00:00:00Z'::timestamptz + i * interval '1 second', i % 2 = 0, '{a,"b c"}', '\x0102'
FROM generate_series(1, 5000) i;
UPDATE t.rows SET label = E'comma, "quote"\r\nline' WHERE id = 1;
UPDATE t.rows SET label = '' WHERE id = 2;
UPDATE t.rows SET label = NULL, price = NULL, at = NULL, flag = NULL, tags = NULL, data = NULL WHERE id = 3;
UPDATE t.rows SET label = '=1+1' WHERE id = 4;
)sql";

constexpr char kCatalog[] = R"(
resources:
  groups:
    table: t.groups
    tenant: tenant
    relations: {rows: {many: rows, by: group_id}}
  rows:
    table: t.rows
    tenant: tenant
    fields: {label: {filterable: true}}
    relations: {group: {to: groups, by: group_id}}
    permissions:
      reader: {actions: [read], read_except: [price]}
roles:
  reader: {description: Reads.}
)";

const Principal kAcme = Someone("acme");

Answer As(World& world, const std::string& format, const std::string& target, const Principal& who = kAcme) {
  return world.Call(who, "GET", target, "", {{"accept", format}});
}

TEST_CASE("attack row 'CSV cell': RFC 4180 quoting, formulas escaped where asked") {
  World world(kTables, kCatalog);
  Answer page = As(world, "text/csv", "/v1/rows?limit=4&sort=id&fields=id,label,price,at,flag,tags,data");
  REQUIRE(page.status() == 200);
  CHECK(page.header("content-type") == "text/csv; charset=utf-8; header=present");
  CHECK(page.response.body ==
        "id,label,price,at,flag,tags,data\r\n"
        "1,\"comma, \"\"quote\"\"\r\nline\",0.25,2026-01-01T00:00:01.000000Z,false,\"[\"\"a\"\",\"\"b c\"\"]\",AQI\r\n"
        "2,\"\",0.50,2026-01-01T00:00:02.000000Z,true,\"[\"\"a\"\",\"\"b c\"\"]\",AQI\r\n"
        "3,,,,,,\r\n"
        "4,=1+1,1.00,2026-01-01T00:00:04.000000Z,true,\"[\"\"a\"\",\"\"b c\"\"]\",AQI\r\n");
  CHECK(page.header("link").find("rel=\"next\"") != std::string::npos);
  CHECK(As(world, "text/csv; escape=formulas", "/v1/rows?limit=1&sort=id&fields=label&filter[id]=4").response.body ==
        "label\r\n\"'=1+1\"\r\n");
  // A name that may not be read is no column, and none that can be asked for.
  const Principal reader = Someone("acme", {"reader"});
  CHECK(As(world, "text/csv", "/v1/rows?limit=1", reader).response.body.find("price") == std::string::npos);
  CHECK(As(world, "text/csv", "/v1/rows?fields=price", reader).problem() == "unknown-field");
}

TEST_CASE("a whole list comes in pieces, each row once, in order, of one tenant") {
  World world(kTables, kCatalog);
  for (const std::string format : {"application/x-ndjson", "text/csv"}) {
    INFO(format);
    const int before = world.pieces();
    Answer all = As(world, format, "/v1/rows?sort=-id&fields=id,label");
    REQUIRE(all.status() == 200);
    CHECK(all.header("cut").empty());
    CHECK(world.pieces() > before + 1);
    const Lines expected = [&] {
      Lines out;
      for (const auto& row : world.Sql("SELECT id FROM t.rows WHERE tenant = 'acme' ORDER BY id DESC"))
        out.push_back(row[0]);
      return out;
    }();
    size_t at = 0;
    if (format == "text/csv") {
      CHECK(all.response.body.starts_with("id,label\r\n"));
      CHECK(all.response.body.ends_with("1,\"comma, \"\"quote\"\"\r\nline\"\r\n"));
    } else {
      for (const absl::string_view line : absl::StrSplit(all.response.body, '\n', absl::SkipEmpty())) {
        auto row = JsonDocument::Parse(std::string(line));
        REQUIRE_THAT(row, testing::IsOk());
        REQUIRE(at < expected.size());
        REQUIRE(row->root().Find("id")->text() == expected[at++]);
      }
      CHECK(at == expected.size());
    }
  }
  // One list is what its pages are.
  CHECK(As(world, "application/x-ndjson", "/v1/rows?sort=id&limit=2&fields=id").response.body ==
        "{\"id\":1}\n{\"id\":2}\n");
  // Memory does not follow the list: wide rows make small batches.
  world.Sql("INSERT INTO t.rows SELECT 10000 + i, 'acme', NULL, repeat('w', 100000) FROM generate_series(1, 200) i");
  As(world, "application/x-ndjson", "/v1/rows?filter[id][gt]=10000&sort=id");
  CHECK(world.largest_piece() < 4 << 20);
}

TEST_CASE("related records stand in JSON Lines, batch by batch, not in CSV") {
  World world(kTables, kCatalog);
  Answer lines = As(world, "application/x-ndjson",
                    "/v1/rows?sort=id&fields=id,group.name&expand=group.rows&expand[group.rows][limit]=1");
  REQUIRE(lines.status() == 200);
  const Lines rows = absl::StrSplit(lines.response.body, '\n', absl::SkipEmpty());
  CHECK(rows.size() == 4500);
  auto first = JsonDocument::Parse(rows[0]);
  REQUIRE_THAT(first, testing::IsOk());
  CHECK(first->root().Find("group")->Find("name")->text() == "G2");
  CHECK(As(world, "text/csv", "/v1/rows?expand=group").problem() == "invalid-parameter");
  CHECK(As(world, "text/csv", "/v1/rows?fields=id,group.name&limit=1").problem() == "invalid-parameter");
}

TEST_CASE("formats are negotiated: 406 for others, the best of several, problems always as JSON") {
  World world(kTables, kCatalog);
  CHECK(As(world, "text/html", "/v1/rows").problem() == "not-acceptable");
  CHECK(As(world, "application/json;q=0, text/csv", "/v1/rows?limit=1").header("content-type").starts_with("text/csv"));
  CHECK(As(world, "text/csv;q=0.5, application/x-ndjson", "/v1/rows?limit=1").header("content-type") ==
        "application/x-ndjson");
  CHECK(As(world, "text/csv;q=0.5, */*", "/v1/rows?limit=1").header("content-type") == "application/json");
  CHECK(As(world, "text/csv", "/v1/rows/1").problem() == "not-acceptable");
  CHECK(As(world, "text/csv", "/v1/rows?count=exact").problem() == "invalid-parameter");
  CHECK(As(world, "text/csv", "/v1/rows?limit=201").problem() == "invalid-parameter");
  Answer wrong = As(world, "text/csv", "/v1/rows?filter[label]=1&sort=nothing");
  CHECK(wrong.header("content-type") == "application/problem+json");
  Answer queried =
      world.Call(kAcme, "POST", "/v1/rows:query", R"({"fields":"id","filter":{"id":{"lte":2}},"sort":"id"})",
                 {{"accept", "application/x-ndjson"}});
  CHECK(queried.response.body == "{\"id\":1}\n{\"id\":2}\n");
}

TEST_CASE("whole lists at once are bounded, and a place comes free when one ends") {
  World world(kTables, kCatalog);
  SimulatedClock clock(absl::Now());
  HttpApi api({.cursor_key = kCursorKey, .max_streams = 2}, clock);
  world.Use(api);
  std::vector<std::function<boost::asio::awaitable<http::Response>()>> calls;
  for (int i = 0; i < 4; ++i)
    calls.push_back([&] { return world.Start(kAcme, "GET", "/v1/rows", "", {{"accept", "application/x-ndjson"}}); });
  int whole = 0, refused = 0;
  for (const Answer& answer : world.CallAll(calls)) {
    whole += answer.status() == 200;
    refused += answer.problem() == "overloaded";
  }
  CHECK(whole >= 2);
  CHECK(whole + refused == 4);
  CHECK(As(world, "application/x-ndjson", "/v1/rows").status() == 200);
  CHECK(As(world, "text/csv", "/v1/rows").status() == 200);
}

}  // namespace
}  // namespace mainstay::records
