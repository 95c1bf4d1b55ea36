// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <boost/asio.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <catch2/catch.hpp>
#include <thread>

#include "libs/base/problem.h"
#include "libs/postgres/async.h"
#include "libs/postgres/errors.h"
#include "tests/support/postgres.h"
#include "tests/support/status.h"

namespace mainstay::postgres {
namespace {

namespace asio = boost::asio;
using testing::HasProblem;
using testing::IsOk;
using testing::StatusIs;

absl::Time Soon() {
  return absl::Now() + absl::Seconds(60);
}
// Past the end of any test here: what ends before it did so for another reason.
absl::Time Later() {
  return absl::Now() + absl::Minutes(10);
}

SqlPtr Text(std::string text) {
  return std::make_shared<const Sql>(std::move(text));
}

const std::string& Database() {
  static const std::string url = testing::NewDatabase();
  return url;
}

AsyncOptions Options(const std::string& url = Database()) {
  AsyncOptions options;
  options.url = url;
  options.application_name = "async test";
  return options;
}

// Runs a coroutine to its end on a loop of its own.
template <typename F>
void OnLoop(AsyncOptions options, F body) {
  asio::io_context loop(1);
  auto db = AsyncPostgres::Create(loop, std::move(options));
  bool finished = false;
  asio::co_spawn(loop, body(loop, *db), [&](std::exception_ptr error) {
    if (error != nullptr) {
      try {
        std::rethrow_exception(error);
      } catch (const std::exception& e) {
        FAIL_CHECK("the test's coroutine threw " << e.what());
      }
    }
    finished = true;
    db->Close();
    loop.stop();
  });
  loop.run_for(std::chrono::minutes(5));
  CHECK(finished);
  db.reset();
}

asio::awaitable<void> Sleep(absl::Duration duration) {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  timer.expires_after(std::chrono::milliseconds(absl::ToInt64Milliseconds(duration)));
  co_await timer.async_wait(asio::use_awaitable);
}

TEST_CASE("ten thousand queries over one connection, errors between them: each gets its own answer") {
  AsyncOptions options = Options();
  options.shared_connections = 1;
  options.max_pipelined = 20'000;
  OnLoop(options, [](asio::io_context& loop, AsyncPostgres& db) -> asio::awaitable<void> {
    const SqlPtr plain = Text("SELECT $1::int + 1, $2::text"), failing = Text("SELECT 10 / $1::int"),
                 write = Text("VALUES ($1::int)"), broken = Text("SELECT nonsense FROM nowhere");
    int done = 0, wrong = 0;
    constexpr int kQueries = 10'000;
    for (int i = 0; i < kQueries; ++i) {
      asio::co_spawn(
          loop,
          [&, i]() -> asio::awaitable<void> {
            if (i % 7 == 3) {
              Statement statement{failing, {std::string("0")}};
              auto result = co_await db.Execute(std::move(statement), Soon());
              wrong += GetSqlError(result.status()).value_or(SqlError{}).sqlstate != "22012";
            } else if (i % 97 == 5) {
              Statement statement{broken, {}};
              auto result = co_await db.Execute(std::move(statement), Soon());
              wrong += GetSqlError(result.status()).value_or(SqlError{}).sqlstate != "42P01";
            } else if (i % 5 == 1) {
              Statement statement{write, {std::to_string(i)}};
              auto result = co_await db.Execute(std::move(statement), Soon());
              wrong += !result.ok() || result->Get(0, 0) != std::to_string(i);
            } else {
              Statement statement{
                  plain,
                  {std::to_string(i), i % 2 == 0 ? std::optional<std::string>("x" + std::to_string(i)) : std::nullopt}};
              auto result = co_await db.Execute(std::move(statement), Soon());
              wrong += !result.ok() || result->rows() != 1 || result->Get(0, 0) != std::to_string(i + 1) ||
                       result->IsNull(0, 1) != (i % 2 == 1);
              if (result.ok() && i % 2 == 0) wrong += result->Get(0, 1) != "x" + std::to_string(i);
            }
            ++done;
          },
          asio::detached);
    }
    for (int i = 0; i < 3000 && done < kQueries; ++i) co_await Sleep(absl::Milliseconds(10));
    CHECK(done == kQueries);
    CHECK(wrong == 0);
    CHECK_THAT(db.Health(), IsOk());
  });
  CHECK(testing::SqlValue(Database(),
                          "SELECT count(*) < 3 FROM pg_stat_activity WHERE application_name = 'async test'") == "t");
}

TEST_CASE("a NUL byte in a parameter is refused before it is sent") {
  OnLoop(Options(), [](asio::io_context&, AsyncPostgres& db) -> asio::awaitable<void> {
    Statement statement{Text("SELECT $1::text"), {std::string("a\0b", 3)}};
    auto result = co_await db.Execute(std::move(statement), Soon());
    CHECK_THAT(result, HasProblem("validation-failed"));
  });
}

TEST_CASE("a deadline answers the caller and leaves the pipeline in order") {
  AsyncOptions options = Options();
  options.shared_connections = 1;
  OnLoop(options, [](asio::io_context&, AsyncPostgres& db) -> asio::awaitable<void> {
    const absl::Time start = absl::Now();
    Statement slow{Text("SELECT pg_sleep(0.6), 'slow'"), {}};
    auto result = co_await db.Execute(std::move(slow), start + absl::Milliseconds(100));
    CHECK_THAT(result, HasProblem("query-timeout"));
    CHECK(absl::Now() - start < absl::Milliseconds(500));
    Statement next{Text("SELECT 'next'"), {}};
    result = co_await db.Execute(std::move(next), Soon());
    REQUIRE_THAT(result, IsOk());
    CHECK(result->Get(0, 0) == "next");
  });
}

TEST_CASE("coroutines that are cancelled while their queries run take nothing with them") {
  using asio::experimental::awaitable_operators::operator||;
  AsyncOptions options = Options();
  options.shared_connections = 1;
  OnLoop(options, [](asio::io_context& loop, AsyncPostgres& db) -> asio::awaitable<void> {
    const SqlPtr sql = Text("SELECT pg_sleep(0.002), $1::int");
    int given_up = 0, right = 0, wrong = 0, done = 0;
    for (int i = 0; i < 200; ++i) {
      asio::co_spawn(
          loop,
          [&, i]() -> asio::awaitable<void> {
            Statement statement{sql, {std::to_string(i)}};
            if (i % 2 == 0) {
              auto either = co_await (db.Execute(std::move(statement), Soon()) || Sleep(absl::Milliseconds(i % 50)));
              either.index() == 1 ? ++given_up : ++right;
            } else {
              auto result = co_await db.Execute(std::move(statement), Soon());
              result.ok() && result->Get(0, 1) == std::to_string(i) ? ++right : ++wrong;
            }
            ++done;
          },
          asio::detached);
    }
    for (int i = 0; i < 1000 && done < 200; ++i) co_await Sleep(absl::Milliseconds(10));
    CHECK(done == 200);
    CHECK(wrong == 0);
    CHECK(given_up > 0);
  });
}

TEST_CASE("a table changed under a prepared statement: prepared anew, the caller notices nothing") {
  testing::Sql(Database(),
               "DROP TABLE IF EXISTS shifting; CREATE TABLE shifting (a int); INSERT INTO shifting VALUES (1)");
  AsyncOptions options = Options();
  options.shared_connections = 1;
  OnLoop(options, [](asio::io_context&, AsyncPostgres& db) -> asio::awaitable<void> {
    const SqlPtr sql = Text("SELECT * FROM shifting");
    for (const char* change :
         {"SELECT 1", "ALTER TABLE shifting ALTER a TYPE text", "ALTER TABLE shifting ADD b int DEFAULT 2"}) {
      testing::Sql(Database(), change);
      Statement statement{sql, {}};
      auto result = co_await db.Execute(std::move(statement), Soon());
      CHECK_THAT(result, IsOk());
      Statement again{sql, {}};
      auto session = co_await db.Acquire(Soon());
      REQUIRE_THAT(session, IsOk());
      (*session)->Begin("READ ONLY");
      auto inside = co_await (*session)->Execute(std::move(again));
      CHECK_THAT(inside, IsOk());
      auto committed = co_await (*session)->Commit();
      CHECK_THAT(committed, IsOk());
    }
  });
}

TEST_CASE("sessions: transactions commit, roll back when dropped, and their connection is used again") {
  testing::Sql(Database(), "DROP TABLE IF EXISTS tx; CREATE TABLE tx (n int PRIMARY KEY)");
  AsyncOptions options = Options();
  options.exclusive_connections = 1;
  OnLoop(options, [](asio::io_context&, AsyncPostgres& db) -> asio::awaitable<void> {
    const SqlPtr insert = Text("INSERT INTO tx VALUES ($1)"), pid = Text("SELECT pg_backend_pid()"),
                 count = Text("SELECT count(*) FROM tx");
    std::string backend;
    {
      auto session = co_await db.Acquire(Soon());
      REQUIRE_THAT(session, IsOk());
      (*session)->Begin("READ WRITE");
      std::vector<Statement> both;
      both.push_back({insert, {std::string("1")}});
      both.push_back({insert, {std::string("2")}});
      both.push_back({pid, {}});
      auto results = co_await (*session)->ExecuteAll(std::move(both));
      REQUIRE_THAT(results, IsOk());
      CHECK(results->at(0).affected() == 1);
      backend = std::string(results->at(2).Get(0, 0));
      auto committed = co_await (*session)->Commit();
      CHECK_THAT(committed, IsOk());
    }
    {
      auto session = co_await db.Acquire(Soon());
      REQUIRE_THAT(session, IsOk());
      (*session)->Begin("ISOLATION LEVEL REPEATABLE READ");
      Statement statement{insert, {std::string("3")}};
      auto result = co_await (*session)->Execute(std::move(statement));
      CHECK_THAT(result, IsOk());
      // dropped unfinished
    }
    {
      auto session = co_await db.Acquire(Soon());
      REQUIRE_THAT(session, IsOk());
      (*session)->Begin("");
      Statement twice{insert, {std::string("1")}};
      auto result = co_await (*session)->Execute(std::move(twice));
      CHECK_THAT(result, HasProblem("unique-violation"));
      CHECK(GetSqlError(result.status())->constraint == "tx_pkey");
      auto committed = co_await (*session)->Commit();
      CHECK_THAT(committed, HasProblem("transaction-conflict"));
      Statement check{count, {}};
      result = co_await (*session)->Execute(std::move(check));
      REQUIRE_THAT(result, IsOk());
      CHECK(result->Get(0, 0) == "2");
      Statement who{pid, {}};
      result = co_await (*session)->Execute(std::move(who));
      CHECK(result->Get(0, 0) == backend);
    }
  });
}

TEST_CASE("a transaction ends with its last statements, unless one of them fails") {
  testing::Sql(Database(), "DROP TABLE IF EXISTS ends; CREATE TABLE ends (n int PRIMARY KEY)");
  AsyncOptions options = Options();
  options.exclusive_connections = 1;
  OnLoop(options, [](asio::io_context&, AsyncPostgres& db) -> asio::awaitable<void> {
    const SqlPtr insert = Text("INSERT INTO ends VALUES ($1)"), snapshot = Text("SELECT pg_current_xact_id()::text");
    for (const bool fails : {false, true, false}) {
      testing::Sql(Database(), "DELETE FROM ends");
      auto session = co_await db.Acquire(Soon());
      REQUIRE_THAT(session, IsOk());
      (*session)->Begin("READ WRITE");
      Statement first{insert, {std::string("1")}};
      auto begun = co_await (*session)->Execute(std::move(first));
      REQUIRE_THAT(begun, IsOk());
      CHECK(testing::SqlValue(Database(), "SELECT count(*) FROM ends") == "0");
      std::vector<Statement> last;
      last.push_back({snapshot, {}});
      last.push_back({insert, {std::string(fails ? "1" : "2")}});
      (*session)->End();
      auto results = co_await (*session)->ExecuteAll(std::move(last));
      CHECK(results.ok() == !fails);
      if (results.ok()) {
        CHECK(results->size() == 2);
        CHECK(testing::SqlValue(Database(), "SELECT count(*) FROM ends") == "2");
        // The session may go on; what follows is no part of it.
        Statement after{snapshot, {}};
        auto other = co_await (*session)->Execute(std::move(after));
        REQUIRE_THAT(other, IsOk());
        CHECK(other->Get(0, 0) != results->at(0).Get(0, 0));
      }
    }
    auto session = co_await db.Acquire(Soon());
    REQUIRE_THAT(session, IsOk());
    Statement count{Text("SELECT count(*) FROM ends"), {}};
    auto counted = co_await (*session)->Execute(std::move(count));
    REQUIRE_THAT(counted, IsOk());
    CHECK(counted->Get(0, 0) == "2");
  });
}

TEST_CASE("prepared statements are planned once, for all values; those planned anew are planned for theirs") {
  AsyncOptions options = Options();
  options.shared_connections = 1;
  testing::Sql(Database(),
               "CREATE TABLE planned AS SELECT g AS n FROM generate_series(1, 20000) g; CREATE "
               "INDEX ON planned (n); ANALYZE planned");
  OnLoop(options, [](asio::io_context&, AsyncPostgres& db) -> asio::awaitable<void> {
    // Cheaper for their values than for any, as PostgreSQL estimates: by itself it would plan them every time.
    const SqlPtr behind = Text("SELECT count(*) FROM planned WHERE n > $1::int"),
                 plans = Text(
                     "SELECT sum(generic_plans), sum(custom_plans) FROM pg_prepared_statements WHERE statement "
                     "LIKE '%FROM planned%' AND statement NOT LIKE '%pg_prepared%'"),
                 mode = Text("SELECT current_setting('plan_cache_mode')");
    for (int i = 0; i < 8; ++i) {
      Statement statement{behind, {std::string("19990")}};
      auto result = co_await db.Execute(std::move(statement), Soon());
      CHECK((result.ok() && result->Get(0, 0) == "10"));
    }
    Statement asked{plans, {}};
    auto counted = co_await db.Execute(std::move(asked), Soon());
    REQUIRE_THAT(counted, IsOk());
    CHECK(counted->Get(0, 0) == "8");
    CHECK(counted->Get(0, 1) == "0");

    auto session = co_await db.Acquire(Soon());
    REQUIRE_THAT(session, IsOk());
    (*session)->Begin("READ ONLY");
    std::vector<Statement> statements;
    statements.push_back({behind, {std::string("19990")}});
    statements.push_back({.sql = mode, .params = {}, .planned_anew = true});
    (*session)->End();
    auto results = co_await (*session)->ExecuteAll(std::move(statements));
    REQUIRE_THAT(results, IsOk());
    REQUIRE(results->size() == 2);
    CHECK((*results)[0].Get(0, 0) == "10");
    CHECK((*results)[1].Get(0, 0) == "force_custom_plan");
    // Up to the end of the transaction, also of one that has a statement only.
    Statement after{mode, {}};
    auto next = co_await (*session)->Execute(std::move(after));
    REQUIRE_THAT(next, IsOk());
    CHECK(next->Get(0, 0) == "force_generic_plan");
    Statement alone{.sql = mode, .params = {}, .planned_anew = true};
    next = co_await (*session)->Execute(std::move(alone));
    REQUIRE_THAT(next, IsOk());
    CHECK(next->Get(0, 0) == "force_custom_plan");
    Statement last{mode, {}};
    next = co_await (*session)->Execute(std::move(last));
    REQUIRE_THAT(next, IsOk());
    CHECK(next->Get(0, 0) == "force_generic_plan");
  });
}

TEST_CASE("short transactions don't wait for long ones, nor the other way round") {
  AsyncOptions options = Options();
  options.exclusive_connections = 1;
  options.short_connections = 1;
  options.max_waiting = 0;
  OnLoop(options, [](asio::io_context&, AsyncPostgres& db) -> asio::awaitable<void> {
    for (int round = 0; round < 3; ++round) {
      auto held = co_await db.Acquire(Soon());
      REQUIRE_THAT(held, IsOk());
      auto refused = co_await db.Acquire(Soon());
      CHECK_THAT(refused, HasProblem("overloaded"));
      auto quick = co_await db.Acquire(Soon(), Lane::kShort);
      REQUIRE_THAT(quick, IsOk());
      auto second = co_await db.Acquire(Soon(), Lane::kShort);
      CHECK_THAT(second, HasProblem("overloaded"));
      held->reset();
      auto again = co_await db.Acquire(Soon());
      CHECK_THAT(again, IsOk());
    }
  });
}

TEST_CASE("a session's statement ends at the deadline, on the server too") {
  AsyncOptions options = Options();
  options.exclusive_connections = 1;
  OnLoop(options, [](asio::io_context&, AsyncPostgres& db) -> asio::awaitable<void> {
    {
      auto connects = co_await db.Acquire(Soon());
      REQUIRE_THAT(connects, IsOk());
    }
    {
      auto session = co_await db.Acquire(absl::Now() + absl::Milliseconds(500));
      REQUIRE_THAT(session, IsOk());
      Statement slow{Text("SELECT pg_sleep(30) /* session deadline */"), {}};
      auto result = co_await (*session)->Execute(std::move(slow));
      CHECK_THAT(result, HasProblem("query-timeout"));
    }
    auto session = co_await db.Acquire(Soon());
    REQUIRE_THAT(session, IsOk());
    Statement check{Text("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%/* session deadline */' AND state = "
                         "'active' AND pid <> pg_backend_pid()"),
                    {}};
    auto result = co_await (*session)->Execute(std::move(check));
    REQUIRE_THAT(result, IsOk());
    CHECK(result->Get(0, 0) == "0");
  });
}

TEST_CASE("a session whose coroutine is cancelled in the middle stops its statement") {
  using asio::experimental::awaitable_operators::operator||;
  OnLoop(Options(), [](asio::io_context&, AsyncPostgres& db) -> asio::awaitable<void> {
    const auto slow = [&]() -> asio::awaitable<void> {
      auto session = co_await db.Acquire(Soon());
      Statement statement{Text("SELECT pg_sleep(30) /* given up */"), {}};
      (void)co_await (*session)->Execute(std::move(statement));
    };
    co_await (slow() || Sleep(absl::Milliseconds(150)));
    std::string running;
    for (int i = 0; i < 100 && running != "0"; ++i) {
      running = testing::SqlValue(Database(),
                                  "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%/* given up */' AND state "
                                  "= 'active' AND pid <> pg_backend_pid()");
      co_await Sleep(absl::Milliseconds(20));
    }
    CHECK(running == "0");
  });
}

TEST_CASE("exclusive connections are bounded, and so is the wait for one") {
  AsyncOptions options = Options();
  options.exclusive_connections = 1;
  options.max_waiting = 1;
  options.acquire_timeout = absl::Milliseconds(150);
  OnLoop(options, [](asio::io_context& loop, AsyncPostgres& db) -> asio::awaitable<void> {
    auto held = co_await db.Acquire(Soon());
    REQUIRE_THAT(held, IsOk());
    absl::Status waited, third;
    asio::co_spawn(
        loop,
        [&]() -> asio::awaitable<void> {
          auto s = co_await db.Acquire(Soon());
          waited = s.status();
        },
        asio::detached);
    co_await Sleep(absl::Milliseconds(10));
    auto refused = co_await db.Acquire(Soon());
    CHECK_THAT(refused, HasProblem("overloaded"));
    co_await Sleep(absl::Milliseconds(300));
    CHECK_THAT(waited, HasProblem("overloaded"));
    bool got = false;
    asio::co_spawn(
        loop,
        [&]() -> asio::awaitable<void> {
          auto s = co_await db.Acquire(Soon());
          got = s.ok();
        },
        asio::detached);
    co_await Sleep(absl::Milliseconds(10));
    held->reset();
    co_await Sleep(absl::Milliseconds(50));
    CHECK(got);
  });
}

TEST_CASE("a large result comes through a cursor, piece by piece, beside other statements, and may be left") {
  OnLoop(Options(), [](asio::io_context&, AsyncPostgres& db) -> asio::awaitable<void> {
    auto session = co_await db.Acquire(Soon());
    REQUIRE_THAT(session, IsOk());
    const std::string sql = "SELECT g, repeat('x', 100) FROM generate_series(1, $1::int) g";
    Statement outside{Text(sql), {std::string("1")}};
    auto refused = co_await (*session)->FetchFirst(std::move(outside), 1);
    CHECK(refused.status().code() == absl::StatusCode::kInternal);
    (*session)->Begin("READ ONLY");
    Statement statement{Text(sql), {std::string("1025")}};
    auto rows = co_await (*session)->FetchFirst(std::move(statement), 100);
    int64_t seen = 0;
    std::string last;
    while (rows.ok() && rows->rows() > 0) {
      seen += rows->rows();
      last = rows->Get(rows->rows() - 1, 0);
      Statement between{Text("SELECT 1"), {}};
      auto one = co_await (*session)->Execute(std::move(between));
      CHECK_THAT(one, IsOk());
      rows = co_await (*session)->FetchMore(300);
    }
    CHECK_THAT(rows, IsOk());
    CHECK(seen == 1025);
    CHECK(last == "1025");
    Statement left{Text(sql), {std::string("1000000")}};
    rows = co_await (*session)->FetchFirst(std::move(left), 10);
    CHECK(rows->rows() == 10);
    auto rolled_back = co_await (*session)->Rollback();
    CHECK_THAT(rolled_back, IsOk());
    Statement next{Text("SELECT 1"), {}};
    auto result = co_await (*session)->Execute(std::move(next));
    CHECK_THAT(result, IsOk());
  });
}

TEST_CASE("large parameters and large results in both directions at once") {
  AsyncOptions options = Options();
  options.shared_connections = 1;
  OnLoop(options, [](asio::io_context& loop, AsyncPostgres& db) -> asio::awaitable<void> {
    const SqlPtr echo = Text("SELECT $1::text");
    int right = 0;
    for (int i = 0; i < 20; ++i) {
      asio::co_spawn(
          loop,
          [&, i]() -> asio::awaitable<void> {
            const std::string big(2'000'000 + i, char('a' + i));
            Statement statement{echo, {big}};
            auto result = co_await db.Execute(std::move(statement), Soon());
            right += result.ok() && result->Get(0, 0) == big;
          },
          asio::detached);
    }
    auto session = co_await db.Acquire(Soon());
    std::vector<Statement> statements;
    for (int i = 0; i < 10; ++i) statements.push_back({echo, {std::string(3'000'000, char('a' + i))}});
    auto results = co_await (*session)->ExecuteAll(std::move(statements));
    REQUIRE_THAT(results, IsOk());
    for (int i = 0; i < 10; ++i) CHECK(results->at(i).Get(0, 0) == std::string(3'000'000, char('a' + i)));
    for (int i = 0; i < 500 && right < 20; ++i) co_await Sleep(absl::Milliseconds(10));
    CHECK(right == 20);
  });
}

TEST_CASE("the server restarts under load: calls fail fast with database-unavailable, then all goes on by itself") {
  const auto server = testing::Postgres::StartOwn();
  OnLoop(Options(server->url()), [&](asio::io_context& loop, AsyncPostgres& db) -> asio::awaitable<void> {
    const SqlPtr sql = Text("SELECT $1::int");
    bool stop = false;
    int running = 0, good = 0, unavailable = 0, other = 0, wrong = 0;
    for (int c = 0; c < 16; ++c) {
      ++running;
      asio::co_spawn(
          loop,
          [&, c]() -> asio::awaitable<void> {
            while (!stop) {
              Statement statement{sql, {std::to_string(c)}};
              auto result = co_await db.Execute(std::move(statement), Later());
              if (result.ok()) {
                ++good;
                wrong += result->Get(0, 0) != std::to_string(c);
              } else {
                ProblemFromStatus(result.status()).type == "database-unavailable" ? ++unavailable : ++other;
                co_await Sleep(absl::Milliseconds(5));
              }
            }
            --running;
          },
          asio::detached);
    }
    const auto until = [](auto event) -> asio::awaitable<void> {
      for (int i = 0; i < 9000 && !event(); ++i) co_await Sleep(absl::Milliseconds(10));
      CHECK(event());
    };
    for (const bool crash : {false, true}) {
      const int answered = good, refused = unavailable;
      co_await until([&] { return good > answered && db.Health().ok(); });
      // The loop goes on until it is gone: PostgreSQL waits for a client that has connected and says nothing.
      std::atomic<bool> gone = false;
      std::thread away([&] {
        crash ? server->Kill() : server->Stop();
        gone = true;
      });
      co_await until([&] { return unavailable > refused && !db.Health().ok() && gone; });
      away.join();
      auto session = co_await db.Acquire(Later());
      CHECK_FALSE(session.ok());
      const int before = good;
      std::thread back([&] { server->Start(); });
      co_await until([&] { return good > before && db.Health().ok(); });
      back.join();
    }
    const int after = good;
    co_await until([&] { return good > after; });
    // A call that had waited for its deadline instead would have got query-timeout.
    CHECK(other == 0);
    CHECK(wrong == 0);
    stop = true;
    co_await until([&] { return running == 0; });
    // Sessions too, once their own pause after a failed attempt is over.
    absl::Status status;
    for (int i = 0; i < 100; ++i) {
      auto session = co_await db.Acquire(Soon());
      status = session.status();
      if (status.ok()) break;
      co_await Sleep(absl::Milliseconds(50));
    }
    CHECK_THAT(status, IsOk());
  });
}

TEST_CASE("destroyed with queries, sessions and waiters under way") {
  for (int round = 0; round < 5; ++round) {
    asio::io_context loop(1);
    AsyncOptions options = Options();
    options.exclusive_connections = 1;
    auto db = AsyncPostgres::Create(loop, options);
    int ended = 0;
    for (int i = 0; i < 4; ++i) {
      asio::co_spawn(
          loop,
          [&]() -> asio::awaitable<void> {
            Statement statement{Text("SELECT pg_sleep(5)"), {}};
            (void)co_await db->Execute(std::move(statement), Soon());
            ++ended;
          },
          asio::detached);
      asio::co_spawn(
          loop,
          [&]() -> asio::awaitable<void> {
            auto session = co_await db->Acquire(Soon());
            if (!session.ok()) co_return;
            Statement statement{Text("SELECT pg_sleep(5)"), {}};
            (void)co_await (*session)->Execute(std::move(statement));
          },
          asio::detached);
    }
    loop.run_for(std::chrono::milliseconds(20 * round));
    db->Close();
    if (round % 2 == 0) {
      loop.run_for(std::chrono::milliseconds(50));
      if (round > 0) CHECK(ended == 4);
    }
    db.reset();
  }
}

}  // namespace
}  // namespace mainstay::postgres
