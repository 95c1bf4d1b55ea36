// SPDX-License-Identifier: Apache-2.0
// :aggregate against SQL written by hand: figures, groups, buckets, having, order, rights, limits.
#include "libs/base/strings.h"
#include "tests/unit/records/world.h"

namespace mainstay::records {
namespace {

constexpr char kTables[] = R"sql(
CREATE SCHEMA t;
CREATE TYPE t.state AS ENUM ('open', 'paid', 'void');
CREATE TABLE t.people (id int PRIMARY KEY, tenant text NOT NULL, country text);
CREATE TABLE t.sales (
  id bigint PRIMARY KEY, tenant text NOT NULL, person_id int REFERENCES t.people, state t.state NOT NULL, total numeric(12,2), pieces int, weight double precision, big bigint,
  sold_at timestamptz, day date, local timestamp, note text, secret int, gone timestamptz);
INSERT INTO t.people VALUES (1, 'acme', 'DE'), (2, 'acme', 'FR'), (3, 'globex', 'DE');
INSERT INTO t.sales SELECT i, CASE WHEN i % 4 = 0 THEN 'globex' ELSE 'acme' END, CASE WHEN i % 4 = 0 THEN 3 ELSE 1 + i % 2 END, (ARRAY['open', 'paid', 'void'])[1 + i % 3]::t.state,
  nullif(i % 11, 5) * 1.25, i % 7, i / 3.0, 9007199254740993 + i, '2026-03-28T12:00:00Z'::timestamptz + i * interval '97 minutes', date '2026-01-01' + i, timestamp '2026-01-01' + i * interval '5 hours',
  CASE WHEN i % 2 = 0 THEN 'n' || i % 5 END, i, CASE WHEN i % 10 = 0 THEN now() END
FROM generate_series(1, 200) i;
)sql";

constexpr char kCatalog[] = R"(
resources:
  people:
    table: t.people
    tenant: tenant
    fields: {country: {filterable: true}}
    permissions:
      reader: {actions: [read, aggregate]}
  sales:
    table: t.sales
    tenant: tenant
    deleted_at: gone
    fields:
      state: {filterable: true}
      total: {filterable: true}
      secret: {hidden: true}
    relations: {person: {to: people, by: person_id}}
    permissions:
      reader: {actions: [read, aggregate], read_except: [weight], where: 'filter[person.country]=DE'}
      looker: {actions: [read]}
roles:
  reader: {description: Reads and counts.}
  looker: {description: Reads.}
)";

const Principal kAcme = Someone("acme"), kReader = Someone("acme", {"reader"});
constexpr char kMine[] = "FROM t.sales s WHERE tenant = 'acme' AND gone IS NULL";

std::string Data(World& world, const std::string& query, const Principal& who = kAcme) {
  Answer answer = world.Get(who, "/v1/sales:aggregate?" + query);
  return answer.status() == 200 ? answer["data"] : answer.response.body;
}

TEST_CASE("figures are PostgreSQL's own, with the digits they have") {
  World world(kTables, kCatalog);
  CHECK(Data(world, "") == world.Value(StrCat("SELECT '[{\"count\":' || count(*) || '}]' ", kMine)));
  CHECK(
      Data(world,
           "aggregate=count(),sum(total),sum(pieces),sum(big),avg(total),avg(weight),min(sold_at),max(state),"
           "min(note),max(day)") ==
      world.Value(StrCat(
          R"sql(SELECT format('[{"count":%s,"sum":{"total":"%s","pieces":"%s","big":"%s"},"avg":{"total":"%s","weight":%s},"min":{"sold_at":"%s","note":"%s"},"max":{"state":"%s","day":"%s"}}]',
            count(*), sum(total), sum(pieces), sum(big), avg(total), avg(weight), to_char(min(sold_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), min(note), max(state), max(day)) )sql",
          kMine)));
  // No rows: a count of nothing, figures of nothing.
  CHECK(Data(world, "aggregate=count(),sum(total)&filter[total]=999999") == R"([{"count":0,"sum":{"total":null}}])");
}

TEST_CASE("groups, having, order and limit") {
  World world(kTables, kCatalog);
  CHECK(
      Data(world, "group_by=state&aggregate=count()&sort=-count()") ==
      world.Value(StrCat(
          R"sql(SELECT '[' || string_agg(format('{"group":{"state":"%s"},"count":%s}', state, n), ',' ORDER BY n DESC, state) || ']' FROM (SELECT state, count(*) AS n )sql",
          kMine, " GROUP BY 1) g")));
  CHECK(
      Data(world, "group_by=note,state&aggregate=sum(total)&having[count()][gte]=4&having[sum(total)][lt]=60") ==
      world.Value(StrCat(
          R"sql(SELECT '[' || string_agg(format('{"group":{"note":%s,"state":"%s"},"sum":{"total":"%s"}}', coalesce(to_json(note)::text, 'null'), state, x), ',' ORDER BY note, state) || ']' FROM (SELECT note, state, sum(total) AS x )sql",
          kMine, " GROUP BY 1, 2 HAVING count(*) >= 4 AND sum(total) < 60) g")));
  Answer cut = world.Get(kAcme, "/v1/sales:aggregate?group_by=id&limit=7&sort=-id");
  CHECK(cut.json().Find("data")->items().size() == 7);
  CHECK(cut.json().Find("page")->Find("has_more")->boolean());
  CHECK(cut.header("query-cost") != "");
  CHECK(world
            .Call(kAcme, "GET", "/v1/sales:aggregate", "",
                  {{"if-none-match", world.Get(kAcme, "/v1/sales:aggregate").header("etag")}})
            .status() == 304);
}

TEST_CASE("times are cut down in the caller's zone, through the change of clocks") {
  World world(kTables, kCatalog);
  const auto expected = [&](const std::string& expression, const std::string& shown) {
    return world.Value(StrCat("SELECT '[' || string_agg(format('{\"group\":{", shown,
                              "},\"count\":%s}', b, n), ',' ORDER BY b) || ']' FROM (SELECT ", expression,
                              " AS b, count(*) AS n ", kMine, " GROUP BY 1) g"));
  };
  const std::string utc =
      "to_char(date_trunc('day', sold_at, '$') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
  const auto in = [&](const std::string& zone) {
    std::string text = utc;
    return text.replace(text.find('$'), 1, zone);
  };
  CHECK(Data(world, "group_by=sold_at:day") == expected(in("UTC"), "\"sold_at\":\"%s\""));
  const std::string berlin = Data(world, "group_by=sold_at:day&zone=Europe/Berlin");
  CHECK(berlin == expected(in("Europe/Berlin"), "\"sold_at\":\"%s\""));
  CHECK(berlin.find("2026-03-28T23:00:00") != std::string::npos);
  CHECK(berlin.find("2026-03-29T22:00:00") != std::string::npos);
  CHECK(Data(world, "group_by=day:month") == expected("date_trunc('month', day::timestamp)::date", "\"day\":\"%s\""));
  CHECK(Data(world, "group_by=local:week") ==
        expected("to_char(date_trunc('week', local), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')", "\"local\":\"%s\""));
}

TEST_CASE("rights hold in aggregates: rows, tenants, fields, deleted rows, and the action itself") {
  World world(kTables, kCatalog);
  CHECK(Data(world, "", Someone("globex")) ==
        world.Value("SELECT '[{\"count\":' || count(*) || '}]' FROM t.sales WHERE tenant = 'globex' AND gone IS NULL"));
  CHECK(Data(world, "", kReader) ==
        world.Value(StrCat("SELECT '[{\"count\":' || count(*) || '}]' ", kMine, " AND person_id = 1")));
  CHECK(world.Get(Someone("acme", {"looker"}), "/v1/sales:aggregate").problem() == "forbidden");
  CHECK(world.Get(Someone("acme", {}), "/v1/sales:aggregate").problem() == "forbidden");
  // Two roles: each counts its own rows only.
  CHECK(Data(world, "", Someone("acme", {"reader", "looker"})) == Data(world, "", kReader));
  // Attack row '3 property: group, sum': hidden, unreadable and unknown names are one.
  const std::string unknown = world.Get(kReader, "/v1/sales:aggregate?group_by=nothing").response.body;
  for (const std::string name : {"secret", "weight"}) {
    for (const std::string& query :
         {StrCat("group_by=", name), StrCat("aggregate=sum(", name, ")"), StrCat("having[max(", name, ")][gt]=1"),
          StrCat("filter[", name, "][gt]=1"), StrCat("group_by=state&sort=", name), StrCat("sort=sum(", name, ")")}) {
      INFO(query);
      CHECK(world.Get(kReader, "/v1/sales:aggregate?" + query).problem() == "unknown-field");
    }
    CHECK(world.Get(kReader, StrCat("/v1/sales:aggregate?group_by=", name)).response.body == unknown);
  }
}

TEST_CASE("wrong aggregates are refused before any SQL") {
  World world(kTables, kCatalog);
  world.TakeStatements();
  const std::pair<std::string, std::string> cases[] = {
      {"aggregate=count(id)", "invalid-parameter"},
      {"aggregate=median(total)", "invalid-parameter"},
      {"aggregate=sum(note)", "invalid-parameter"},
      {"aggregate=sum(", "invalid-parameter"},
      {"aggregate=count(),count()", "invalid-parameter"},
      {"aggregate=", "invalid-parameter"},
      {"group_by=", "unknown-field"},
      {"group_by=state,state", "invalid-parameter"},
      {"group_by=state:month", "invalid-parameter"},
      {"group_by=sold_at:century", "invalid-parameter"},
      {"group_by=day:hour", "invalid-parameter"},
      {"zone=Mars/Base", "invalid-parameter"},
      {"zone=UTC'--", "invalid-parameter"},
      {"having[count()][gt]=x", "filter-invalid"},
      {"having[count()][like]=1", "filter-invalid"},
      {"having[count()]=1", "filter-invalid"},
      {"having=1", "filter-invalid"},
      {"sort=state", "field-not-sortable"},
      {"limit=1001", "invalid-parameter"},
      {"limit=0", "invalid-parameter"},
      {"fields=id", "invalid-parameter"},
      {"cursor=x", "invalid-parameter"},
      {"expand=person", "invalid-parameter"},
      {"count=exact", "invalid-parameter"},
      {"group_by=state&group_by=note", "invalid-parameter"},
  };
  for (const auto& [query, slug] : cases) {
    INFO(query);
    Answer answer = world.Get(kAcme, "/v1/sales:aggregate?" + query);
    CHECK(answer.status() == 400);
    CHECK(answer.problem() == slug);
  }
  CHECK(world.TakeStatements().empty());
  CHECK(world.Call(kAcme, "POST", "/v1/sales:aggregate", "{}").status() == 405);
  CHECK(world.Call(kAcme, "OPTIONS", "/v1/sales:aggregate").header("allow") == "GET, HEAD, OPTIONS");
}

TEST_CASE("an aggregate that PostgreSQL thinks too expensive does not run") {
  World world(kTables, kCatalog);
  HttpApi api({.cursor_key = kCursorKey, .aggregate_cost_limit = 10});
  world.Use(api);
  world.TakeStatements();
  Answer refused = world.Get(kAcme, "/v1/sales:aggregate?group_by=id,sold_at&aggregate=sum(total)&sort=-sum(total)");
  CHECK(refused.problem() == "query-too-expensive");
  CHECK(std::stoi(refused["cost"]) > 10);
  CHECK(refused["limit"] == "10");
  const std::vector<std::string> sent = world.TakeStatements();
  REQUIRE(sent.size() == 1);
  CHECK(sent[0].starts_with("EXPLAIN"));
}

}  // namespace
}  // namespace mainstay::records
