// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <catch2/catch.hpp>
#include <pqxx/pqxx>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "libs/jobs/watch.h"
#include "libs/postgres/pool.h"
#include "tests/support/postgres.h"
#include "tests/support/status.h"

namespace mainstay::jobs {
namespace {

using testing::HasProblem;
using testing::IsOk;
using testing::Sql;

struct Db {
  Db() : url(testing::NewMigratedDatabase()), pool({.url = url, .size = 2}) {}
  Uuid Add() {
    const Uuid id = NewUuid();
    Sql(url, absl::StrCat("INSERT INTO mainstay.jobs (id, kind, state, priority, max_attempts, max_crashes, tenant, "
                          "queue, args, principal) VALUES ('",
                          id.ToString(), "', 'a.b', 3, 4, 2, 3, 'acme', 'default', '{}', '{}')"));
    return id;
  }
  std::string Mark(const Uuid& id) {
    std::string mark;
    REQUIRE_THAT(pool.Autocommit(absl::Now() + absl::Seconds(10),
                                 [&](pqxx::transaction_base& tx) -> absl::Status {
                                   auto read = MarkOf(tx, id);
                                   if (read.ok()) mark = *read;
                                   return read.status();
                                 }),
                 IsOk());
    return mark;
  }
  std::string url;
  postgres::Pool pool;
};

constexpr absl::Duration kLong = absl::Seconds(30);

TEST_CASE("a change of the row wakes, once, and its end wakes those who wait for that alone") {
  Db db;
  Watcher watcher(db.pool);
  const Uuid id = db.Add();
  std::atomic<int> changed{0};
  absl::Notification first, ended;
  REQUIRE_THAT(watcher.Add({.job = id,
                            .mark = db.Mark(id),
                            .until = absl::Now() + kLong,
                            .wake =
                                [&] {
                                  ++changed;
                                  first.Notify();
                                }}),
               IsOk());
  REQUIRE_THAT(watcher.Add({.job = id,
                            .mark = db.Mark(id),
                            .only_final = true,
                            .until = absl::Now() + kLong,
                            .wake = [&] { ended.Notify(); }}),
               IsOk());
  Sql(db.url, absl::StrCat("UPDATE mainstay.jobs SET progress = '{\"percent\": 5}' WHERE id = '", id.ToString(), "'"));
  REQUIRE(first.WaitForNotificationWithTimeout(kLong));
  CHECK_FALSE(ended.HasBeenNotified());
  Sql(db.url, absl::StrCat("DELETE FROM mainstay.jobs WHERE id = '", id.ToString(), "'"));
  REQUIRE(ended.WaitForNotificationWithTimeout(kLong));
  CHECK(changed == 1);
  CHECK(watcher.watches() == 0);
  CHECK(db.Mark(id) == kFinalMark);
}

TEST_CASE("a change between reading the mark and watching is not missed") {
  Db db;
  Watcher watcher(db.pool);
  const Uuid id = db.Add();
  const std::string mark = db.Mark(id);
  Sql(db.url, absl::StrCat("UPDATE mainstay.jobs SET fence = 2 WHERE id = '", id.ToString(), "'"));
  absl::Notification woken;
  REQUIRE_THAT(watcher.Add({.job = id, .mark = mark, .until = absl::Now() + kLong, .wake = [&] { woken.Notify(); }}),
               IsOk());
  CHECK(woken.WaitForNotificationWithTimeout(kLong));
}

TEST_CASE("time wakes too, who is gone is forgotten, and there is a limit") {
  Db db;
  Watcher watcher(db.pool, 3);
  absl::Notification timed;
  REQUIRE_THAT(watcher.Add({.until = absl::Now() + absl::Milliseconds(50), .wake = [&] { timed.Notify(); }}), IsOk());
  REQUIRE(timed.WaitForNotificationWithTimeout(kLong));
  const auto gone = std::make_shared<std::atomic<bool>>(false);
  std::atomic<int> woken{0};
  for (int i = 0; i < 3; ++i)
    REQUIRE_THAT(watcher.Add({.until = absl::Now() + absl::Hours(1), .gone = gone, .wake = [&] { ++woken; }}), IsOk());
  CHECK_THAT(watcher.Add({.until = absl::Now(), .wake = [] {}}), HasProblem("overloaded"));
  *gone = true;
  const absl::Time end = absl::Now() + kLong;
  while (watcher.watches() > 0 && absl::Now() < end) absl::SleepFor(absl::Milliseconds(10));
  CHECK(watcher.watches() == 0);
  CHECK(woken == 0);
}

TEST_CASE("stopping wakes everybody and takes no more") {
  Db db;
  Watcher watcher(db.pool);
  std::atomic<int> woken{0};
  for (int i = 0; i < 5; ++i)
    REQUIRE_THAT(watcher.Add({.until = absl::Now() + absl::Hours(1), .wake = [&] { ++woken; }}), IsOk());
  watcher.Stop();
  watcher.Stop();
  CHECK(woken == 5);
  CHECK_THAT(watcher.Add({.until = absl::Now(), .wake = [] {}}), HasProblem("overloaded"));
}

TEST_CASE("while PostgreSQL is away times still run out") {
  postgres::Pool away({.url = "postgresql://nobody@127.0.0.1:1/none", .size = 1});
  Watcher watcher(away);
  absl::Notification timed;
  REQUIRE_THAT(watcher.Add({.job = NewUuid(),
                            .mark = "1",
                            .until = absl::Now() + absl::Milliseconds(100),
                            .wake = [&] { timed.Notify(); }}),
               IsOk());
  CHECK(timed.WaitForNotificationWithTimeout(kLong));
}

}  // namespace
}  // namespace mainstay::jobs
