// SPDX-License-Identifier: Apache-2.0
// Non-blocking PostgreSQL on the Asio loops (libpq): the records hot path.
//
// Two kinds of connection. *Shared* ones run in pipeline mode, two per loop: only for statements known to be cheap, for
// a slow one would hold up those behind it. Statements that begin with SELECT share a Sync with their neighbours of the
// same loop tick; one that fails takes none with it (skipped ones are sent again), but they must have no effects.
// Anything else has a Sync, and so a transaction, of its own. *Exclusive* ones are lent for a transaction or a costly
// statement, under a bounded permit with a bounded wait. All values travel as text. An object belongs to one loop and
// is used on that loop only. PostgreSQL away: calls fail at once with database-unavailable; reconnecting goes on in the
// background, never inline.
//
// A prepared statement is planned once for whatever values come: PostgreSQL by itself plans it anew each time as long
// as that looks cheaper, which costs more than to read a page by an index.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

struct pg_result;

namespace mainstay::postgres {

// SQL text that is prepared once per connection; keep it alive and share it (a plan cache holds them).
struct Sql {
  explicit Sql(std::string text);
  const std::string text;
  const uint64_t id;  // unique in the process
};
using SqlPtr = std::shared_ptr<const Sql>;
using Params = std::vector<std::optional<std::string>>;  // nullopt: NULL. No NUL bytes: refused

struct Statement {
  SqlPtr sql;
  Params params;
  // Planned for these very values instead of prepared: where the right plan depends on them (a tenant with ten rows,
  // one with ten million), or the text will hardly come again. Sessions only.
  bool planned_anew = false;
};

// Rows as text. Move-only.
class Result {
 public:
  Result() = default;
  explicit Result(pg_result* result);
  Result(Result&&) noexcept;
  Result& operator=(Result&&) noexcept;
  ~Result();
  int rows() const;
  int columns() const;
  bool IsNull(int row, int column) const;
  std::string_view Get(int row, int column) const;  // valid while this lives
  int64_t affected() const;                         // of an INSERT, UPDATE or DELETE

 private:
  pg_result* result_ = nullptr;
};

struct AsyncOptions {
  std::string url;
  std::string application_name;
  int shared_connections = 2;
  int exclusive_connections = 8;
  // Beside them, for what is known to be short. Few: while the processors are busy, more only wait in each other's way.
  int short_connections = 2;
  int max_waiting = 256;    // in each lane, for an exclusive connection; beyond it `overloaded` at once
  int max_pipelined = 256;  // in flight per shared connection; beyond it `overloaded`
  absl::Duration acquire_timeout = absl::Seconds(2);
  absl::Duration statement_timeout = absl::Seconds(5);
  bool prepare = true;  // false behind a transaction pooler that does not follow prepared statements
};

// An exclusive connection for the time of one transaction. Destroyed unfinished: rolled back, and cancelled if a
// statement still runs.
class Session {
 public:
  virtual ~Session() = default;
  // BEGIN with these words ("READ WRITE", "ISOLATION LEVEL REPEATABLE READ, READ ONLY") travels in front of the first
  // statement, without a round trip of its own.
  virtual void Begin(std::string_view mode) = 0;
  virtual boost::asio::awaitable<absl::StatusOr<Result>> Execute(Statement statement) = 0;
  // All in one round trip; fails as a whole with the first error.
  virtual boost::asio::awaitable<absl::StatusOr<std::vector<Result>>> ExecuteAll(std::vector<Statement> statements) = 0;
  // A result that must not be held whole, through a cursor: at most `rows` of it now, the next ones by FetchMore; fewer
  // than asked for: that was the end. After Begin only, one such result at a time; other statements may run between.
  virtual boost::asio::awaitable<absl::StatusOr<Result>> FetchFirst(Statement statement, int rows) = 0;
  virtual boost::asio::awaitable<absl::StatusOr<Result>> FetchMore(int rows) = 0;
  // COMMIT travels behind the next statements, without a round trip of its own. When one of them fails it is not done.
  virtual void End() = 0;
  virtual boost::asio::awaitable<absl::Status> Commit() = 0;
  virtual boost::asio::awaitable<absl::Status> Rollback() = 0;
  // From the same loop: asks the server to stop what runs (57014).
  virtual void Cancel() = 0;
};

// Which permits an exclusive connection is under: those who are short never wait for those who are not.
enum class Lane : uint8_t { kLong, kShort };

// One per loop.
class AsyncPostgres {
 public:
  static std::unique_ptr<AsyncPostgres> Create(boost::asio::io_context& loop, AsyncOptions options);
  virtual ~AsyncPostgres() = default;
  // A cheap single statement, on a shared connection. One that is given up (deadline, cancelled coroutine) still runs
  // to its end on the server. Must be awaited on the loop.
  virtual boost::asio::awaitable<absl::StatusOr<Result>> Execute(Statement statement, absl::Time deadline) = 0;
  virtual boost::asio::awaitable<absl::StatusOr<std::unique_ptr<Session>>> Acquire(absl::Time deadline, Lane lane) = 0;
  boost::asio::awaitable<absl::StatusOr<std::unique_ptr<Session>>> Acquire(absl::Time deadline) {
    return Acquire(deadline, Lane::kLong);
  }
  virtual absl::Status Health() const = 0;  // thread-safe
  // Fails what waits and closes all connections; sessions still lent end with their next use. Destroy this before the
  // loop.
  virtual void Close() = 0;
};

}  // namespace mainstay::postgres
