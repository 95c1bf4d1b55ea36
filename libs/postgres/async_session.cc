// SPDX-License-Identifier: Apache-2.0
// A connection of one's own, with transactions. It is given back clean, rolled back in the background, or closed.
#include <algorithm>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <cstring>
#include <functional>

#include "absl/time/clock.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/postgres/async_core.h"
#include "libs/postgres/errors.h"

namespace mainstay::postgres::internal {
namespace {

constexpr absl::Duration kCancelGrace = absl::Seconds(1);
// Against what the connections are set to (plan_once), up to the end of the transaction.
constexpr char kPlanAnew[] = "SELECT set_config('plan_cache_mode', 'force_custom_plan', true)";

class SessionImpl final : public Session {
 public:
  SessionImpl(std::shared_ptr<Core> core, std::unique_ptr<Link> link, Lane lane, absl::Time deadline)
      : core_(std::move(core)), link_(std::move(link)), lane_(lane), deadline_(deadline), timer_(core_->loop) {}

  ~SessionImpl() override {
    const bool clean = !busy_ && !spoiled_ && !core_->closed && PQstatus(link_->connection) == CONNECTION_OK;
    if (busy_ && !core_->closed) SendCancel(PQgetCancel(link_->connection));
    const PGTransactionStatusType state = clean ? PQtransactionStatus(link_->connection) : PQTRANS_UNKNOWN;
    if (clean && state == PQTRANS_IDLE && !link_->Worn()) {
      core_->idle.push_back(std::move(link_));
      core_->ReleasePermit(lane_);
    } else if (clean && !finishing_ && (state == PQTRANS_INTRANS || state == PQTRANS_INERROR)) {
      // Rolled back in the background; the permit stays taken until then.
      auto rest = std::make_unique<SessionImpl>(core_, std::move(link_), lane_, absl::Now() + absl::Seconds(2));
      rest->finishing_ = true;
      asio::co_spawn(core_->loop, Finish(std::move(rest)), asio::detached);
    } else {
      link_->Close();
      core_->ReleasePermit(lane_);
    }
  }

  void Begin(std::string_view mode) override { begin_ = mode.empty() ? "BEGIN" : StrCat("BEGIN ", mode); }

  asio::awaitable<absl::StatusOr<Result>> Execute(Statement statement) override {
    std::vector<Statement> statements;
    statements.push_back(std::move(statement));
    absl::StatusOr<std::vector<Result>> results = co_await ExecuteAll(std::move(statements));
    if (!results.ok()) co_return results.status();
    co_return std::move(results->front());
  }

  asio::awaitable<absl::StatusOr<std::vector<Result>>> ExecuteAll(std::vector<Statement> statements) override {
    for (const Statement& statement : statements) CO_RETURN_IF_ERROR(CheckParams(statement));
    const bool anew = std::any_of(statements.begin(), statements.end(), std::mem_fn(&Statement::planned_anew));
    std::vector<Item> items;
    items.reserve(statements.size() + 2);
    if (anew) items.push_back({.text = kPlanAnew});
    for (Statement& statement : statements)
      items.push_back({.statement = &statement, .unprepared = statement.planned_anew});
    if (end_) items.push_back({.text = "COMMIT"});
    absl::StatusOr<std::vector<Result>> results = co_await Run(items);
    if (std::exchange(end_, false) && results.ok()) results->pop_back();
    if (anew && results.ok()) results->erase(results->begin());
    co_return results;
  }

  void End() override { end_ = true; }

  asio::awaitable<absl::StatusOr<Result>> FetchFirst(Statement statement, int rows) override {
    if (begin_.empty() && PQtransactionStatus(link_->connection) != PQTRANS_INTRANS)
      co_return absl::InternalError("a cursor lives in a transaction");
    CO_RETURN_IF_ERROR(CheckParams(statement));
    cursor_ = StrCat("mainstay_rows_", ++cursors_);
    Statement declare{
        std::make_shared<const Sql>(StrCat("DECLARE ", cursor_, " NO SCROLL CURSOR FOR ", statement.sql->text)),
        std::move(statement.params)};
    std::vector<Item> items;
    items.push_back({.statement = &declare, .unprepared = true});
    items.push_back({.text = FetchText(rows)});
    absl::StatusOr<std::vector<Result>> results = co_await Run(items);
    if (!results.ok()) co_return results.status();
    co_return std::move(results->back());
  }

  asio::awaitable<absl::StatusOr<Result>> FetchMore(int rows) override {
    std::vector<Item> items;
    items.push_back({.text = FetchText(rows)});
    absl::StatusOr<std::vector<Result>> results = co_await Run(items);
    if (!results.ok()) co_return results.status();
    co_return std::move(results->back());
  }

  asio::awaitable<absl::Status> Commit() override {
    if (!begin_.empty()) {  // nothing was done in it
      begin_.clear();
      co_return absl::OkStatus();
    }
    std::vector<Item> items;
    items.push_back({.text = "COMMIT"});
    absl::StatusOr<std::vector<Result>> results = co_await Run(items);
    if (!results.ok()) {
      if (!spoiled_) co_return results.status();
      auto error = GetSqlError(results.status())
                       .value_or(SqlError{.sqlstate = "08007", .message = "the commit was not confirmed"});
      error.outcome_unknown = true;
      co_return StatusFromSqlError(error);
    }
    if (rolled_back_)
      co_return MakeProblem("transaction-conflict", "the transaction had failed before and was rolled back");
    co_return absl::OkStatus();
  }

  asio::awaitable<absl::Status> Rollback() override {
    if (!begin_.empty()) {
      begin_.clear();
      co_return absl::OkStatus();
    }
    std::vector<Item> items;
    items.push_back({.text = "ROLLBACK"});
    absl::StatusOr<std::vector<Result>> results = co_await Run(items);
    co_return results.status();
  }

  void Cancel() override {
    if (!busy_) return;
    spoiled_ = true;  // a cancel that arrives late must not hit the next user's statement
    SendCancel(PQgetCancel(link_->connection));
  }

 private:
  struct Item {
    const Statement* statement = nullptr;
    std::string text;  // without parameters, never prepared
    bool unprepared = false;
    bool prepares = false, in_prepare = false;
    uint32_t generation = 0;
  };

  std::string FetchText(int rows) const { return StrCat("FETCH FORWARD ", rows, " FROM ", cursor_); }

  static asio::awaitable<void> Finish(std::unique_ptr<SessionImpl> session) {
    const absl::Status status = co_await session->Rollback();
    if (!status.ok()) session->spoiled_ = true;
  }

  // All items with one Sync, BEGIN first when it is due. Nothing throws out of here: cancellation becomes a status and
  // spoils the connection.
  asio::awaitable<absl::StatusOr<std::vector<Result>>> Run(std::vector<Item>& items) {
    if (core_->closed) co_return Unavailable("the database connections are closed");
    if (busy_) co_return absl::InternalError("a database session was used by two coroutines at once");
    if (spoiled_) co_return Unavailable("the session was lost or cancelled");
    for (int attempt = 0;; ++attempt) {
      const std::string begin = begin_;
      bool stale = false;
      absl::StatusOr<std::vector<Result>> results = Unavailable("");
      try {
        results = co_await Exchange(items, &stale);
      } catch (const std::exception& e) {
        spoiled_ = true;  // still busy_: the destructor cancels what runs
        results = absl::CancelledError("the request was given up");
      }
      const bool may_repeat = stale && attempt == 0 && !spoiled_;
      if (!may_repeat) co_return results;
      // A statement met changed tables. In a transaction that began before, what was done in it is lost; else it is
      // simply done anew.
      const PGTransactionStatusType state = PQtransactionStatus(link_->connection);
      if (state != PQTRANS_IDLE && begin.empty()) co_return results;
      if (state != PQTRANS_IDLE) {
        std::vector<Item> rollback;
        rollback.push_back({.text = "ROLLBACK"});
        bool unused = false;
        absl::StatusOr<std::vector<Result>> rolled_back = co_await Exchange(rollback, &unused);
        if (!rolled_back.ok()) co_return rolled_back;
      }
      begin_ = begin;
    }
  }

  asio::awaitable<absl::StatusOr<std::vector<Result>>> Exchange(std::vector<Item>& items, bool* stale) {
    PGconn* connection = link_->connection;
    busy_ = true;
    rolled_back_ = false;
    bool fine = true, begins = false;
    if (!begin_.empty()) {
      fine = PQsendQueryParams(connection, begin_.c_str(), 0, nullptr, nullptr, nullptr, nullptr, 0) == 1;
      begins = true;
      begin_.clear();
    }
    for (Item& item : items) {
      if (!fine) break;
      if (item.statement == nullptr) {
        fine = PQsendQueryParams(connection, item.text.c_str(), 0, nullptr, nullptr, nullptr, nullptr, 0) == 1;
      } else {
        fine =
            link_->Send(*item.statement, core_->options.prepare && !item.unprepared, &item.prepares, &item.generation);
      }
      item.in_prepare = item.prepares;
    }
    fine = fine && PQpipelineSync(connection) == 1;
    if (!fine) co_return Broken();

    absl::Time limit = deadline_;
    bool timed_out = false;
    absl::Status error;
    std::vector<Result> results(items.size());
    size_t at = 0;
    for (bool synced = false; !synced;) {
      const int unsent = PQflush(connection);
      if (unsent < 0) co_return Broken();
      if (PQisBusy(connection) == 1 || unsent > 0) {
        const bool ready = co_await WaitForSocket(unsent > 0, limit);
        if (!ready) {
          if (timed_out) co_return Broken();  // not even the cancel was answered
          timed_out = true;
          Cancel();
          limit = absl::Now() + kCancelGrace;
          continue;
        }
        if (PQconsumeInput(connection) != 1) co_return Broken();
        if (PQisBusy(connection) == 1) continue;
      }
      PGresult* raw = PQgetResult(connection);
      if (raw == nullptr) {  // the end of one command
        if (PQstatus(connection) != CONNECTION_OK) co_return Broken();
        if (begins) {
          begins = false;
        } else if (at < items.size()) {
          if (items[at].in_prepare) {
            items[at].in_prepare = false;
          } else {
            ++at;
          }
        }
        continue;
      }
      Result result(raw);
      const ExecStatusType status = PQresultStatus(raw);
      Item* item = begins || at >= items.size() ? nullptr : &items[at];
      switch (status) {
        case PGRES_PIPELINE_SYNC:
          synced = true;
          break;
        case PGRES_TUPLES_OK:
        case PGRES_COMMAND_OK:
        case PGRES_EMPTY_QUERY:
          if (item == nullptr || item->in_prepare) break;
          if (item->statement == nullptr && std::strcmp(PQcmdStatus(raw), "ROLLBACK") == 0) rolled_back_ = true;
          results[at] = std::move(result);
          break;
        case PGRES_PIPELINE_ABORTED:
        case PGRES_FATAL_ERROR:
          if (item != nullptr && item->statement != nullptr && item->in_prepare)
            link_->Forget(item->statement->sql->id, item->generation);
          if (status == PGRES_PIPELINE_ABORTED) break;
          if (error.ok()) error = StatusFromResult(raw);
          if (item != nullptr && item->statement != nullptr && !item->unprepared && IsStalePlan(raw)) {
            link_->Forget(item->statement->sql->id, item->generation);
            *stale = true;
          }
          if (PQstatus(connection) != CONNECTION_OK) {
            spoiled_ = true;
            busy_ = false;
            co_return error;
          }
          break;
        default:
          co_return Broken();
      }
    }
    busy_ = false;
    if (timed_out) co_return MakeProblem("query-timeout", "the statement was stopped at its deadline");
    if (!error.ok()) co_return error;
    co_return results;
  }

  // False: the limit has passed.
  asio::awaitable<bool> WaitForSocket(bool also_write, absl::Time limit) {
    using asio::experimental::awaitable_operators::operator||;
    const absl::Duration left = limit - absl::Now();
    if (left <= absl::ZeroDuration()) co_return false;
    const WaitLimit interrupt(timer_, link_->socket, left);
    error_code error;
    if (also_write) {
      // Both ways: the server may be waiting for us to take results before it reads on.
      co_await (link_->socket.async_wait(asio::posix::descriptor_base::wait_read,
                                         asio::redirect_error(asio::use_awaitable, error)) ||
                link_->socket.async_wait(asio::posix::descriptor_base::wait_write,
                                         asio::redirect_error(asio::use_awaitable, error)));
    } else {
      co_await link_->socket.async_wait(asio::posix::descriptor_base::wait_read,
                                        asio::redirect_error(asio::use_awaitable, error));
    }
    co_return !interrupt.expired();
  }

  absl::Status Broken() {
    spoiled_ = true;
    const char* message = PQerrorMessage(link_->connection);
    return Unavailable(message != nullptr && *message != 0 ? message : "the connection to PostgreSQL broke");
  }

  const std::shared_ptr<Core> core_;
  std::unique_ptr<Link> link_;
  const Lane lane_;
  const absl::Time deadline_;
  asio::steady_timer timer_;
  std::string begin_, cursor_;
  int cursors_ = 0;
  bool busy_ = false, spoiled_ = false, rolled_back_ = false, finishing_ = false, end_ = false;
};

}  // namespace

std::unique_ptr<Session> MakeSession(std::shared_ptr<Core> core, std::unique_ptr<Link> link, Lane lane,
                                     absl::Time deadline) {
  return std::make_unique<SessionImpl>(std::move(core), std::move(link), lane, deadline);
}

}  // namespace mainstay::postgres::internal
