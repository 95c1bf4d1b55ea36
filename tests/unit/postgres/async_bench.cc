// SPDX-License-Identifier: Apache-2.0
// Reads by primary key through the shared connections alone, without HTTP or JSON: what the records hot path can hope
// for at most. Arguments: loops, coroutines per loop, seconds.
#include <atomic>
#include <boost/asio.hpp>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "absl/time/clock.h"
#include "libs/postgres/async.h"
#include "tests/support/postgres.h"

namespace asio = boost::asio;
using namespace mainstay;

int main(int argc, char** argv) {
  const int loops = argc > 1 ? std::atoi(argv[1]) : 2, callers = argc > 2 ? std::atoi(argv[2]) : 32,
            seconds = argc > 3 ? std::atoi(argv[3]) : 3;
  const std::string url = testing::NewDatabase();
  testing::Sql(url,
               "CREATE TABLE t (id bigint PRIMARY KEY, a text, b text, c numeric(12,2), d timestamptz, e boolean, f "
               "int, g text, h text, i date);"
               "INSERT INTO t SELECT g, 'name ' || g, 'mail' || g || '@example.com', g / 100.0, now(), g % 2 = 0, g, "
               "'x', 'y', now() FROM generate_series(1, 100000) g; ANALYZE t");
  const auto sql = std::make_shared<const postgres::Sql>("SELECT id, a, b, c, d, e, f, g, h, i FROM t WHERE id = $1");
  std::atomic<int64_t> done{0}, failed{0};
  std::atomic<bool> counting{false};
  std::vector<std::thread> threads;
  for (int l = 0; l < loops; ++l) {
    threads.emplace_back([&, l] {
      asio::io_context loop(1);
      postgres::AsyncOptions options;
      options.url = url;
      options.application_name = "bench";
      auto db = postgres::AsyncPostgres::Create(loop, options);
      for (int c = 0; c < callers; ++c) {
        asio::co_spawn(
            loop,
            [&, c]() -> asio::awaitable<void> {
              uint64_t random = uint64_t(l) * 7919 + uint64_t(c) * 104729 + 1;
              for (;;) {
                random = random * 6364136223846793005u + 1442695040888963407u;
                postgres::Statement statement{sql, {}};
                statement.params.emplace_back(std::to_string(1 + (random >> 33) % 100000));
                auto result = co_await db->Execute(std::move(statement), absl::Now() + absl::Seconds(5));
                if (counting) ++(result.ok() && result->rows() == 1 ? done : failed);
              }
            },
            asio::detached);
      }
      loop.run_for(std::chrono::seconds(seconds + 1));
      db->Close();
      loop.run_for(std::chrono::milliseconds(0));
    });
  }
  absl::SleepFor(absl::Milliseconds(700));
  counting = true;
  const int64_t before = done;
  const absl::Time start = absl::Now();
  absl::SleepFor(absl::Milliseconds(1000 * seconds - 800));
  const double rate = double(done - before) / absl::ToDoubleSeconds(absl::Now() - start);
  std::printf("%.0f reads/s, %lld failed (%d loops x 2 connections, %d callers each)\n", rate,
              static_cast<long long>(failed), loops, callers);
  std::fflush(stdout);
  std::_Exit(0);
}
