// SPDX-License-Identifier: Apache-2.0
// Internal: where statements run. The readers and the merge are written once, as coroutines over a Runner: on the Asio
// loops they suspend, over libpqxx they never do.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/postgres/async.h"
#include "libs/records/prepared.h"

namespace pqxx {
class transaction_base;
}

namespace mainstay::records {

// Rows as text.
class Rows {
 public:
  virtual ~Rows() = default;
  virtual int rows() const = 0;
  virtual bool IsNull(int row, int column) const = 0;
  virtual std::string_view Get(int row, int column) const = 0;
  virtual int64_t affected() const = 0;
};
using RowsPtr = std::unique_ptr<Rows>;

class Runner {
 public:
  virtual ~Runner() = default;
  virtual boost::asio::awaitable<absl::StatusOr<RowsPtr>> Run(postgres::Statement statement) = 0;
  boost::asio::awaitable<absl::StatusOr<RowsPtr>> Run(std::string sql, postgres::Params params) {
    return Run({.sql = Share(std::move(sql)), .params = std::move(params)});
  }
  // The same, planned for these very values (postgres::Statement::planned_anew).
  boost::asio::awaitable<absl::StatusOr<RowsPtr>> RunAnew(std::string sql, postgres::Params params) {
    return Run({.sql = std::make_shared<const postgres::Sql>(std::move(sql)),
                .params = std::move(params),
                .planned_anew = true});
  }
  // In one round trip where it can be; fails as a whole.
  virtual boost::asio::awaitable<absl::StatusOr<std::vector<RowsPtr>>> RunAll(
      std::vector<postgres::Statement> statements);
  // The next statements are the transaction's last (postgres::Session::End).
  virtual void End() {}

 private:
  // A text that others may run as well.
  virtual postgres::SqlPtr Share(std::string sql) { return std::make_shared<const postgres::Sql>(std::move(sql)); }
};

std::unique_ptr<Runner> OnSession(postgres::Session& session, std::shared_ptr<SqlCache> cache);
// Single statements on the shared connections.
std::unique_ptr<Runner> OnShared(postgres::AsyncPostgres& postgres, std::shared_ptr<SqlCache> cache,
                                 absl::Time deadline);
std::unique_ptr<Runner> OnTransaction(pqxx::transaction_base& tx);
RowsPtr WrapResult(postgres::Result result);

// Runs a coroutine that never waits for a loop (its Runner blocks) to its end.
template <typename T>
T RunBlocking(boost::asio::awaitable<T> work) {
  boost::asio::io_context loop(1);
  std::optional<T> out;
  std::exception_ptr failure;
  boost::asio::co_spawn(loop, std::move(work), [&](const std::exception_ptr& error, T value) {
    failure = error;
    out = std::move(value);
  });
  loop.run();
  if (failure) std::rethrow_exception(failure);
  return *std::move(out);
}

}  // namespace mainstay::records
