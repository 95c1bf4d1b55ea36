// SPDX-License-Identifier: Apache-2.0
// Pages against the unpaged order, cursors, counts.
#include <algorithm>
#include <cstdlib>
#include <pqxx/pqxx>
#include <random>

#include "libs/base/strings.h"
#include "libs/catalog/introspect.h"
#include "libs/http/list_query.h"
#include "libs/records/list.h"
#include "libs/records/plan.h"
#include "libs/records/runner.h"
#include "mainstay/jobs/v1/jobs.pb.h"
#include "tests/unit/records/things.h"

namespace mainstay::records {
namespace {

TEST_CASE("walking all pages gives each row once, in the unpaged order, forwards and backwards") {
  World world(kThings, kCatalog);
  const std::pair<std::string, std::string> sorts[] = {
      {"id", "id"},
      {"-id", "id DESC"},
      {"rank", "rank, id"},
      {"-rank", "rank DESC, id DESC"},
      {"rank:nulls_first", "rank NULLS FIRST, id"},
      {"-rank:nulls_last", "rank DESC NULLS LAST, id DESC"},
      {"rank,-score", "rank, score DESC, id DESC"},
      {"-label,at:nulls_first,-price:nulls_last", "label DESC, at NULLS FIRST, price DESC NULLS LAST, id DESC"},
      {"score,label,-mood", "score, label, mood DESC, id DESC"},
      {"-at,flag", "at DESC, flag, id"},
      {"code,-day", "code, day DESC, id DESC"},
      {"mood,price", "mood, price, id"},
  };
  for (const auto& [sort, order] : sorts) {
    for (int limit : {7, 50}) {
      INFO(sort << " by " << limit);
      const Lines expected = Column(world, StrCat("SELECT id FROM t.things WHERE tenant = 'acme' ORDER BY ", order));
      Lines forward;
      std::vector<Lines> pages;
      std::string cursor, last_prev;
      for (int guard = 0; guard < 40; ++guard) {
        Answer page = world.Get(kAcme, StrCat("/v1/things?fields=id&sort=", sort, "&limit=", limit,
                                              cursor.empty() ? "" : "&cursor=" + cursor));
        REQUIRE(page.status() == 200);
        const Lines ids = Ids(page);
        forward.insert(forward.end(), ids.begin(), ids.end());
        pages.push_back(ids);
        const JsonValue& at = *page.json().Find("page");
        CHECK(at.Find("has_more")->boolean() == at.Find("next_cursor")->is_string());
        CHECK(at.Find("prev_cursor")->is_string() == (pages.size() > 1));
        if (at.Find("prev_cursor")->is_string()) last_prev = at.Find("prev_cursor")->text();
        if (!at.Find("has_more")->boolean()) break;
        cursor = at.Find("next_cursor")->text();
        CHECK(cursor.size() <= 1024);
      }
      CHECK(forward == expected);
      for (size_t back = pages.size() - 1; back-- > 0;) {
        Answer page =
            world.Get(kAcme, StrCat("/v1/things?fields=id&sort=", sort, "&limit=", limit, "&cursor=", last_prev));
        CHECK(Ids(page) == pages[back]);
        const JsonValue* prev = page.json().Find("page")->Find("prev_cursor");
        CHECK(prev->is_string() == (back > 0));
        CHECK(page.json().Find("page")->Find("has_more")->boolean());
        if (prev->is_string()) last_prev = prev->text();
      }
    }
  }
}

// The same for any sort, by steps to either side.
TEST_CASE("random walks over the pages of random sorts meet the unpaged order") {
  World world(kThings, kCatalog);
  const char* const fields[] = {"id", "rank", "score", "price", "label", "at", "mood", "flag", "day", "code"};
  const unsigned seed = std::random_device{}();
  std::mt19937 random(seed);
  const auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  const int walks = std::getenv("MAINSTAY_TEST_LONG") != nullptr ? 3000 : 60;
  for (int walk = 0; walk < walks; ++walk) {
    std::vector<std::string> names(std::begin(fields), std::end(fields));
    std::shuffle(names.begin(), names.end(), random);
    names.resize(static_cast<size_t>(1 + pick(4)));
    std::string sort, order;
    bool down = false;
    for (const std::string& name : names) {
      down = pick(2) == 0;
      const int nulls = pick(3);
      absl::StrAppend(&sort, sort.empty() ? "" : ",", down ? "-" : "", name,
                      nulls == 1 ? ":nulls_first" : (nulls == 2 ? ":nulls_last" : ""));
      absl::StrAppend(&order, order.empty() ? "" : ", ", name, down ? " DESC" : "",
                      nulls == 1 ? " NULLS FIRST" : (nulls == 2 ? " NULLS LAST" : ""));
    }
    if (std::ranges::find(names, "id") == names.end()) absl::StrAppend(&order, down ? ", id DESC" : ", id");
    const bool filtered = pick(3) == 0;
    const std::string filter = filtered ? "&filter[mood][in]=sad,happy" : "";
    const Lines expected = Column(world, StrCat("SELECT id FROM t.things WHERE tenant = 'acme'",
                                                filtered ? " AND mood IN ('sad', 'happy')" : "", " ORDER BY ", order));
    INFO("seed " << seed << ": " << sort << filter);
    size_t at = 0, shown = 0;  // where the last page began, and how much it showed
    std::string next, prev;
    for (int step = 0; step < 12; ++step) {
      const int limit = 1 + pick(step == 0 ? 60 : 30);
      const bool back = !prev.empty() && (next.empty() || pick(3) == 0);
      if (step > 0 && next.empty() && prev.empty()) break;
      Answer page = world.Get(kAcme, StrCat("/v1/things?fields=id&sort=", sort, filter, "&limit=", limit,
                                            step == 0 ? "" : "&cursor=", step == 0 ? "" : (back ? prev : next)));
      REQUIRE(page.status() == 200);
      const auto size = static_cast<size_t>(limit);
      const size_t begin = step == 0 ? 0 : (back ? at - std::min(at, size) : at + shown);
      const size_t end = std::min(expected.size(), back ? at : begin + size);
      REQUIRE(Ids(page) == Lines(expected.begin() + static_cast<std::ptrdiff_t>(begin),
                                 expected.begin() + static_cast<std::ptrdiff_t>(end)));
      at = begin, shown = end - begin;
      const JsonValue& place = *page.json().Find("page");
      REQUIRE(place.Find("has_more")->boolean() == (end < expected.size()));
      const auto cursor = [&](const char* name) {
        return place.Find(name)->is_string() ? std::string(place.Find(name)->text()) : std::string();
      };
      next = cursor("next_cursor"), prev = cursor("prev_cursor");
      REQUIRE(next.empty() == (end == expected.size()));
      REQUIRE(prev.empty() == (begin == 0));
    }
  }
}

TEST_CASE("a page deep in a list reads no more rows than the first, also where the sort key may be null") {
  World world(kThings, kCatalog);
  world.Sql(
      "INSERT INTO t.things (tenant, owner_id, rank) SELECT 'acme', 1, CASE WHEN i > 15000 THEN NULL ELSE i END "
      "FROM generate_series(1000, 20000) i; CREATE INDEX ON t.things (tenant, rank, id); ANALYZE t.things");
  const catalog::Resource& things = *world.model().FindResource("things");
  const CallContext context = Context(kAcme);
  Resolver resolver(world.model(), context);
  const auto read = [&](const std::string& query, const Position& position) {
    const auto resolved = resolver.Resolve(things, http::ParseListQuery(query).value()).value();
    SqlBuilder sql(context);
    BuildPage(sql, *resolved, ColumnsOf(*resolved, true), &position, true);
    int64_t read = 0;
    const absl::Status status =
        world.pool().Transaction(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
          const auto explained = RunBlocking(
              OnTransaction(tx)->RunAnew(StrCat("EXPLAIN (ANALYZE, TIMING OFF, FORMAT TEXT) ", sql.text), sql.params));
          if (!explained.ok()) return explained.status();
          for (int row = 0; row < (*explained)->rows(); ++row) {
            const std::string line((*explained)->Get(row, 0));
            INFO(line);
            CHECK(line.find("Rows Removed by Filter") == std::string::npos);
            CHECK(line.find("Seq Scan") == std::string::npos);
            const size_t at = line.find("(actual rows=");
            if (line.find("Index Scan") != std::string::npos && at != std::string::npos)
              read += std::stoll(line.substr(at + 13));
          }
          return absl::OkStatus();
        });
    REQUIRE_THAT(status, testing::IsOk());
    CHECK(read >= 51);
    return read;
  };
  const std::string id = world.Value("SELECT id FROM t.things WHERE tenant = 'acme' AND rank = 14990");
  const std::string last = world.Value("SELECT id FROM t.things WHERE tenant = 'acme' AND rank = 15000");
  const std::string nothing = world.Value("SELECT max(id) - 100 FROM t.things WHERE tenant = 'acme' AND rank IS NULL");
  for (const bool backward : {false, true}) {
    for (const char* sort : {"rank", "-rank"}) {
      INFO(sort << (backward ? " backward" : ""));
      const std::string query = StrCat("limit=50&sort=", sort);
      CHECK(read(query, {.backward = backward, .values = {"14990", id}}) <= 2 * 51);
      CHECK(read(query, {.backward = backward, .values = {"15000", last}}) <= 2 * 51);
      CHECK(read(query, {.backward = backward, .values = {std::nullopt, nothing}}) <= 2 * 51);
    }
  }
}

TEST_CASE("cursors hold long texts of many bytes, and what none can hold is refused") {
  World world(R"sql(
CREATE SCHEMA t;
CREATE TABLE t.words (id int PRIMARY KEY, a varchar(256), b varchar(256), c varchar(256), n numeric);
INSERT INTO t.words SELECT i, repeat('漢', 255) || i % 2, repeat('字', 255) || i % 3, repeat('語', 255) || i % 5, NULL FROM generate_series(1, 30) i;
CREATE INDEX ON t.words (n);
)sql",
              R"(
resources:
  words:
    table: t.words
    shared: read
    fields:
      a: {sortable: true}
      b: {sortable: true}
      c: {sortable: true}
      n: {sortable: true}
roles: {}
)");
  const Lines expected = Column(world, "SELECT id FROM t.words ORDER BY a, b DESC, c, id");
  Lines got;
  std::string at;
  do {
    Answer page = world.Get(kAcme, StrCat("/v1/words?sort=a,-b,c&fields=id&limit=7", at.empty() ? "" : "&cursor=", at));
    REQUIRE(page.status() == 200);
    const Lines ids = Ids(page);
    got.insert(got.end(), ids.begin(), ids.end());
    const JsonValue* next = page.json().Find("page")->Find("next_cursor");
    at = next->is_string() ? std::string(next->text()) : std::string();
    CHECK((at.empty() || at.size() > 2048));
  } while (!at.empty() && got.size() < 100);
  CHECK(got == expected);
  world.Sql("UPDATE t.words SET n = ('1' || repeat('0', 5000))::numeric");
  Answer refused = world.Get(kAcme, "/v1/words?sort=n&limit=7");
  CHECK(refused.problem() == "invalid-parameter");
  CHECK(refused.errors() == Lines{"sort too_long"});
  CHECK(world.Get(kAcme, "/v1/words?sort=n&limit=50").status() == 200);
}

TEST_CASE("a cursor belongs to its query, its caller and its key") {
  World world(kThings, kCatalog);
  const auto next = [](const Answer& answer) {
    return std::string(answer.json().Find("page")->Find("next_cursor")->text());
  };
  const std::string cursor = next(world.Get(kAcme, "/v1/things?sort=rank&limit=3&filter[flag]=true"));
  const auto with = [&](const Principal& who, const std::string& query) {
    return world.Get(who, StrCat("/v1/things?", query, "&cursor=", cursor)).problem();
  };
  CHECK(with(kAcme, "sort=rank&limit=9&filter[flag]=true") == "");
  CHECK(with(kAcme, "sort=-rank&limit=3&filter[flag]=true") == "cursor-mismatch");
  CHECK(with(kAcme, "sort=rank&limit=3&filter[flag]=false") == "cursor-mismatch");
  CHECK(with(kAcme, "sort=rank&limit=3") == "cursor-mismatch");
  CHECK(with(kGlobex, "sort=rank&limit=3&filter[flag]=true") == "cursor-mismatch");
  CHECK(with(Someone("acme", {"admin"}, "key_2"), "sort=rank&limit=3&filter[flag]=true") == "cursor-mismatch");
  CHECK(world.Get(kAcme, "/v1/owners?sort=name&cursor=" + cursor).problem() == "cursor-mismatch");
  std::string flipped = cursor;
  flipped[cursor.size() / 2] = flipped[cursor.size() / 2] == 'A' ? 'B' : 'A';
  for (const std::string& broken :
       {flipped, cursor.substr(0, cursor.size() - 4), std::string(2048, 'A'), std::string("%00"), std::string("a b")}) {
    Answer answer = world.Get(
        kAcme, StrCat("/v1/things?sort=rank&filter[flag]=true&cursor=", absl::StrReplaceAll(broken, {{" ", "%20"}})));
    CHECK(answer.status() == 400);
  }
  // Another copy of the service with the same key reads it, one with another key does not.
  SimulatedClock clock(absl::Now());
  HttpApi other({.cursor_key = std::string(32, 'x')}, clock), same({.cursor_key = kCursorKey}, clock);
  const std::string query = "sort=rank&limit=3&filter[flag]=true";
  world.Use(same);
  CHECK(with(kAcme, query) == "");
  clock.Advance(absl::Hours(25));
  CHECK(with(kAcme, query) == "cursor-invalid");
  world.Use(other);
  CHECK(with(kAcme, query) == "cursor-invalid");
  world.Use(world.api());
  CHECK(Validate(HttpApiOptions{.cursor_key = "short"}).code() == absl::StatusCode::kInvalidArgument);
  // Link says the same as the page.
  Answer linked = world.Get(kAcme, "/v1/things?sort=rank&limit=3&filter[flag]=true&cursor=" + cursor);
  CHECK(linked.header("link").find("rel=\"next\"") != std::string::npos);
  CHECK(linked.header("link").find("rel=\"prev\"") != std::string::npos);
}

TEST_CASE("counts and offsets") {
  World world(kThings, kCatalog);
  Answer exact = world.Get(kAcme, "/v1/things?count=exact&limit=5&filter[rank][gt]=3");
  CHECK(exact.json().Find("page")->Find("total")->text() ==
        world.Value("SELECT count(*) FROM t.things WHERE tenant = 'acme' AND rank > 3"));
  CHECK(exact.json().Find("page")->Find("total_kind")->text() == "exact");
  Answer estimated = world.Get(kAcme, "/v1/things?count=estimated&limit=5");
  CHECK(estimated.json().Find("page")->Find("total_kind")->text() == "estimated");
  CHECK(estimated.json().Find("page")->Find("total")->is_number());
  CHECK(world.Get(kAcme, "/v1/things?limit=5").json().Find("page")->Find("total") == nullptr);
  CHECK(Ids(world.Get(kAcme, "/v1/things?sort=id&limit=5&offset=10")) ==
        Column(world, "SELECT id FROM t.things WHERE tenant = 'acme' ORDER BY id LIMIT 5 OFFSET 10"));
  CHECK(world.Get(kAcme, "/v1/owners?offset=1").problem() == "invalid-parameter");
}

TEST_CASE("lists for threads that wait: pages, cursors, exports and messages") {
  World world(kThings, kCatalog);
  const catalog::Resource& things = *world.model().FindResource("things");
  const auto query = [](const std::string& text) {
    auto parsed = http::ParseListQuery(std::string_view(text));
    REQUIRE_THAT(parsed, testing::IsOk());
    return *parsed;
  };
  const CallContext context = Context(kAcme);
  Lines all;
  std::string cursor;
  for (int guard = 0; guard < 20; ++guard) {
    RowsPage page;
    const absl::Status status =
        world.pool().Snapshot(context.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          auto listed = ListRows(
              tx, things, world.model(), context,
              query("sort=-rank&limit=17&fields=id,rank&count=exact" + (cursor.empty() ? "" : "&cursor=" + cursor)),
              kCursorKey);
          if (listed.ok()) page = *std::move(listed);
          return listed.status();
        });
    REQUIRE_THAT(status, testing::IsOk());
    CHECK(page.fields == Lines{"id", "rank"});
    CHECK(page.page.total() == 96);
    for (const auto& row : page.rows) all.push_back(*row[0]);
    cursor = page.page.next_cursor();
    if (!page.page.has_more()) break;
  }
  CHECK(all == Column(world, "SELECT id FROM t.things WHERE tenant = 'acme' ORDER BY rank DESC, id DESC"));

  auto plan = PlanExport(things, world.model(), context, query("filter[mood]=ok&sort=id&fields=id,label"));
  REQUIRE_THAT(plan, testing::IsOk());
  CHECK(plan->fields == Lines{"id", "label"});
  CHECK(plan->sql.find("LIMIT") == std::string::npos);
  CHECK(plan->params == std::vector<std::optional<std::string>>{"acme", "ok"});
  CHECK_THAT(PlanExport(things, world.model(), Context(Someone("acme", {})), query("")),
             testing::HasProblem("forbidden"));

  // A resource of the suite's own: readable by every caller, of their tenant.
  world.Sql(
      "CREATE VIEW mainstay.queue_like AS SELECT 'q' || g AS name, CASE WHEN g < 3 THEN 'acme' ELSE 'globex' END AS "
      "tenant, g::bigint AS backlog, true AS paused FROM generate_series(1, 4) g");
  const absl::Status status =
      world.pool().Autocommit(context.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
        auto resource = catalog::SystemResource(tx, "mainstay.queue_like",
                                                {.name = "queues", .key = "name", .default_sort = "name"});
        REQUIRE_THAT(resource, testing::IsOk());
        const CallContext anyone = Context(Someone("acme", {"viewer"}));
        auto listed = ListRows(tx, *resource, world.model(), anyone, query("limit=10"), kCursorKey);
        REQUIRE_THAT(listed, testing::IsOk());
        REQUIRE(listed->rows.size() == 2);
        mainstay::jobs::v1::Queue queue;
        CHECK_THAT(FillMessage(*listed, 1, &queue), testing::IsOk());
        CHECK(queue.name() == "q2");
        auto page = ListRows(tx, *resource, world.model(), anyone, query("limit=1"), kCursorKey);
        REQUIRE(page->page.has_more());
        auto after = ListRows(tx, *resource, world.model(), anyone, query("limit=1&cursor=" + page->page.next_cursor()),
                              kCursorKey);
        REQUIRE_THAT(after, testing::IsOk());
        CHECK(after->rows[0][0] == "q2");
        return absl::OkStatus();
      });
  CHECK_THAT(status, testing::IsOk());
}

}  // namespace
}  // namespace mainstay::records
