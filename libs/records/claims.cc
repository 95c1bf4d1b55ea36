// SPDX-License-Identifier: Apache-2.0
#include "libs/records/claims.h"

#include <pqxx/pqxx>
#include <utility>
#include <vector>

#include "libs/base/text.h"
#include "libs/postgres/errors.h"

namespace mainstay::records {

namespace {

using boost::asio::awaitable;
using postgres::Result;
using postgres::Statement;

constexpr char kClaims[] =
    "SELECT set_config('mainstay.tenant', $1, true), set_config('mainstay.subject', $2, true), "
    "set_config('mainstay.roles', $3, true)";

std::string RolesOf(const Principal& principal) {
  PgArray roles;
  for (const std::string& role : principal.roles) roles.Add(role);
  return std::move(roles).Finish();
}

class ClaimsSession final : public postgres::Session {
 public:
  ClaimsSession(std::unique_ptr<postgres::Session> inner, Statement claims)
      : inner_(std::move(inner)), claims_(std::move(claims)) {}

  void Begin(std::string_view mode) override {
    inner_->Begin(mode);
    begun_ = true;
  }
  awaitable<absl::StatusOr<Result>> Execute(Statement statement) override {
    std::vector<Statement> one;
    one.push_back(std::move(statement));
    absl::StatusOr<std::vector<Result>> results = co_await ExecuteAll(std::move(one));
    if (!results.ok()) co_return results.status();
    co_return std::move(results->back());
  }
  awaitable<absl::StatusOr<std::vector<Result>>> ExecuteAll(std::vector<Statement> statements) override {
    const bool first = !claimed_;
    if (first) {
      if (!begun_) Begin("READ WRITE");
      claimed_ = true;
      statements.insert(statements.begin(), claims_);
    }
    absl::StatusOr<std::vector<Result>> results = co_await inner_->ExecuteAll(std::move(statements));
    if (results.ok() && first) results->erase(results->begin());
    co_return results;
  }
  void End() override { inner_->End(); }
  awaitable<absl::StatusOr<Result>> FetchFirst(Statement statement, int rows) override {
    if (!claimed_) {
      const absl::StatusOr<std::vector<Result>> set = co_await ExecuteAll({});
      if (!set.ok()) co_return set.status();
    }
    absl::StatusOr<Result> result = co_await inner_->FetchFirst(std::move(statement), rows);
    co_return result;
  }
  awaitable<absl::StatusOr<Result>> FetchMore(int rows) override {
    absl::StatusOr<Result> result = co_await inner_->FetchMore(rows);
    co_return result;
  }
  awaitable<absl::Status> Commit() override {
    begun_ = claimed_ = false;
    absl::Status status = co_await inner_->Commit();
    co_return status;
  }
  awaitable<absl::Status> Rollback() override {
    begun_ = claimed_ = false;
    absl::Status status = co_await inner_->Rollback();
    co_return status;
  }
  void Cancel() override { inner_->Cancel(); }

 private:
  const std::unique_ptr<postgres::Session> inner_;
  const Statement claims_;
  bool begun_ = false, claimed_ = false;
};

class ClaimsPostgres final : public postgres::AsyncPostgres {
 public:
  ClaimsPostgres(postgres::AsyncPostgres& inner, Statement claims) : inner_(inner), claims_(std::move(claims)) {}

  awaitable<absl::StatusOr<Result>> Execute(Statement statement, absl::Time deadline) override {
    absl::StatusOr<std::unique_ptr<postgres::Session>> session = co_await Acquire(deadline, postgres::Lane::kShort);
    if (!session.ok()) co_return session.status();
    absl::StatusOr<Result> result = co_await (*session)->Execute(std::move(statement));
    if (!result.ok()) co_return result.status();
    const absl::Status ended = co_await (*session)->Commit();
    if (!ended.ok()) co_return ended;
    co_return result;
  }
  using AsyncPostgres::Acquire;
  awaitable<absl::StatusOr<std::unique_ptr<postgres::Session>>> Acquire(absl::Time deadline,
                                                                        postgres::Lane lane) override {
    absl::StatusOr<std::unique_ptr<postgres::Session>> session = co_await inner_.Acquire(deadline, lane);
    if (!session.ok()) co_return session.status();
    std::unique_ptr<postgres::Session> claiming = std::make_unique<ClaimsSession>(*std::move(session), claims_);
    co_return claiming;
  }
  absl::Status Health() const override { return inner_.Health(); }
  void Close() override { inner_.Close(); }

 private:
  postgres::AsyncPostgres& inner_;
  const Statement claims_;
};

}  // namespace

absl::Status SetClaims(pqxx::transaction_base& tx, const catalog::Model& model, const CallContext& context) try {
  if (!model.row_security) return absl::OkStatus();
  tx.exec_params(kClaims, context.principal.tenant, context.principal.subject, RolesOf(context.principal));
  return absl::OkStatus();
} catch (...) {
  return postgres::StatusFromCurrentException();
}

std::unique_ptr<postgres::AsyncPostgres> WithClaims(postgres::AsyncPostgres& inner, const catalog::Model& model,
                                                    const CallContext& context) {
  if (!model.row_security) return nullptr;
  static const postgres::SqlPtr kSql = std::make_shared<const postgres::Sql>(kClaims);
  const Principal& principal = context.principal;
  return std::make_unique<ClaimsPostgres>(inner,
                                          Statement{kSql, {principal.tenant, principal.subject, RolesOf(principal)}});
}

}  // namespace mainstay::records
