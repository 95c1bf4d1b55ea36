// SPDX-License-Identifier: Apache-2.0
#include <thread>

#include "libs/jobs/stats.h"
#include "tests/unit/jobs/world.h"

namespace mainstay::jobs {
namespace {

using testing::IsOk;
using testing::Sql;
using testing::SqlValue;

struct Db {
  Db() : url(testing::NewMigratedDatabase()), pool({.url = url, .size = 6}) {}
  absl::Time soon() const { return absl::Now() + absl::Seconds(10); }
  std::vector<QueueFigures> Read(const std::optional<std::string>& queue = std::nullopt, bool by_kind = false) {
    absl::StatusOr<std::vector<QueueFigures>> figures;
    REQUIRE_THAT(pool.Autocommit(soon(),
                                 [&](pqxx::transaction_base& tx) {
                                   figures = ReadFigures(tx, queue, by_kind);
                                   return figures.status();
                                 }),
                 IsOk());
    return *figures;
  }
  std::string url;
  postgres::Pool pool;
};

TEST_CASE("runs of several workers add up, by queue and by kind") {
  Db db;
  StatsAccumulator one, two;
  for (int i = 0; i < 10; ++i)
    one.Add("mail", "mail.send", RunOutcome::kSucceeded, absl::Milliseconds(3), absl::Seconds(2));
  one.Add("mail", "mail.check", RunOutcome::kDead, absl::Seconds(-1), absl::Milliseconds(1));
  two.Add("mail", "mail.send", RunOutcome::kFailed, absl::Milliseconds(3), absl::Seconds(40));
  two.Add("other", "mail.send", RunOutcome::kSnoozed, absl::ZeroDuration(), absl::ZeroDuration());
  REQUIRE_THAT(one.Flush(db.pool, db.soon()), IsOk());
  REQUIRE_THAT(two.Flush(db.pool, db.soon()), IsOk());
  REQUIRE_THAT(two.Flush(db.pool, db.soon()), IsOk());  // nothing new, nothing counted twice

  const auto mail = db.Read("mail");
  REQUIRE(mail.size() == 1);
  CHECK(mail[0].minute.outcomes == std::array<int64_t, 5>{10, 1, 1, 0, 0});
  CHECK(mail[0].quarter.runs() == 12);
  CHECK(mail[0].minute.seconds >= 50);
  CHECK(mail[0].minute.seconds <= 61);
  CHECK(mail[0].minute.ran.count() == 12);
  CHECK(mail[0].minute.ran.seconds == Approx(60.001));
  CHECK(*mail[0].minute.queued.Quantile(0.5) == Approx(0.004).margin(0.0016));
  CHECK(*mail[0].minute.ran.Quantile(0.99) > 30);
  CHECK(db.Read(std::nullopt).size() == 2);
  const auto kinds = db.Read("mail", true);
  REQUIRE(kinds.size() == 2);
  CHECK(kinds[0].kind == "mail.check");
  CHECK(kinds[1].minute.runs() == 11);
}

TEST_CASE("older slots leave the spans they are too old for, and go after an hour") {
  Db db;
  StatsAccumulator stats;
  stats.Add("q", "k", RunOutcome::kSucceeded, absl::ZeroDuration(), absl::ZeroDuration());
  REQUIRE_THAT(stats.Flush(db.pool, db.soon()), IsOk());
  for (const char* age : {"120 seconds", "600 seconds", "1200 seconds", "2 hours"}) {
    Sql(db.url,
        absl::StrCat("INSERT INTO mainstay.job_stats (slot, queue, kind, succeeded, queued, ran) SELECT min(slot) "
                     "- interval '",
                     age, "', 'q', 'k', 1, '{}', '{}' FROM (SELECT max(slot) AS slot FROM mainstay.job_stats) s"));
  }
  const auto q = db.Read("q");
  REQUIRE(q.size() == 1);
  CHECK(q[0].minute.runs() == 1);
  CHECK(q[0].five_minutes.runs() == 2);
  CHECK(q[0].quarter.runs() == 3);
  StatsAccumulator another;
  another.Add("q", "k", RunOutcome::kSucceeded, absl::ZeroDuration(), absl::ZeroDuration());
  REQUIRE_THAT(another.Flush(db.pool, db.soon()), IsOk());
  CHECK(SqlValue(db.url, "SELECT count(*) FROM mainstay.job_stats WHERE slot < now() - interval '1 hour'") == "0");
}

TEST_CASE("what could not be written is written the next time, with what came meanwhile") {
  Db db;
  StatsAccumulator stats;
  stats.Add("q", "k", RunOutcome::kSucceeded, absl::Seconds(1), absl::Seconds(1));
  postgres::Pool away({.url = "postgresql://nobody@127.0.0.1:1/none", .size = 1});
  CHECK_FALSE(stats.Flush(away, absl::Now() + absl::Seconds(2)).ok());
  stats.Add("q", "k", RunOutcome::kDead, absl::Seconds(1), absl::Seconds(1));
  REQUIRE_THAT(stats.Flush(db.pool, db.soon()), IsOk());
  const auto q = db.Read("q");
  REQUIRE(q.size() == 1);
  CHECK(q[0].minute.outcomes == std::array<int64_t, 5>{1, 0, 1, 0, 0});
  CHECK(q[0].minute.queued.seconds == Approx(2));
}

TEST_CASE("many workers flush at once and every run is counted") {
  Db db;
  std::vector<std::thread> workers;
  for (int w = 0; w < 4; ++w) {
    workers.emplace_back([&, w] {
      StatsAccumulator stats;
      for (int round = 0; round < 20; ++round) {
        for (int i = 0; i < 30; ++i)
          stats.Add(absl::StrCat("q", (i + w) % 7), absl::StrCat("k", i % 5), RunOutcome::kSucceeded,
                    absl::ZeroDuration(), absl::ZeroDuration());
        CHECK_THAT(stats.Flush(db.pool, db.soon()), IsOk());
      }
    });
  }
  for (auto& worker : workers) worker.join();
  CHECK(SqlValue(db.url, "SELECT sum(succeeded) FROM mainstay.job_stats") == "2400");
  CHECK(SqlValue(db.url, "SELECT sum(n) FROM mainstay.job_stats, unnest(ran) n") == "2400");
}

TEST_CASE("fingerprints are the same for the same failure and differ for another") {
  Db db;
  auto print = [&](const std::string& code, const std::string& message) {
    return SqlValue(db.url, absl::StrCat("SELECT mainstay.job_fingerprint('", code, "', '", message, "')"));
  };
  const std::string one = print("timeout", "order 42 of job_01jc8z4v0m2k7x5c9q3b6t8w1e: no answer in 30.5 s");
  CHECK(one.size() == 16);
  CHECK(one == print("timeout", "order 1234567 of job_01jc8z4v0m2k7x5c9q3b6t8w9z: no answer in 7 s"));
  CHECK(print("e", "row 1b4e28ba-2fa1-11d2-883f-0016d3cca427 at 0xdeadbeef") ==
        print("e", "row 6fa459ea-ee8a-3ca4-894e-db77e160355e at 0x1"));
  CHECK(print("e", "at 2026-01-02T03:04:05.678Z") == print("e", "at 2025-11-12T13:14:15Z"));
  CHECK(one != print("refused", "order 42 of job_01jc8z4v0m2k7x5c9q3b6t8w1e: no answer in 30.5 s"));
  CHECK(print("e", "no such customer") != print("e", "no such order"));
  CHECK(print("e", "Größe 5 fehlt") == print("e", "Größe 6 fehlt"));
  CHECK(SqlValue(db.url, "SELECT length(mainstay.job_fingerprint(NULL, NULL))") == "16");
}

}  // namespace
}  // namespace mainstay::jobs
