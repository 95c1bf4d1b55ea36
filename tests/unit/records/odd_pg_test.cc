// SPDX-License-Identifier: Apache-2.0
// A schema with names and keys that no one would choose: composite keys, quotes, arrays, soft delete, many-to-many,
// self-references, no version column.
#include "libs/base/strings.h"
#include "tests/unit/records/world.h"

namespace mainstay::records {
namespace {

using Lines = std::vector<std::string>;

constexpr char kTables[] = R"sql(
CREATE SCHEMA "Odd ""Schema";
CREATE TABLE "Odd ""Schema"."My Table" (
  "Part A" text NOT NULL, "partB" int NOT NULL, "select" numeric, "from" timestamp, "data" bytea, "nums" bigint[], "gone" timestamptz, "parent A" text, "parentB" int, "range" tstzrange,
  "net" inet, "took" interval, "f4" real, "doc" json,
  PRIMARY KEY ("Part A", "partB"), FOREIGN KEY ("parent A", "parentB") REFERENCES "Odd ""Schema"."My Table");
CREATE TABLE "Odd ""Schema"."tag" (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(20) UNIQUE NOT NULL);
CREATE TABLE "Odd ""Schema"."My Table tags" (a text, b int, tag uuid REFERENCES "Odd ""Schema"."tag", PRIMARY KEY (a, b, tag), FOREIGN KEY (a, b) REFERENCES "Odd ""Schema"."My Table");
)sql";

constexpr char kCatalog[] = R"(
resources:
  rows:
    table: '"Odd ""Schema"."My Table"'
    shared: write
    client_key: true
    deleted_at: gone
    relations:
      parent: {to: rows, by: [parent_a, parent_b]}
      children: {many: rows, by: [parent_a, parent_b]}
      tags: {many: tags, through: '"Odd ""Schema"."My Table tags"'}
  tags:
    table: '"Odd ""Schema".tag'
    shared: write
roles:
  keeper: {scopes: ['deleted-records:read']}
)";

TEST_CASE("composite keys, odd names and rare types") {
  World world(kTables, kCatalog);
  const Principal who = Someone("acme");
  Answer created = world.Call(
      who, "POST", "/v1/rows",
      R"({"part_a":"a,b/ü","part_b":-1,"select":"1.500","from":"2026-01-01T02:00:00+02:00","data":"AQL_","nums":["9007199254740993",-1,null],)"
      R"~("range":"[2026-01-01 00:00:00+00,)","net":"10.0.0.1","took":"1 day 02:00:00","f4":1.5,"doc":{"b":1,  "a":[]}})~");
  INFO(created.response.body);
  REQUIRE(created.status() == 201);
  CHECK(created.header("location") == "/v1/rows/a%2Cb%2F%C3%BC,-1");
  CHECK(created["select"] == "1.5");
  CHECK(created["from"] == "2026-01-01T00:00:00.000000Z");
  CHECK(created["data"] == "AQL_");
  CHECK(created["nums"] == R"(["9007199254740993","-1",null])");
  CHECK(created["net"] == "10.0.0.1");
  CHECK(created["took"] == "1 day 02:00:00");
  CHECK(created["f4"] == "1.5");
  CHECK(created["doc"] == R"({"b":1,  "a":[]})");

  world.Call(who, "POST", "/v1/rows", R"({"part_a":"x","part_b":1,"parent_a":"a,b/ü","parent_b":-1})");
  world.Call(who, "POST", "/v1/rows", R"({"part_a":"x","part_b":2,"parent_a":"a,b/ü","parent_b":-1})");
  Answer one = world.Get(who, "/v1/rows/x,1?fields=part_b&expand=parent&expand[parent][fields]=part_a");
  CHECK(one.response.body == R"({"part_b":1,"parent":{"part_a":"a,b/ü"}})");
  Answer list =
      world.Get(who, "/v1/rows?fields=part_b&expand=children&expand[children][fields]=part_b&sort=part_a,-part_b");
  CHECK(
      list["data"] ==
      R"([{"part_b":-1,"children":{"data":[{"part_b":1},{"part_b":2}],"page":{"limit":10,"has_more":false,"next_cursor":null,"prev_cursor":null}}},)"
      R"({"part_b":2,"children":{"data":[],"page":{"limit":10,"has_more":false,"next_cursor":null,"prev_cursor":null}}},)"
      R"({"part_b":1,"children":{"data":[],"page":{"limit":10,"has_more":false,"next_cursor":null,"prev_cursor":null}}}])");

  // No version column: PostgreSQL's own row version serves.
  const std::string etag = world.Get(who, "/v1/rows/x,1").header("etag");
  CHECK(world.Call(who, "PATCH", "/v1/rows/x,1", R"({"select":"2"})", {{"if-match", etag}}).status() == 200);
  CHECK(world.Call(who, "PATCH", "/v1/rows/x,1", R"({"select":"3"})", {{"if-match", etag}}).status() == 412);
  CHECK(world.Call(who, "PATCH", "/v1/rows/x,1", R"({"parent_a":"nobody"})").status() == 422);
  CHECK(world.Call(who, "PATCH", "/v1/rows/x,1", R"({"range":"nonsense"})").errors() == Lines{" invalid_type"});

  // Many-to-many.
  const std::string tag(world.Call(who, "POST", "/v1/tags", R"({"name":"red"})")["id"]);
  world.Sql(StrCat("INSERT INTO \"Odd \"\"Schema\".\"My Table tags\" VALUES ('x', 1, '", tag, "')"));
  CHECK(world.Get(who, "/v1/rows/x,1?fields=tags.name")["tags"].find(R"("data":[{"name":"red"}])") !=
        std::string::npos);

  // Deleted rows are gone for everyone without the scope, and kept.
  CHECK(world.Call(who, "DELETE", "/v1/rows/x,2").status() == 204);
  CHECK(world.Call(who, "DELETE", "/v1/rows/x,2").status() == 404);
  CHECK(world.Get(who, "/v1/rows/x,2").status() == 404);
  CHECK(world.Get(who, "/v1/rows?count=exact&limit=1").json().Find("page")->Find("total")->text() == "2");
  CHECK(world.Get(who, "/v1/rows?deleted=only&fields=part_b")["data"] == R"([{"part_b":2}])");
  CHECK(world.Value("SELECT count(*) FROM \"Odd \"\"Schema\".\"My Table\"") == "3");
}

}  // namespace
}  // namespace mainstay::records
