// SPDX-License-Identifier: Apache-2.0
// Filters against SQL written by hand; what queries are refused; queries in place of tables.
#include "libs/base/strings.h"
#include "libs/http/list_query.h"
#include "libs/records/cost.h"
#include "libs/records/plan.h"
#include "tests/unit/records/things.h"

namespace mainstay::records {
namespace {

TEST_CASE("filters mean what the same condition means in SQL") {
  World world(kThings, kCatalog);
  const std::pair<std::string, std::string> cases[] = {
      {"filter[rank]=3", "rank = 3"},
      {"filter[rank][ne]=3", "rank <> 3"},
      {"filter[rank][gt]=2&filter[rank][lte]=6", "rank > 2 AND rank <= 6"},
      {"filter[rank][in]=1,2,7", "rank IN (1, 2, 7)"},
      {"filter[rank][nin]=1,2,7", "rank NOT IN (1, 2, 7)"},
      {"filter[rank][is_null]=true", "rank IS NULL"},
      {"filter[rank][is_null]=false", "rank IS NOT NULL"},
      {"filter[rank][distinct_from]=3", "rank IS DISTINCT FROM 3"},
      {"filter[score][gte]=2.5", "score >= 2.5"},
      {"filter[score]=NaN", "score = 'NaN'"},
      {"filter[price][lt]=1.125", "price < 1.125"},
      {"filter[price]=0.5000", "price = 0.5"},
      {"filter[label]=Zoë", "label = 'Zoë'"},
      {"filter[label]=x'y", "label = 'x''y'"},
      {"filter[label]=' OR true --", "label = ''' OR true --'"},
      {"filter[label][like]=a%", "label LIKE 'a%'"},
      {"filter[label][ilike]=A%", "label ILIKE 'A%'"},
      {"filter[label][starts_with]=a_", "label LIKE 'a\\_%'"},
      {"filter[label][contains]=%", "label LIKE '%\\%%'"},
      {"filter[label][icontains]=PP", "label ILIKE '%pp%'"},
      {"filter[label][gt]=b", "label > 'b'"},
      {"filter[at]=2026-01-01T00:00:00.000003Z", "at = '2026-01-01T00:00:00.000003Z'"},
      {"filter[at][gte]=2026-01-01T01:00:00.000005+01:00", "at >= '2026-01-01T00:00:00.000005Z'"},
      {"filter[label][search]=apple -b", "to_tsvector('simple', label) @@ websearch_to_tsquery('simple', 'apple -b')"},
      {"filter[label][search]=Zoë or x", "to_tsvector('simple', label) @@ websearch_to_tsquery('simple', 'Zoë or x')"},
      {"filter[label][search]=\"| ! ()", "false"},
      {"filter[mood]=ok", "mood = 'ok'"},
      {"filter[mood][gte]=ok", "mood >= 'ok'"},
      {"filter[mood][in]=sad,happy", "mood IN ('sad', 'happy')"},
      {"filter[flag]=true", "flag"},
      {"filter[flag][distinct_from]=true", "flag IS DISTINCT FROM true"},
      {"filter[day][lt]=2026-01-04", "day < '2026-01-04'"},
      {"filter[tags][has]=a", "'a' = ANY(tags)"},
      {"filter[tags][has_any]=b,c d", "tags && '{b,\"c d\"}'"},
      {"filter[tags][has_all]=a,b", "tags @> '{a,b}'"},
      {"filter[tags][overlaps]=b", "tags && '{b}'"},
      {"filter[doc.k]=1", "doc->>'k' = '1'"},
      {"filter[doc.s.n]=v1", "doc#>>'{s,n}' = 'v1'"},
      {"filter[code]=de", "code = 'de'"},
      {"filter[code][in]=fr,abc", "code IN ('fr', 'abc')"},
      {"filter[span][overlaps]=[3,6)", "span && '[3,6)'"},
      {"filter[or][0][rank]=1&filter[or][1][mood]=sad", "rank = 1 OR mood = 'sad'"},
      {"filter[not][rank]=1", "NOT (rank = 1)"},
      {"filter[not][or][0][rank]=1&filter[not][or][1][rank]=2&filter[flag]=true",
       "NOT (rank = 1 OR rank = 2) AND flag"},
      {"filter[owner.name]=Ann",
       "EXISTS (SELECT FROM t.owners o WHERE o.id = owner_id AND o.name = 'Ann' AND o.tenant = 'acme')"},
      {"filter[owner.country]=FR", "EXISTS (SELECT FROM t.owners o WHERE o.id = owner_id AND o.country = 'FR')"},
      {"filter[owner_id][is_null]=true", "owner_id IS NULL"},
  };
  for (const auto& [query, where] : cases) {
    INFO(query);
    const Lines expected =
        Column(world, StrCat("SELECT id FROM t.things WHERE tenant = 'acme' AND (", where, ") ORDER BY id"));
    CHECK(Ids(world.Get(kAcme, StrCat("/v1/things?limit=200&sort=id&", Encode(query)))) == expected);
  }
  const std::pair<std::string, std::string> lists[] = {
      {"filter[things][some][rank]=1", "EXISTS (SELECT FROM t.things x WHERE x.owner_id = o.id AND x.rank = 1)"},
      {"filter[things][none][rank]=1", "NOT EXISTS (SELECT FROM t.things x WHERE x.owner_id = o.id AND x.rank = 1)"},
      {"filter[things][every][rank][gte]=0",
       "NOT EXISTS (SELECT FROM t.things x WHERE x.owner_id = o.id AND (x.rank >= 0) IS NOT TRUE)"},
      {"filter[things][some][rank]=1&filter[things][some][mood]=happy",
       "EXISTS (SELECT FROM t.things x WHERE x.owner_id = o.id AND x.rank = 1 AND x.mood = 'happy')"},
  };
  for (const auto& [query, where] : lists) {
    INFO(query);
    CHECK(Ids(world.Get(kAcme, StrCat("/v1/owners?sort=id&", query))) ==
          Column(world, StrCat("SELECT id FROM t.owners o WHERE tenant = 'acme' AND ", where, " ORDER BY id")));
  }
  // The same tree as JSON.
  Answer posted = world.Call(kAcme, "QUERY", "/v1/things",
                             R"({"filter":{"or":[{"rank":1},{"mood":"sad"}]},"sort":["id"],"limit":200})");
  CHECK(Ids(posted) ==
        Ids(world.Get(kAcme, "/v1/things?limit=200&sort=id&filter[or][0][rank]=1&filter[or][1][mood]=sad")));
  CHECK(Ids(world.Call(kAcme, "POST", "/v1/things:query",
                       R"({"filter":{"rank":{"in":[1,2]}},"sort":"id","limit":200})")) ==
        Column(world, "SELECT id FROM t.things WHERE tenant = 'acme' AND rank IN (1, 2) ORDER BY id"));
}

TEST_CASE("wrong queries are refused before any SQL") {
  World world(kThings, kCatalog);
  const std::pair<std::string, std::string> cases[] = {
      {"filter[rank]=x", "filter-invalid"},
      {"filter[rank]=1e2", "filter-invalid"},
      {"filter[rank]=99999999999", "filter-invalid"},
      {"filter[rank][like]=1", "filter-invalid"},
      {"filter[rank][what]=1", "filter-invalid"},
      {"filter[mood]=Ok", "filter-invalid"},
      {"filter[flag]=1", "filter-invalid"},
      {"filter[at]=2026-01-01", "filter-invalid"},
      {"filter[label][like]=%25a%25a%25a%25", "filter-invalid"},
      {"filter[things][some][id]=1", "unknown-field"},
      {"filter[owner][some][id]=1", "filter-invalid"},
      {"filter[tenant][foo]=1", "filter-invalid"},
      {"filter[rank][search]=1", "filter-invalid"},
      {"filter[doc.k][search]=1", "filter-invalid"},
      {"limit=0", "invalid-parameter"},
      {"limit=201", "invalid-parameter"},
      {"limit=1e3", "invalid-parameter"},
      {"offset=10001", "offset-too-deep"},
      {"sort=doc", "field-not-sortable"},
      {"sort=rank,-rank", "invalid-parameter"},
      {"sort=owner.name", "field-not-sortable"},
      {"cursor=abc", "cursor-invalid"},
      {"cursor=abc&offset=1", "invalid-parameter"},
      {"fields=rank%00", "invalid-parameter"},
      {"unknown=1", "invalid-parameter"},
      {"count=all", "invalid-parameter"},
      {"expand=owner.things.owner.things", "expand-too-deep"},
      {"expand=tags", "unknown-field"},
      {"filter[label]=%00", "invalid-parameter"},
  };
  world.TakeStatements();
  for (const auto& [query, slug] : cases) {
    INFO(query);
    Answer answer = world.Get(kAcme, "/v1/things?" + query);
    CHECK(answer.status() == 400);
    CHECK(answer.problem() == slug);
  }
  CHECK(world.TakeStatements().empty());
  // Only PostgreSQL can read a range: still the query's fault.
  CHECK(world.Get(kAcme, "/v1/things?filter[span][overlaps]=nonsense").problem() == "filter-invalid");
  CHECK(world.Get(kAcme, "/v1/things").status() == 200);
}

TEST_CASE("attack row '4 resources': long search text, relations times limits, the score in the answer") {
  World world(kThings, kCatalog);
  world.TakeStatements();
  CHECK(world.Get(kAcme, StrCat("/v1/things?filter[label][search]=", std::string(10'240, 'a'))).problem() ==
        "filter-invalid");
  HttpApi strict({.cursor_key = kCursorKey, .query_cost_limit = 20'000});
  world.Use(strict);
  Answer refused = world.Get(kAcme, "/v1/owners?limit=200&expand=things&expand[things][limit]=100");
  CHECK(refused.problem() == "query-too-expensive");
  CHECK(refused["cost"] == "20200");
  CHECK(refused["limit"] == "20000");
  CHECK(world.Get(kAcme, "/v1/owners/1?expand=things.owner.things.owner").problem() == "expand-too-deep");
  CHECK(world.TakeStatements().empty());
  CHECK(world.Get(kAcme, "/v1/owners?limit=199&expand=things&expand[things][limit]=99").header("query-cost") ==
        "19900");
  CHECK(world.Get(kAcme, "/v1/owners/1?expand=things").header("query-cost") == "11");
  // What no index serves counts as a thousand rows, per level; each relation in a filter too.
  CHECK(world.Get(kAcme, "/v1/things?limit=10&sort=mood&filter[flag]=true").header("query-cost") == "1010");
  CHECK(world.Get(kAcme, "/v1/things?limit=10&sort=rank&filter[owner.name]=Ann").header("query-cost") == "1010");
  CHECK(world.Get(kAcme, "/v1/things?limit=10&sort=rank").header("query-cost") == "10");
}

TEST_CASE("only lists that one index answers share connections; others are planned for their values") {
  World world(kThings + std::string("CREATE INDEX ON t.owners (tenant, name, id);"
                                    "CREATE INDEX ON t.things (tenant, at DESC, id DESC);"
                                    "CREATE INDEX ON t.things (tenant, day DESC NULLS LAST, id DESC);"
                                    "CREATE INDEX ON t.things (tenant, score, id DESC);"),
              kCatalog);
  const auto cheap = [&](const std::string& name, const std::string& query, const Principal& who = kAcme) {
    const catalog::Resource& resource = *world.model().FindResource(name);
    auto parsed = http::ParseListQuery(std::string_view(query));
    REQUIRE_THAT(parsed, testing::IsOk());
    const CallContext context = Context(who);
    Resolver resolver(world.model(), context);
    auto resolved = resolver.Resolve(resource, *parsed);
    REQUIRE_THAT(resolved, testing::IsOk());
    return IsCheap(**resolved, who.tenant == kAllTenants);
  };
  CHECK(cheap("owners", "sort=name"));
  CHECK(cheap("owners", "sort=-name"));
  CHECK(cheap("owners", "filter[name][gte]=B&sort=name"));
  CHECK(cheap("owners", "filter[name]=Ann"));
  CHECK(cheap("owners", "filter[id]=1&sort=name"));
  CHECK_FALSE(cheap("owners", ""));  // by id: the rows of other tenants stand between
  CHECK_FALSE(cheap("owners", "sort=name", Someone("*")));
  CHECK(cheap("owners", "", Someone("*")));
  CHECK_FALSE(cheap("owners", "sort=name:nulls_first,-id"));
  CHECK_FALSE(cheap("owners", "filter[country]=DE&sort=name"));
  CHECK_FALSE(cheap("owners", "filter[name][contains]=n&sort=name"));
  CHECK_FALSE(cheap("owners", "filter[or][0][name]=Ann&filter[or][1][name]=Ben&sort=name"));
  CHECK_FALSE(cheap("owners", "sort=name", Someone("acme", {"reader"})));  // its rows are those of one country
  CHECK_FALSE(cheap("things", "sort=rank"));                               // many rows may share a rank
  CHECK_FALSE(cheap("things", "sort=id&offset=10", Someone("*")));
  // The tenant stands in the index the other way round, which is nothing to its one value.
  CHECK(cheap("things", "sort=-at"));
  CHECK(cheap("things", "sort=at"));
  CHECK(cheap("things", "filter[at][lt]=2026-01-01T00:00:00Z&sort=-at"));
  CHECK_FALSE(cheap("things", "sort=-at:nulls_last"));
  CHECK(cheap("things", "sort=-day:nulls_last"));
  CHECK(cheap("things", "sort=day:nulls_first"));
  CHECK_FALSE(cheap("things", "sort=-day"));
  CHECK_FALSE(cheap("things", "sort=score"));      // the index has ids the other way round
  CHECK_FALSE(cheap("things", "sort=score,-id"));  // a cursor would be more than one place in it
}

TEST_CASE("a query in place of a table is listed, read and summed like one, within its tenant, and never written") {
  const std::string catalog = std::string(kCatalog).insert(std::string(kCatalog).find("\n  things:"), R"(
  moods:
    query: |
      SELECT tenant, coalesce(mood::text, 'none') AS mood, count(*) AS things, sum(price) AS price, max(owner_id) AS owner_id
      FROM t.things GROUP BY 1, 2 -- a comment at its end
    tenant: tenant
    key: mood
    fields:
      things: {filterable: true, sortable: true}
    relations:
      owner: {to: owners, by: owner_id}
    permissions:
      reader: {actions: [read], where: 'filter[mood]=sad'}
)");
  World world(kThings, catalog);
  const auto expected = [&](const std::string& rest) {
    return Column(world, "SELECT coalesce(mood::text, 'none') FROM t.things WHERE tenant = 'acme' GROUP BY 1 " + rest);
  };
  const auto moods = [&](const Principal& who, const std::string& query) {
    Lines out;
    Answer answer = world.Get(who, "/v1/moods?" + query);
    INFO(answer.response.body);
    REQUIRE(answer.status() == 200);
    for (const JsonValue& row : answer.json().Find("data")->items()) out.emplace_back(row.Find("mood")->text());
    return out;
  };
  CHECK(moods(kAcme, "sort=-things,mood") == expected("ORDER BY count(*) DESC, 1"));
  CHECK(moods(kAcme, "sort=things,-mood&filter[things][gt]=10") ==
        expected("HAVING count(*) > 10 ORDER BY count(*), 1 DESC"));
  CHECK(moods(Someone("acme", {"reader"}), "") == Lines{"sad"});
  Answer first = world.Get(kAcme, "/v1/moods?limit=3&count=exact&expand=owner");
  CHECK(first.json().Find("page")->Find("total")->text() == "4");
  CHECK(first.json().Find("data")->items()[0].Find("owner")->Find("name") != nullptr);
  CHECK(moods(kAcme, StrCat("limit=3&cursor=", first.json().Find("page")->Find("next_cursor")->text())).size() == 1);
  CHECK(world.Get(kAcme, "/v1/moods/sad")["things"] ==
        world.Value("SELECT count(*) FROM t.things WHERE tenant = 'acme' AND mood = 'sad'"));
  CHECK(world.Get(Someone("acme", {"reader"}), "/v1/moods/ok").status() == 404);
  CHECK(world.Get(Someone("nobody"), "/v1/moods").json().Find("data")->items().empty());
  CHECK(world.Get(kAcme, "/v1/moods:aggregate?aggregate=sum(things)")
            .json()
            .Find("data")
            ->items()[0]
            .Find("sum")
            ->Find("things")
            ->text() == world.Value("SELECT count(*) FROM t.things WHERE tenant = 'acme'"));
  CHECK(world.Get(kAcme, "/v1/moods?filter[nothing]=1").problem() == "unknown-field");
  CHECK(world.Call(kAcme, "POST", "/v1/moods", R"({"mood":"x"})").status() == 405);
  CHECK(world.Call(kAcme, "PATCH", "/v1/moods/sad", R"({"things":1})").status() == 405);
  CHECK(world.Call(kAcme, "DELETE", "/v1/moods/sad").status() == 405);
}

}  // namespace
}  // namespace mainstay::records
