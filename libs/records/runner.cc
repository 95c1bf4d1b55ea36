// SPDX-License-Identifier: Apache-2.0
#include "libs/records/runner.h"

#include <pqxx/pqxx>

#include "libs/base/status.h"
#include "libs/postgres/errors.h"

namespace mainstay::records {
namespace {

class ResultRows : public Rows {
 public:
  explicit ResultRows(postgres::Result result) : result_(std::move(result)) {}
  int rows() const override { return result_.rows(); }
  bool IsNull(int row, int column) const override { return result_.IsNull(row, column); }
  std::string_view Get(int row, int column) const override { return result_.Get(row, column); }
  int64_t affected() const override { return result_.affected(); }

 private:
  postgres::Result result_;
};

class PqxxRows : public Rows {
 public:
  explicit PqxxRows(const pqxx::result& result) : result_(result) {}
  int rows() const override { return static_cast<int>(result_.size()); }
  bool IsNull(int row, int column) const override { return result_[row][column].is_null(); }
  std::string_view Get(int row, int column) const override {
    const pqxx::field field = result_[row][column];
    return {field.c_str(), field.size()};  // libpq's own buffer, which the result keeps
  }
  int64_t affected() const override { return static_cast<int64_t>(result_.affected_rows()); }

 private:
  pqxx::result result_;
};

class SessionRunner : public Runner {
 public:
  SessionRunner(postgres::Session& session, std::shared_ptr<SqlCache> cache)
      : session_(session), cache_(std::move(cache)) {}
  using Runner::Run;
  boost::asio::awaitable<absl::StatusOr<RowsPtr>> Run(postgres::Statement statement) override {
    absl::StatusOr<postgres::Result> result = co_await session_.Execute(std::move(statement));
    if (!result.ok()) co_return result.status();
    co_return WrapResult(*std::move(result));
  }
  boost::asio::awaitable<absl::StatusOr<std::vector<RowsPtr>>> RunAll(
      std::vector<postgres::Statement> statements) override {
    absl::StatusOr<std::vector<postgres::Result>> results = co_await session_.ExecuteAll(std::move(statements));
    if (!results.ok()) co_return results.status();
    std::vector<RowsPtr> out;
    for (postgres::Result& result : *results) out.push_back(WrapResult(std::move(result)));
    co_return out;
  }
  void End() override { session_.End(); }

 private:
  postgres::SqlPtr Share(std::string sql) override { return cache_->Get(std::move(sql)); }
  postgres::Session& session_;
  const std::shared_ptr<SqlCache> cache_;
};

class SharedRunner : public Runner {
 public:
  SharedRunner(postgres::AsyncPostgres& postgres, std::shared_ptr<SqlCache> cache, absl::Time deadline)
      : postgres_(postgres), cache_(std::move(cache)), deadline_(deadline) {}
  using Runner::Run;
  boost::asio::awaitable<absl::StatusOr<RowsPtr>> Run(postgres::Statement statement) override {
    absl::StatusOr<postgres::Result> result = co_await postgres_.Execute(std::move(statement), deadline_);
    if (!result.ok()) co_return result.status();
    co_return WrapResult(*std::move(result));
  }

 private:
  postgres::SqlPtr Share(std::string sql) override { return cache_->Get(std::move(sql)); }
  postgres::AsyncPostgres& postgres_;
  const std::shared_ptr<SqlCache> cache_;
  const absl::Time deadline_;
};

class TransactionRunner : public Runner {
 public:
  explicit TransactionRunner(pqxx::transaction_base& tx) : tx_(tx) {}
  using Runner::Run;
  boost::asio::awaitable<absl::StatusOr<RowsPtr>> Run(postgres::Statement statement) override {
    co_return Blocking(statement.sql->text, statement.params);
  }

 private:
  absl::StatusOr<RowsPtr> Blocking(const std::string& sql, const postgres::Params& params) {
    std::vector<const char*> values;
    values.reserve(params.size());
    for (const auto& param : params) {
      if (param.has_value()) RETURN_IF_ERROR(postgres::CheckText(*param));
      values.push_back(param.has_value() ? param->c_str() : nullptr);
    }
    try {
      return std::make_unique<PqxxRows>(
          params.empty() ? tx_.exec(sql) : tx_.exec_params(sql, pqxx::prepare::make_dynamic_params(values)));
    } catch (...) {
      return postgres::StatusFromCurrentException();
    }
  }
  pqxx::transaction_base& tx_;
};

}  // namespace

boost::asio::awaitable<absl::StatusOr<std::vector<RowsPtr>>> Runner::RunAll(
    std::vector<postgres::Statement> statements) {
  std::vector<RowsPtr> out;
  for (postgres::Statement& statement : statements) {
    absl::StatusOr<RowsPtr> rows = co_await Run(std::move(statement));
    if (!rows.ok()) co_return rows.status();
    out.push_back(*std::move(rows));
  }
  co_return out;
}

std::unique_ptr<Runner> OnSession(postgres::Session& session, std::shared_ptr<SqlCache> cache) {
  return std::make_unique<SessionRunner>(session, std::move(cache));
}
std::unique_ptr<Runner> OnShared(postgres::AsyncPostgres& postgres, std::shared_ptr<SqlCache> cache,
                                 absl::Time deadline) {
  return std::make_unique<SharedRunner>(postgres, std::move(cache), deadline);
}
std::unique_ptr<Runner> OnTransaction(pqxx::transaction_base& tx) {
  return std::make_unique<TransactionRunner>(tx);
}
RowsPtr WrapResult(postgres::Result result) {
  return std::make_unique<ResultRows>(std::move(result));
}

}  // namespace mainstay::records
