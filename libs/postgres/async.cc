// SPDX-License-Identifier: Apache-2.0
// The face of it: statements go to the shared connection that has least to do, sessions come from the core.
#include "libs/postgres/async.h"

#include <algorithm>
#include <atomic>
#include <charconv>

#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/postgres/async_core.h"

namespace mainstay::postgres {
namespace {

using namespace internal;

bool BeginsWithSelect(std::string_view sql) {
  while (!sql.empty() && (sql.front() == ' ' || sql.front() == '\n' || sql.front() == '\t')) sql.remove_prefix(1);
  static constexpr std::string_view kSelect = "select";
  if (sql.size() < kSelect.size()) return false;
  for (size_t i = 0; i < kSelect.size(); ++i) {
    if ((sql[i] | 0x20) != kSelect[i]) return false;
  }
  return true;
}

class AsyncPostgresImpl final : public AsyncPostgres {
 public:
  AsyncPostgresImpl(asio::io_context& loop, AsyncOptions options)
      : core_(std::make_shared<Core>(loop, std::move(options))) {
    for (auto& connection : core_->shared) connection->Start();
  }
  ~AsyncPostgresImpl() override { core_->Close(); }

  asio::awaitable<absl::StatusOr<Result>> Execute(Statement statement, absl::Time deadline) override {
    CO_RETURN_IF_ERROR(CheckParams(statement));
    Shared* best = nullptr;
    bool full = false;
    for (auto& connection : core_->shared) {
      if (!connection->usable()) continue;
      if (connection->load() >= size_t(core_->options.max_pipelined)) {
        full = true;
        continue;
      }
      if (best == nullptr || connection->load() < best->load()) best = connection.get();
    }
    if (core_->closed) co_return Unavailable("the database connections are closed");
    if (best == nullptr) {
      if (full)
        co_return MakeProblem({.type = "overloaded",
                               .detail = "too many requests wait for the database",
                               .retry_after = absl::Seconds(1)});
      co_return core_->WhyUnavailable();
    }
    auto op = std::make_shared<Operation>();
    op->alone = !BeginsWithSelect(statement.sql->text);
    op->statement = std::move(statement);
    op->deadline = deadline;
    auto start = [op, best, core = core_](std::unique_ptr<Waiter<absl::StatusOr<Result>>> waiter) {
      op->waiter = std::move(waiter);
      best->Submit(op);
      core->StartSweeping();
    };
    auto cancel = [op, core = core_] {
      if (op->waiter != nullptr)
        PostComplete<absl::StatusOr<Result>>(core->loop, std::move(op->waiter),
                                             absl::CancelledError("the request was given up"));
    };
    co_return co_await Suspend<absl::StatusOr<Result>>(std::move(start), std::move(cancel));
  }

  asio::awaitable<absl::StatusOr<std::unique_ptr<Session>>> Acquire(absl::Time deadline, Lane lane) override {
    return core_->Acquire(deadline, lane);
  }
  absl::Status Health() const override { return core_->GetHealth(); }
  void Close() override { core_->Close(); }

 private:
  const std::shared_ptr<Core> core_;
};

std::atomic<uint64_t> next_sql_id{1};

}  // namespace

Sql::Sql(std::string t) : text(std::move(t)), id(next_sql_id++) {}

Result::Result(pg_result* result) : result_(result) {}
Result::Result(Result&& other) noexcept : result_(std::exchange(other.result_, nullptr)) {}
Result& Result::operator=(Result&& other) noexcept {
  if (this != &other) {
    PQclear(result_);
    result_ = std::exchange(other.result_, nullptr);
  }
  return *this;
}
Result::~Result() {
  PQclear(result_);
}
int Result::rows() const {
  return PQntuples(result_);
}
int Result::columns() const {
  return PQnfields(result_);
}
bool Result::IsNull(int row, int column) const {
  return PQgetisnull(result_, row, column) == 1;
}
std::string_view Result::Get(int row, int column) const {
  return {PQgetvalue(result_, row, column), size_t(PQgetlength(result_, row, column))};
}
int64_t Result::affected() const {
  const std::string_view text = result_ == nullptr ? "" : PQcmdTuples(result_);
  int64_t n = 0;
  std::from_chars(text.data(), text.data() + text.size(), n);
  return n;
}

std::unique_ptr<AsyncPostgres> AsyncPostgres::Create(asio::io_context& loop, AsyncOptions options) {
  return std::make_unique<AsyncPostgresImpl>(loop, std::move(options));
}

}  // namespace mainstay::postgres
