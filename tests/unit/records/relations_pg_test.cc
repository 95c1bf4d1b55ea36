// SPDX-License-Identifier: Apache-2.0
// Related records: a constant number of statements, lists of their own; what a plan keeps for the next request.
#include "libs/base/strings.h"
#include "tests/unit/records/things.h"

namespace mainstay::records {
namespace {

TEST_CASE("a related list is walked like any other, one parent's at a time") {
  World world(kThings, kCatalog);
  const auto cursor = [](const JsonValue& list, const char* name) {
    const JsonValue* found = list.Find("page")->Find(name);
    return found->is_string() ? std::string(found->text()) : std::string();
  };
  const auto ids = [](const JsonValue& list) {
    Lines out;
    for (const JsonValue& row : list.Find("data")->items()) out.emplace_back(row.Find("id")->text());
    return out;
  };
  const auto expected = [&](int owner) {
    return Column(world, StrCat("SELECT id FROM t.things WHERE tenant = 'acme' AND owner_id = ", owner,
                                " AND flag ORDER BY rank DESC NULLS LAST, label, id"));
  };
  const std::string options =
      "[limit]=4&expand[X][sort]=-rank:nulls_last,label&expand[X][filter][flag]=true&expand[X][fields]=id";
  const auto ask = [&](const std::string& path, const std::string& relation, const std::string& at) {
    std::string query = StrCat("expand=", relation, "&expand[X]", options);
    if (!at.empty()) StrAppend(&query, "&expand[X][cursor]=", at);
    return world.Get(kAcme, StrCat("/v1/", path, path.find('?') == std::string::npos ? "?" : "&",
                                   absl::StrReplaceAll(query, {{"[X]", StrCat("[", relation, "]")}})));
  };
  const Lines all = expected(1), others = expected(2);
  REQUIRE(all.size() > 12);
  Lines forward;
  std::vector<std::pair<Lines, std::string>> pages;  // with the cursor that led there
  std::string at;
  do {
    world.TakeStatements();
    Answer answer = ask("owners/1", "things", at);
    REQUIRE(answer.status() == 200);
    CHECK(world.TakeStatements().size() == 2);
    const JsonValue& list = *answer.json().Find("things");
    const Lines page = ids(list);
    forward.insert(forward.end(), page.begin(), page.end());
    CHECK(cursor(list, "prev_cursor").empty() == pages.empty());
    CHECK(list.Find("page")->Find("has_more")->boolean() == !cursor(list, "next_cursor").empty());
    pages.emplace_back(page, at);
    at = cursor(list, "next_cursor");
  } while (!at.empty() && pages.size() < 20);
  CHECK(forward == all);
  // And back.
  Answer last = ask("owners/1", "things", pages.back().second);
  for (size_t i = pages.size() - 1; i-- > 0;) {
    last = ask("owners/1", "things", cursor(*last.json().Find("things"), "prev_cursor"));
    CHECK(ids(*last.json().Find("things")) == pages[i].first);
    CHECK(last.json().Find("things")->Find("page")->Find("has_more")->boolean());
  }
  // Beside other parents, whose lists begin at their beginning; also below a relation.
  world.TakeStatements();
  Answer both = ask("owners?sort=id", "things", pages[1].second);
  CHECK(world.TakeStatements().size() == 2);
  CHECK(ids(*both.json().Find("data")->items()[0].Find("things")) == pages[1].first);
  CHECK(ids(*both.json().Find("data")->items()[1].Find("things")) == Lines(others.begin(), others.begin() + 4));
  CHECK(ids(*ask("owners/2", "things", pages[1].second).json().Find("things")) ==
        Lines(others.begin(), others.begin() + 4));
  Answer below = ask("things?filter[owner_id]=1&limit=2", "owner.things", "");
  const JsonValue& first = *below.json().Find("data")->items()[0].Find("owner")->Find("things");
  CHECK(ids(first) == pages[0].first);
  below = ask("things?filter[owner_id]=1&limit=2", "owner.things", cursor(first, "next_cursor"));
  CHECK(ids(*below.json().Find("data")->items()[1].Find("owner")->Find("things")) == pages[1].first);
  // It belongs to its list and its caller.
  const std::string& second = pages[1].second;
  CHECK(world.Get(kAcme, "/v1/owners/1?expand=things&expand[things][cursor]=" + second).problem() == "cursor-mismatch");
  CHECK(world.Get(kAcme, "/v1/things?cursor=" + second).problem() == "cursor-mismatch");
  CHECK(world.Get(kAcme, "/v1/owners/1?expand=things&expand[things][cursor]=AAAA").problem() == "cursor-invalid");
  CHECK(world.Get(kAcme, "/v1/things?expand=owner&expand[owner][cursor]=" + second).problem() == "invalid-parameter");
}

TEST_CASE("what was planned for one request serves the next of its form, with that one's values and caller") {
  World world(kThings, kCatalog);
  const auto ids = [&](const std::string& where, const std::string& tenant = "acme") {
    return Column(world,
                  StrCat("SELECT id FROM t.things WHERE tenant = '", tenant, "' AND ", where, " ORDER BY id LIMIT 50"));
  };
  // Of each pair the first is planned, the second finds its plan.
  const std::pair<std::string, std::string> cases[][2] = {
      {{"filter[rank]=3", "rank = 3"}, {"filter[rank]=5", "rank = 5"}},
      {{"filter[rank][in]=1,2", "rank IN (1, 2)"}, {"filter[rank][in]=7,8,0", "rank IN (7, 8, 0)"}},
      {{"filter[label][in]=Zo%C3%AB,apple", "label IN ('Zoë', 'apple')"},
       {"filter[label][in]=a%5C,b,a_b", "label IN ('a,b', 'a_b')"}},
      {{"filter[label][starts_with]=a", "label LIKE 'a%'"}, {"filter[label][starts_with]=a%25", "label LIKE 'a\\%%'"}},
      {{"filter[label][contains]=_", "label LIKE '%\\_%'"}, {"filter[label][contains]=p", "label LIKE '%p%'"}},
      {{"filter[tags][has]=a", "'a' = ANY(tags)"}, {"filter[tags][has]=c+d", "'c d' = ANY(tags)"}},
      {{"filter[tags][has_any]=a,b", "tags && '{a,b}'"}, {"filter[tags][has_any]=x", "tags && '{x}'"}},
      {{"filter[doc.s.n]=v0", "doc #>> '{s,n}' = 'v0'"}, {"filter[doc.s.n]=v1", "doc #>> '{s,n}' = 'v1'"}},
      {{"filter[span][overlaps]=[3,9)", "span && '[3,9)'"}, {"filter[span][overlaps]=[30,32)", "span && '[30,32)'"}},
      {{"filter[rank][is_null]=true", "rank IS NULL"}, {"filter[rank][is_null]=false", "rank IS NOT NULL"}},
      {{"filter[flag]=true", "flag"}, {"filter[flag]=false", "NOT flag"}},
      {{"filter[owner.name]=Ann", "owner_id = 1"}, {"filter[owner.name]=Ben", "owner_id = 2"}},
      {{"filter[or][0][rank]=1&filter[or][1][mood]=sad", "(rank = 1 OR mood = 'sad')"},
       {"filter[or][0][rank]=2&filter[or][1][mood]=ok", "(rank = 2 OR mood = 'ok')"}},
      {{"filter[label]=true", "label = 'true'"}, {"filter[label]=apple", "label = 'apple'"}},
  };
  for (const auto& pair : cases) {
    for (const auto& [query, where] : pair) {
      INFO(query);
      CHECK(Ids(world.Get(kAcme, "/v1/things?" + query)) == ids(where));
      CHECK(Ids(world.Get(kGlobex, "/v1/things?" + query)) == ids(where, "globex"));
    }
    // And back.
    CHECK(Ids(world.Get(kAcme, "/v1/things?" + pair[0].first)) == ids(pair[0].second));
  }

  SECTION("the rows of a role, counts and relations are the second caller's too") {
    const Principal reader = Someone("acme", {"reader"});
    const auto counted = [&](const Principal& who, const std::string& rank) {
      return world.Get(who, "/v1/things?count=exact&filter[rank]=" + rank).json().Find("page")->Find("total")->text();
    };
    const auto count = [&](const std::string& where) {
      return world.Value("SELECT count(*) FROM t.things WHERE " + where);
    };
    CHECK(counted(kAcme, "1") == count("tenant = 'acme' AND rank = 1"));
    CHECK(counted(kGlobex, "2") == count("tenant = 'globex' AND rank = 2"));
    CHECK(counted(reader, "1") == count("tenant = 'acme' AND owner_id = 1 AND rank = 1"));
    CHECK(counted(reader, "2") == count("tenant = 'acme' AND owner_id = 1 AND rank = 2"));
    const auto related = [&](const Principal& who, const std::string& id, const std::string& rank) {
      return Ids(
          Answer{.response = {.body = ""},
                 .document = std::make_shared<JsonDocument>(
                     JsonDocument::Parse(
                         std::string(world.Get(who, StrCat("/v1/owners/", id, "?expand[things][filter][rank]=", rank))
                                         .json()
                                         .Find("things")
                                         ->raw()))
                         .value())});
    };
    CHECK(related(kAcme, "1", "1") == ids("owner_id = 1 AND rank = 1"));
    CHECK(related(kAcme, "2", "5") == ids("owner_id = 2 AND rank = 5"));
    CHECK(related(kGlobex, "3", "5") == ids("owner_id = 3 AND rank = 5", "globex"));
  }
  SECTION("a wrong value is refused as if it were the first") {
    const std::pair<std::string, std::string> wrong[] = {
        {"filter[rank]=1", "filter[rank]=x"},
        {"filter[mood]=sad", "filter[mood]=cross"},
        {"filter[label][like]=a", "filter[label][like]=%25a%25b%25c%25"},
        {"filter[rank]=1", "filter[rank]=%ff"},
        {"filter[rank]=1", "filter[rank]=%zz"}};
    for (const auto& [right, bad] : wrong) {
      World fresh(kThings, kCatalog);
      const Answer first = fresh.Get(kAcme, "/v1/things?" + bad);
      CHECK(world.Get(kAcme, "/v1/things?" + right).status() == 200);
      const Answer second = world.Get(kAcme, "/v1/things?" + bad);
      INFO(bad << " " << second.response.body);
      CHECK(first.status() == 400);
      CHECK(second.problem() == first.problem());
      CHECK(second.errors() == first.errors());
    }
  }
  SECTION("a cursor belongs to the values that it was given for") {
    const std::string at = "/v1/things?limit=5&sort=rank&filter[price][gt]=";
    std::vector<std::string> cursors;
    for (const std::string price : {"0", "1"}) {
      Lines walked;
      for (std::string next; walked.empty() || !next.empty();) {
        const Answer page = world.Get(kAcme, StrCat(at, price, next.empty() ? "" : "&cursor=", next));
        REQUIRE(page.status() == 200);
        for (const std::string& id : Ids(page)) walked.push_back(id);
        const JsonValue& cursor = *page.json().Find("page")->Find("next_cursor");
        next = cursor.is_null() ? "" : std::string(cursor.text());
        if (!next.empty()) cursors.push_back(next);
      }
      CHECK(walked == Column(world, StrCat("SELECT id FROM t.things WHERE tenant = 'acme' AND price > ", price,
                                           " ORDER BY rank, id")));
    }
    CHECK(world.Get(kAcme, StrCat(at, "1&cursor=", cursors[0])).problem() == "cursor-mismatch");
    CHECK(world.Get(kGlobex, StrCat(at, "0&cursor=", cursors[0])).problem() == "cursor-mismatch");
    CHECK(world.Get(kAcme, StrCat(at, "0&cursor=", cursors[0], "x")).problem() == "cursor-invalid");
    CHECK(world.Get(kAcme, StrCat(at, "0&cursor=")).problem() == "cursor-invalid");
  }
}

TEST_CASE("related lists are the same whether they are read together or each for itself") {
  // Owner 1 has many things, the others few or none.
  World world(kThings, kCatalog);
  world.Sql("INSERT INTO t.owners SELECT i, 'acme', 'o' || i, 'DE' FROM generate_series(10, 60) i");
  const auto expected = [&](const std::string& owner, int limit) {
    return Column(world, StrCat("SELECT id FROM t.things WHERE tenant = 'acme' AND owner_id = ", owner,
                                " ORDER BY label DESC NULLS LAST, id DESC LIMIT ", limit));
  };
  const auto check = [&](int owners, int limit, std::string_view how) {
    world.TakeStatements();
    const Answer answer = world.Get(kAcme, StrCat("/v1/owners?sort=id&limit=", owners, "&expand[things][limit]=", limit,
                                                  "&expand[things][sort]=-label:nulls_last"));
    REQUIRE(answer.status() == 200);
    const std::vector<std::string> statements = world.TakeStatements();
    REQUIRE(statements.size() == 2);
    CHECK(statements[1].starts_with(how));
    for (const JsonValue& owner : answer.json().Find("data")->items()) {
      const std::string id(owner.Find("id")->text());
      INFO("owner " << id << " of " << owners << ", at most " << limit);
      Lines got;
      for (const JsonValue& thing : owner.Find("things")->Find("data")->items())
        got.emplace_back(thing.Find("id")->text());
      CHECK(got == expected(id, limit));
      const int64_t all =
          std::stoll(world.Value("SELECT count(*) FROM t.things WHERE tenant = 'acme' AND owner_id = " + id));
      CHECK(owner.Find("things")->Find("page")->Find("has_more")->boolean() == (all > limit));
    }
  };
  // Room for all of them; then they fill more than half of it, or don't fit: the next time they are known to be long.
  for (const int limit : {100, 3}) {
    check(50, limit, "WITH s");
    check(50, limit, "WITH s");
  }
  for (const auto& [owners, limit] : {std::pair(50, 1), std::pair(2, 5)}) {
    check(owners, limit, "WITH s");
    check(owners, limit, "SELECT c0");
    check(owners, limit, "SELECT c0");
  }
}

TEST_CASE("a tenant or subject that is no value of the column it is compared with sees no row of it") {
  World world(
      "CREATE SCHEMA n; CREATE TABLE n.notes (id int PRIMARY KEY, account bigint NOT NULL, author int NOT NULL);"
      "CREATE INDEX ON n.notes (account, id); INSERT INTO n.notes VALUES (1, 7, 70), (2, 7, 71), (3, 8, 70);",
      R"(
resources:
  notes:
    table: n.notes
    tenant: account
    permissions:
      writer: {actions: [read], where: 'filter[author]={subject}'}
roles:
  writer: {description: Sees its own.}
)");
  for (const Principal& who : {Someone("7"), Someone("acme"), Someone("7"), Someone("99999999999999999999")}) {
    const bool known = who.tenant == "7";
    CHECK(Ids(world.Get(who, "/v1/notes")) == (known ? Lines{"1", "2"} : Lines{}));
    CHECK(world.Get(who, "/v1/notes/1").status() == (known ? 200 : 404));
    CHECK(world.Get(who, "/v1/notes?count=exact").json().Find("page")->Find("total")->text() == (known ? "2" : "0"));
  }
  for (const std::string subject : {"70", "key_1", "70"}) {
    const Principal who = Someone("7", {"writer"}, subject);
    CHECK(Ids(world.Get(who, "/v1/notes")) == (subject == "70" ? Lines{"1"} : Lines{}));
    CHECK(world.Get(who, "/v1/notes/1").status() == (subject == "70" ? 200 : 404));
  }
}

TEST_CASE("expansions: one statement per level, whatever the number of rows") {
  World world(kThings, kCatalog);
  const std::string query =
      "?expand=things,things.owner&expand[things][limit]=4&expand[things][sort]=-rank:nulls_last&expand[things][fields]"
      "=id,rank&expand[things][filter][mood]=ok&sort=id";
  world.TakeStatements();
  Answer two = world.Get(kAcme, "/v1/owners" + query);
  REQUIRE(two.status() == 200);
  CHECK(world.TakeStatements().size() == 3);
  CHECK(world.Get(kAcme, "/v1/owners/1?expand=things,things.owner").status() == 200);
  CHECK(world.TakeStatements().size() == 3);
  world.Get(kAcme, "/v1/owners" + query + "&filter[id]=77");
  CHECK(world.TakeStatements().size() == 3);
  world.Get(kAcme, "/v1/owners" + query + "&count=exact");
  CHECK(world.TakeStatements().size() == 4);
  for (const JsonValue& owner : two.json().Find("data")->items()) {
    const std::string id(owner.Find("id")->text());
    const Lines expected = Column(world, StrCat("SELECT id FROM t.things WHERE tenant = 'acme' AND owner_id = ", id,
                                                " AND mood = 'ok' ORDER BY rank DESC NULLS LAST, id DESC LIMIT 4"));
    Lines got;
    const JsonValue& things = *owner.Find("things");
    for (const JsonValue& thing : things.Find("data")->items()) {
      got.emplace_back(thing.Find("id")->text());
      CHECK(thing.Find("owner")->Find("id")->text() == id);
      CHECK(thing.members().size() == 3);
    }
    CHECK(got == expected);
    const bool more = world.Value(StrCat("SELECT count(*) > 4 FROM t.things WHERE tenant = 'acme' AND owner_id = ", id,
                                         " AND mood = 'ok'")) == "t";
    CHECK(things.Find("page")->Find("has_more")->boolean() == more);
    CHECK(things.Find("page")->Find("limit")->text() == "4");
  }
  // To-one: null where there is none; dotted fields are the same relation.
  Answer things = world.Get(kAcme, "/v1/things?sort=id&limit=200&fields=id,owner.name");
  for (const JsonValue& thing : things.json().Find("data")->items()) {
    const std::string owner = world.Value(
        StrCat("SELECT coalesce((SELECT name FROM t.owners o WHERE o.id = owner_id), '-') FROM t.things WHERE id = ",
               thing.Find("id")->text()));
    const JsonValue* shown = thing.Find("owner");
    REQUIRE(shown != nullptr);
    CHECK((shown->is_null() ? "-" : std::string(shown->Find("name")->text())) == owner);
    if (!shown->is_null()) CHECK(shown->members().size() == 1);
  }
  // A role's rows are a role's rows everywhere: Ben is French, so reader sees neither him nor his things.
  const Principal reader = Someone("acme", {"reader"});
  Answer seen = world.Get(reader, "/v1/owners?expand=things&expand[things][limit]=100&sort=id");
  CHECK(Ids(seen) == Lines{"1"});
  CHECK(world.Get(reader, "/v1/things?count=exact&limit=1").json().Find("page")->Find("total")->text() ==
        world.Value("SELECT count(*) FROM t.things WHERE owner_id = 1"));
}

}  // namespace
}  // namespace mainstay::records
