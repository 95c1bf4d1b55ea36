// SPDX-License-Identifier: Apache-2.0
#include <thread>

#include "libs/jobs/kinds.h"
#include "tests/unit/jobs/world.h"

namespace mainstay::jobs {
namespace {

using testing::HasProblem;
using testing::IsOk;
using testing::Sql;

constexpr char kSchema[] = R"({"type": "object", "required": ["to"], "properties": {"to": {"type": "integer"}}})";

struct Db {
  Db() : url(testing::NewMigratedDatabase()), pool({.url = url, .size = 4}) {}
  absl::Status Announce(const std::vector<KindSpec>& kinds, const std::string& by = "host:1") {
    return pool.Transaction(absl::Now() + absl::Seconds(10),
                            [&](pqxx::transaction_base& tx) { return AnnounceKinds(tx, by, kinds); });
  }
  std::vector<KindView> List() {
    std::vector<KindView> kinds;
    const absl::Status status =
        pool.Autocommit(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
          auto result = ListKinds(tx);
          if (result.ok()) kinds = *std::move(result);
          return result.status();
        });
    REQUIRE_THAT(status, IsOk());
    return kinds;
  }
  std::string url;
  postgres::Pool pool;
};

// "pointer code" of what is wrong with the arguments.
std::string Wrong(KindBook& book, const std::string& kind, const std::string& args, int version = 0) {
  const auto kinds = book.Current(absl::Now() + absl::Seconds(10));
  REQUIRE_THAT(kinds, IsOk());
  std::vector<FieldError> errors;
  (*kinds)->CheckArgs(kind, version, args, "/items/3", errors);
  std::string all;
  for (const FieldError& error : errors) absl::StrAppend(&all, all.empty() ? "" : " ", error.name, " ", error.code);
  return all;
}
bool Knows(KindBook& book, std::string_view kind) {
  const auto kinds = book.Current(absl::Now() + absl::Seconds(10));
  return kinds.ok() && (*kinds)->Knows(kind);
}

TEST_CASE("arguments are checked against what a worker announced for their kind and version, by pointer") {
  Db db;
  KindBook book(db.pool, {}, /*max_age=*/absl::ZeroDuration());
  CHECK_FALSE(Knows(book, "mail.send"));
  REQUIRE_THAT(db.Announce({{.kind = "mail.send", .schema = kSchema},
                            {.kind = "mail.send", .version = 2, .schema = R"({"type": "array"})"},
                            {.kind = "free"}}),
               IsOk());
  CHECK(Knows(book, "mail.send"));
  CHECK(Wrong(book, "mail.send", R"({"to": 7})").empty());
  CHECK(Wrong(book, "mail.send", R"({"to": "7"})") == "/items/3/args/to invalid_type");
  CHECK(Wrong(book, "mail.send", "{}") == "/items/3/args/to required");
  CHECK(Wrong(book, "mail.send", "{}", 2) == "/items/3/args invalid_type");
  CHECK(Wrong(book, "mail.send", "{}", 3).empty());
  CHECK(Wrong(book, "free", "[1]").empty());
  CHECK(Wrong(book, "free", "[1") == "/items/3/args invalid_format");
}

TEST_CASE("the last announcement counts, and a worker's own kinds are known before it") {
  Db db;
  KindBook book(db.pool, {{.kind = "own", .schema = kSchema}}, absl::ZeroDuration());
  CHECK(Knows(book, "own"));
  CHECK(Wrong(book, "own", "{}") == "/items/3/args/to required");
  REQUIRE_THAT(db.Announce({{.kind = "own", .schema = R"({"maxProperties": 0})"}}), IsOk());
  CHECK(Wrong(book, "own", "{}").empty());
  CHECK(Wrong(book, "own", R"({"to": 7})") == "/items/3/args too_many");
  REQUIRE_THAT(db.Announce({{.kind = "own"}}, "host:2"), IsOk());
  CHECK(Wrong(book, "own", R"({"to": 7})").empty());
  const auto kinds = db.List();
  REQUIRE(kinds.size() == 1);
  CHECK(kinds[0].announced_by == "host:2");
  CHECK_FALSE(kinds[0].alive);
}

TEST_CASE("a kind whose workers are away is known for a month, one that a living worker names as long as that lives") {
  Db db;
  KindBook book(db.pool, {}, absl::ZeroDuration());
  REQUIRE_THAT(db.Announce({{.kind = "old", .schema = kSchema}}), IsOk());
  Sql(db.url, "UPDATE mainstay.job_kinds SET announced_at = now() - interval '29 days'");
  CHECK(Knows(book, "old"));
  Sql(db.url, "UPDATE mainstay.job_kinds SET announced_at = now() - interval '31 days'");
  CHECK_FALSE(Knows(book, "old"));
  Sql(db.url,
      "INSERT INTO mainstay.job_workers (id, name, kinds, lease_until) VALUES (gen_random_uuid(), 'w', "
      "'{old,\"new@2\"}', "
      "now() + interval '1 minute')");
  CHECK(Knows(book, "old"));
  CHECK(Wrong(book, "old", "{}") == "/items/3/args/to required");
  CHECK(Knows(book, "new"));
  CHECK(db.List()[0].alive);
}

TEST_CASE("an announcement that is wrong anywhere is refused whole, by the field's name") {
  Db db;
  CHECK_THAT(db.Announce({{.kind = "fine"}, {.kind = "mail.send", .schema = R"({"typ": "object"})"}}),
             HasProblem("validation-failed"));
  CHECK_THAT(db.Announce({{.kind = "Mail"}}), HasProblem("validation-failed"));
  CHECK_THAT(db.Announce({{.kind = "mail", .version = -1}}), HasProblem("validation-failed"));
  CHECK(db.List().empty());
}

TEST_CASE("many callers at once read the table once in a while, not each") {
  Db db;
  REQUIRE_THAT(db.Announce({{.kind = "mail.send", .schema = kSchema}}), IsOk());
  KindBook book(db.pool, {}, absl::Hours(1));
  REQUIRE_THAT(book.Current(absl::Now() + absl::Seconds(10)), IsOk());
  REQUIRE_THAT(db.Announce({{.kind = "mail.send"}}), IsOk());
  std::vector<std::thread> callers;
  std::atomic<int> refused{0};
  for (int i = 0; i < 8; ++i) {
    callers.emplace_back([&] {
      const auto kinds = book.Current(absl::Now() + absl::Seconds(10));
      std::vector<FieldError> errors;
      if (kinds.ok()) (*kinds)->CheckArgs("mail.send", 0, "{}", "", errors);
      refused += errors.size() == 1 ? 1 : 0;
    });
  }
  for (auto& caller : callers) caller.join();
  CHECK(refused == 8);  // all by the copy of an hour
}

}  // namespace
}  // namespace mainstay::jobs
