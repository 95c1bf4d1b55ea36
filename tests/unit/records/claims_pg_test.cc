// SPDX-License-Identifier: Apache-2.0
// Row security: PostgreSQL's own policies decide over every way to read and to write, told by each transaction who
// asks. The resources are shared, so nothing but the policies parts the callers.
#include <pqxx/pqxx>

#include "absl/strings/str_cat.h"
#include "libs/catalog/publish.h"
#include "libs/records/claims.h"
#include "libs/records/merge.h"
#include "tests/unit/records/world.h"

namespace mainstay::records {
namespace {

using Lines = std::vector<std::string>;

constexpr char kTables[] = R"sql(
CREATE SCHEMA t;
CREATE TABLE t.boxes (id int PRIMARY KEY, tenant text NOT NULL, name text NOT NULL);
CREATE TABLE t.letters (id int PRIMARY KEY, tenant text NOT NULL, owner text NOT NULL, box_id int REFERENCES t.boxes, pages int NOT NULL DEFAULT 1);
INSERT INTO t.boxes VALUES (1, 'acme', 'in'), (2, 'acme', 'out'), (3, 'globex', 'in');
INSERT INTO t.letters SELECT i, CASE WHEN i % 3 = 0 THEN 'globex' ELSE 'acme' END, 'key_' || i % 2, CASE WHEN i % 3 = 0 THEN 3 ELSE 1 + i % 2 END FROM generate_series(1, 30) i;
ALTER TABLE t.boxes ENABLE ROW LEVEL SECURITY;
ALTER TABLE t.letters ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON t.boxes USING (tenant = mainstay.current_tenant());
CREATE POLICY own ON t.letters USING (tenant = mainstay.current_tenant() AND (owner = mainstay.current_subject() OR 'chief' = ANY (mainstay.current_roles())));
)sql";

constexpr char kCatalog[] = R"(
resources:
  boxes:
    table: t.boxes
    shared: write
    row_security: true
    fields:
      name: {filterable: true}
    relations:
      letters: {many: letters, by: box_id}
    permissions: {clerk: {actions: all}, chief: {actions: all}}
  letters:
    table: t.letters
    shared: write
    row_security: true
    offset: true
    fields:
      pages: {filterable: true, sortable: true}
      owner: {filterable: true}
    relations:
      box: {to: boxes, by: box_id}
    permissions: {clerk: {actions: all}, chief: {actions: all}}
roles:
  clerk: {}
  chief: {}
)";

const Principal kAnn = Someone("acme", {"clerk"}, "key_1"), kBen = Someone("acme", {"clerk"}, "key_0"),
                kChief = Someone("acme", {"clerk", "chief"}, "key_9"), kGlobex = Someone("globex", {"clerk"}, "key_1");

Lines Ids(const Answer& answer) {
  INFO(answer.response.body);
  REQUIRE(answer.status() == 200);
  Lines out;
  for (const JsonValue& row : answer.json().Find("data")->items()) out.emplace_back(row.Find("id")->text());
  return out;
}

struct Claimed : World {
  Claimed() : World(kTables, kCatalog, "mainstay_gateway") {}
  Lines Expected(const std::string& where) {
    Lines out;
    for (auto& row : Sql("SELECT id FROM t.letters WHERE " + where + " ORDER BY id")) out.push_back(row[0]);
    return out;
  }
};

TEST_CASE("policies part the callers in every way of reading") {
  Claimed world;
  const std::pair<Principal, std::string> callers[] = {{kAnn, "tenant = 'acme' AND owner = 'key_1'"},
                                                       {kBen, "tenant = 'acme' AND owner = 'key_0'"},
                                                       {kChief, "tenant = 'acme'"},
                                                       {kGlobex, "tenant = 'globex' AND owner = 'key_1'"},
                                                       {Someone("nobody", {"clerk"}), "false"}};
  for (int round = 0; round < 2; ++round) {  // on connections that others have used
    for (const auto& [who, where] : callers) {
      INFO(who.tenant << " " << who.subject);
      const Lines mine = world.Expected(where);
      const std::string count = std::to_string(mine.size());
      CHECK(Ids(world.Get(who, "/v1/letters?limit=200")) == mine);
      CHECK(Ids(world.Get(who, "/v1/letters?limit=200&filter[box.name]=in")) ==
            world.Expected(where + " AND box_id IN (1, 3)"));
      Answer counted = world.Get(who, "/v1/letters?limit=1&count=exact");
      CHECK(counted.json().Find("page")->Find("total")->text() == count);
      Answer lines = world.Call(who, "GET", "/v1/letters", "", {{"accept", "application/x-ndjson"}});
      CHECK(std::ranges::count(lines.response.body, '\n') == static_cast<int64_t>(mine.size()));
      Answer sum = world.Get(who, "/v1/letters:aggregate?aggregate=count()");
      CHECK(sum.json().Find("data")->items()[0].Find("count")->text() == count);
      size_t expanded = 0;
      Answer boxes = world.Get(who, "/v1/boxes?expand=letters&expand[letters][limit]=100");
      for (const JsonValue& box : boxes.json().Find("data")->items())
        expanded += box.Find("letters")->Find("data")->items().size();
      CHECK(expanded == mine.size());
      for (const std::string& id : world.Expected("true")) {
        const bool seen = std::ranges::find(mine, id) != mine.end();
        CHECK(world.Get(who, "/v1/letters/" + id).status() == (seen ? 200 : 404));
      }
    }
  }
}

TEST_CASE("policies decide over writes: what they hide is absent, what they refuse is forbidden") {
  Claimed world;
  const Lines anns = world.Expected("tenant = 'acme' AND owner = 'key_1'"),
              bens = world.Expected("tenant = 'acme' AND owner = 'key_0'");
  const auto of = [&](const std::string& id) {
    return world.Value("SELECT concat_ws(' ', tenant, owner, pages) FROM t.letters WHERE id = " + id);
  };
  CHECK(world.Call(kAnn, "PATCH", "/v1/letters/" + anns[0], R"({"pages":7})").status() == 200);
  CHECK(of(anns[0]) == "acme key_1 7");
  CHECK(world.Call(kAnn, "PATCH", "/v1/letters/" + bens[0], R"({"pages":7})").status() == 404);
  CHECK(world.Call(kAnn, "DELETE", "/v1/letters/" + bens[0]).status() == 404);
  CHECK(of(bens[0]) == "acme key_0 1");
  Answer moved = world.Call(kAnn, "PATCH", "/v1/letters/" + anns[1], R"({"owner":"key_0"})");
  CHECK(moved.status() == 403);
  CHECK(moved.problem() == "forbidden");
  CHECK(of(anns[1]) == "acme key_1 1");
  CHECK(world.Call(kAnn, "POST", "/v1/letters", R"({"id":100,"tenant":"acme","owner":"key_1","box_id":1})").status() ==
        201);
  CHECK(world.Call(kAnn, "POST", "/v1/letters", R"({"id":101,"tenant":"globex","owner":"key_1"})").status() == 403);
  CHECK(world.Call(kAnn, "POST", "/v1/letters", R"({"id":101,"tenant":"acme","owner":"key_1","box_id":3})").errors() ==
        Lines{"/box_id reference_not_found"});
  Answer batch = world.Call(kAnn, "POST", "/v1/letters:batchCreate",
                            R"({"items":[{"id":102,"tenant":"acme","owner":"key_1"},)"
                            R"({"id":103,"tenant":"globex","owner":"key_1"}]})");
  CHECK(batch.status() == 403);
  CHECK(world.Value("SELECT count(*) FROM t.letters WHERE id > 100") == "0");
  CHECK(world.Call(kAnn, "DELETE", "/v1/letters/" + anns[0]).status() == 204);
}

TEST_CASE("threads that wait tell PostgreSQL too, and nothing of it outlives the transaction") {
  Claimed world;
  const catalog::Resource& letters = *world.model().FindResource("letters");
  const std::string bens = world.Expected("tenant = 'acme' AND owner = 'key_0'")[0];
  MergeResult merged;
  const absl::Status status =
      world.pool().Transaction(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
        auto result =
            Merge(tx, letters, world.model(), Context(kAnn), {.fields = {"id", "pages"}, .rows = {{bens, "9"}}},
                  {.mode = MergeMode::kUpdate, .skip_errors = true});
        if (!result.ok()) return result.status();
        merged = *std::move(result);
        return absl::OkStatus();
      });
  REQUIRE_THAT(status, testing::IsOk());
  CHECK(merged.updated == 0);
  CHECK(merged.error == 1);
  std::string left;
  REQUIRE_THAT(world.pool().Autocommit(absl::Now() + absl::Seconds(10),
                                       [&](pqxx::transaction_base& tx) -> absl::Status {
                                         left = tx.exec(
                                                      "SELECT mainstay.current_tenant() || "
                                                      "cardinality(mainstay.current_roles())")[0][0]
                                                    .c_str();
                                         return absl::OkStatus();
                                       }),
               testing::IsOk());
  CHECK(left == "0");
  // A read by id: the claims and the row, in one round trip of one transaction.
  world.TakeStatements();
  world.Get(kAnn, "/v1/letters/1");
  CHECK(world.TakeStatements().size() == 2);
}

TEST_CASE("row security is declared where it is on, and not with images that no policy covers") {
  World world(
      "CREATE TABLE public.plain (id int PRIMARY KEY); CREATE TABLE public.safe (id int PRIMARY KEY); ALTER "
      "TABLE public.safe ENABLE ROW LEVEL SECURITY",
      "resources: {plain: {table: plain, shared: write}}");
  const auto mistakes = [&](const std::string& resource) {
    return std::string(
        catalog::Check(world.url(),
                       {{"c.yaml", "resources: {x: {shared: write, row_security: true, " + resource + "}}"}}, {})
            .status()
            .message());
  };
  CHECK(mistakes("table: safe") == "");
  CHECK_THAT(mistakes("table: plain"), Catch::Contains("row security is not on for public.plain"));
  CHECK_THAT(mistakes("table: safe, changes: true"), Catch::Contains("no policy covers"));
}

}  // namespace
}  // namespace mainstay::records
