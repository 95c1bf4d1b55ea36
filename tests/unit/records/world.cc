// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/records/world.h"

#include <boost/asio/co_spawn.hpp>
#include <map>
#include <pqxx/pqxx>

#include "libs/base/problem.h"
#include "libs/catalog/init.h"
#include "libs/catalog/publish.h"
#include "libs/http/parser.h"
#include "tests/support/environment.h"

namespace mainstay::records {

namespace asio = boost::asio;

namespace {

class Body : public http::BodyReader {
 public:
  explicit Body(std::string text) : text_(std::move(text)) {}
  asio::awaitable<absl::StatusOr<std::string>> Read() override { co_return std::exchange(text_, ""); }
  int64_t length() const override { return static_cast<int64_t>(text_.size()); }
  void set_limit(int64_t) override {}

 private:
  std::string text_;
};

class CountingSession : public postgres::Session {
 public:
  CountingSession(std::unique_ptr<postgres::Session> session, std::function<void(postgres::Statement&)> note)
      : session_(std::move(session)), Note(std::move(note)) {}
  void Begin(std::string_view mode) override { session_->Begin(mode); }
  asio::awaitable<absl::StatusOr<postgres::Result>> Execute(postgres::Statement statement) override {
    Note(statement);
    auto result = co_await session_->Execute(std::move(statement));
    co_return result;
  }
  asio::awaitable<absl::StatusOr<std::vector<postgres::Result>>> ExecuteAll(
      std::vector<postgres::Statement> statements) override {
    for (auto& statement : statements) Note(statement);
    auto result = co_await session_->ExecuteAll(std::move(statements));
    co_return result;
  }
  asio::awaitable<absl::StatusOr<postgres::Result>> FetchFirst(postgres::Statement statement, int rows) override {
    Note(statement);
    auto result = co_await session_->FetchFirst(std::move(statement), rows);
    co_return result;
  }
  asio::awaitable<absl::StatusOr<postgres::Result>> FetchMore(int rows) override {
    auto result = co_await session_->FetchMore(rows);
    co_return result;
  }
  asio::awaitable<absl::Status> Commit() override {
    auto status = co_await session_->Commit();
    co_return status;
  }
  asio::awaitable<absl::Status> Rollback() override {
    auto status = co_await session_->Rollback();
    co_return status;
  }
  void End() override { session_->End(); }
  void Cancel() override { session_->Cancel(); }

 private:
  std::unique_ptr<postgres::Session> session_;
  const std::function<void(postgres::Statement&)> Note;
};

}  // namespace

class CountingPostgres : public postgres::AsyncPostgres {
 public:
  explicit CountingPostgres(std::unique_ptr<postgres::AsyncPostgres> real) : real_(std::move(real)) {}
  asio::awaitable<absl::StatusOr<postgres::Result>> Execute(postgres::Statement statement,
                                                            absl::Time deadline) override {
    Note(statement);
    auto result = co_await real_->Execute(std::move(statement), deadline);
    co_return result;
  }
  asio::awaitable<absl::StatusOr<std::unique_ptr<postgres::Session>>> Acquire(absl::Time deadline,
                                                                              postgres::Lane lane) override {
    auto session = co_await real_->Acquire(deadline, lane);
    if (!session.ok()) co_return session.status();
    std::unique_ptr<postgres::Session> counting = std::make_unique<CountingSession>(
        *std::move(session), [this](postgres::Statement& statement) { Note(statement); });
    co_return counting;
  }
  absl::Status Health() const override { return real_->Health(); }
  void Close() override { real_->Close(); }

  std::vector<std::string> log;
  std::function<std::string(const std::string&)> rewrite;  // what is sent instead of a statement

 private:
  void Note(postgres::Statement& statement) {
    if (statement.sql->text.starts_with("SET LOCAL")) return;
    log.push_back(statement.sql->text);
    if (!rewrite) return;
    std::string changed = rewrite(statement.sql->text);
    if (changed == statement.sql->text) return;
    postgres::SqlPtr& sql = rewritten_[changed];
    if (sql == nullptr) sql = std::make_shared<const postgres::Sql>(std::move(changed));
    statement.sql = sql;
  }

  std::unique_ptr<postgres::AsyncPostgres> real_;
  std::map<std::string, postgres::SqlPtr> rewritten_;
};

Principal Someone(const std::string& tenant, std::vector<std::string> roles, const std::string& subject) {
  return {.tenant = tenant, .subject = subject, .roles = std::move(roles)};
}

CallContext Context(const Principal& who) {
  return {.principal = who, .deadline = absl::Now() + absl::Seconds(20), .request_id = "req"};
}

std::string Answer::header(std::string_view name) const {
  for (const auto& [key, value] : response.headers)
    if (key == name) return value;
  return "";
}

std::string Answer::operator[](std::string_view key) const {
  const JsonValue* value = document == nullptr ? nullptr : json().Find(key);
  if (value == nullptr) return "-";
  return std::string(value->is_string() || value->is_number() ? value->text() : value->raw());
}

std::string Answer::problem() const {
  const std::string type = (*this)["type"];
  return type.rfind("/problems/", 0) == 0 ? type.substr(10) : "";
}

std::vector<std::string> Answer::errors() const {
  std::vector<std::string> out;
  const JsonValue* list = document == nullptr ? nullptr : json().Find("errors");
  if (list == nullptr) return out;
  for (const JsonValue& error : list->items()) {
    std::string line;
    for (std::string_view place : {"pointer", "parameter", "header"})
      if (const JsonValue* at = error.Find(place)) line = at->text();
    out.push_back(line + " " + std::string(error.Find("code")->text()));
  }
  return out;
}

namespace {
std::string Drafted(const std::string& url) {
  pqxx::connection connection(url);
  pqxx::read_transaction tx(connection);
  absl::StatusOr<std::string> draft = catalog::Draft(tx, {});
  REQUIRE_THAT(draft, testing::IsOk());
  return *std::move(draft);
}
}  // namespace

World::World(const std::string& sql, const std::string& catalog, const std::string& role) {
  url_ = testing::NewMigratedDatabase();
  std::vector<catalog::File> files;
  catalog::Variables variables;
  if (catalog.empty()) {
    testing::Sql(url_, testing::ReadFile(testing::SourceDir() + "/deploy/demo/schema.sql"));
    if (!sql.empty()) testing::Sql(url_, sql);
    auto read = catalog::ReadFolder(testing::SourceDir() + "/deploy/demo/catalog");
    REQUIRE_THAT(read, testing::IsOk());
    files = *read;
    variables = {{"payments_url", "http://127.0.0.1:9000"}};
  } else {
    testing::Sql(url_, sql);
    files = {{"catalog.yaml", catalog == kDraft ? Drafted(url_) : catalog}};
  }
  auto checked = catalog::Check(url_, files, variables);
  REQUIRE_THAT(checked, testing::IsOk());
  model_ = checked->model;
  std::string as = url_;
  if (!role.empty()) {
    REQUIRE_THAT(catalog::Publish(url_, files, variables, "test"), testing::IsOk());
    as = testing::Postgres::As(url_, role);
  }
  auto real = postgres::AsyncPostgres::Create(
      loop_, {.url = as, .application_name = "records_test", .exclusive_connections = 8});
  postgres_ = std::make_unique<CountingPostgres>(std::move(real));
  pool_ =
      std::make_unique<postgres::Pool>(postgres::PoolOptions{.url = as, .application_name = "records_test", .size = 4});
}

World::~World() {
  postgres_->Close();
  postgres_.reset();
}

postgres::AsyncPostgres& World::postgres() {
  return *postgres_;
}
void World::Rewrite(std::function<std::string(const std::string&)> rewrite) {
  postgres_->rewrite = std::move(rewrite);
}
std::vector<std::string> World::TakeStatements() {
  return std::exchange(postgres_->log, {});
}

asio::awaitable<http::Response> World::Start(Principal who, std::string method, std::string target, std::string body,
                                             Headers headers) {
  http::Request request;
  request.method = method;
  request.target = target;
  request.path = target.substr(0, target.find('?'));
  if (target.find('?') != std::string::npos) request.query = target.substr(target.find('?') + 1);
  const absl::Status decoded = http::DecodePath(request.path, request.segments);
  if (!decoded.ok()) co_return http::ProblemResponse(decoded, request);
  const bool typed =
      std::any_of(headers.begin(), headers.end(), [](const auto& header) { return header.first == "content-type"; });
  request.headers = std::move(headers);
  if (!typed && (method == "POST" || method == "PATCH" || method == "PUT" || method == "QUERY"))
    request.headers.emplace_back("content-type", "application/json");
  Body reader(std::move(body));
  request.body = &reader;
  request.request_id = "req";
  request.deadline = absl::Now() + absl::Seconds(20);
  const CallContext context = Context(who);
  http::Response response = co_await used_->Handle(request, context, model_, *postgres_);
  // A stream is read to its end, as the server would; a feed has none.
  const bool endless = std::any_of(response.headers.begin(), response.headers.end(),
                                   [](const auto& header) { return header.second == "text/event-stream"; });
  while (response.stream != nullptr && !endless) {
    absl::StatusOr<std::string> piece = co_await response.stream->Next();
    if (!piece.ok()) response.headers.emplace_back("cut", piece.status().ToString());
    if (!piece.ok() || piece->empty()) {
      response.stream.reset();
    } else {
      ++pieces_;
      largest_piece_ = std::max(largest_piece_, piece->size());
      response.body += *piece;
    }
  }
  co_return response;
}

std::vector<Answer> World::CallAll(const std::vector<std::function<asio::awaitable<http::Response>()>>& calls) {
  std::vector<Answer> out(calls.size());
  size_t left = calls.size();
  for (size_t i = 0; i < calls.size(); ++i) {
    asio::co_spawn(loop_, calls[i](), [&, i](std::exception_ptr failure, http::Response response) {
      if (failure) std::rethrow_exception(failure);
      out[i].response = std::move(response);
      if (!out[i].response.body.empty() && out[i].header("content-type").find("json") != std::string::npos &&
          out[i].header("content-type").find("ndjson") == std::string::npos) {
        auto document = JsonDocument::Parse(out[i].response.body);
        if (!document.ok()) FAIL("not JSON: " << out[i].response.body);
        out[i].document = std::make_shared<JsonDocument>(*std::move(document));
      }
      if (--left == 0) loop_.stop();
    });
  }
  loop_.restart();
  loop_.run();
  REQUIRE(left == 0);
  return out;
}

Answer World::Call(const Principal& who, const std::string& method, const std::string& target, const std::string& body,
                   Headers headers) {
  std::vector<Answer> answers = CallAll({[&] { return Start(who, method, target, body, headers); }});
  return std::move(answers[0]);
}

}  // namespace mainstay::records
