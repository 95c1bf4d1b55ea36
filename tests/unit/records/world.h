// SPDX-License-Identifier: Apache-2.0
// What the records tests share: a database with tables and a catalog, and the API driven through a real AsyncPostgres
// on a loop of the test's own.
#pragma once

#include <boost/asio/io_context.hpp>
#include <catch2/catch.hpp>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "libs/base/json.h"
#include "libs/catalog/model.h"
#include "libs/http/server.h"
#include "libs/postgres/async.h"
#include "libs/postgres/pool.h"
#include "libs/records/http.h"
#include "tests/support/postgres.h"
#include "tests/support/status.h"

namespace mainstay::records {

inline const std::string kCursorKey(32, 'k');
// In place of a catalog: what `mainstay init` drafts from the database.
inline const std::string kDraft = "draft";

Principal Someone(const std::string& tenant, std::vector<std::string> roles = {"admin"},
                  const std::string& subject = "key_1");

// An answer, its body parsed.
struct Answer {
  http::Response response;
  std::shared_ptr<JsonDocument> document;  // null for an empty body
  int status() const { return response.status; }
  std::string header(std::string_view name) const;
  const JsonValue& json() const { return document->root(); }
  // A member's text (strings, numbers), "null", "true", or raw JSON; "-" when absent.
  std::string operator[](std::string_view key) const;
  std::string problem() const;              // slug, "" when none
  std::vector<std::string> errors() const;  // "/price out_of_range"
};

using Headers = std::vector<std::pair<std::string, std::string>>;

// Counts what goes to PostgreSQL.
class CountingPostgres;

class World {
 public:
  // `sql`: makes the tables. `catalog`: one file; empty: the demo's shop; kDraft: what `mainstay init` drafts.
  // `role`: as which it reads and writes; empty: as the database's owner.
  explicit World(const std::string& sql = "", const std::string& catalog = "", const std::string& role = "");
  ~World();

  Answer Call(const Principal& who, const std::string& method, const std::string& target, const std::string& body = "",
              Headers headers = {});
  Answer Get(const Principal& who, const std::string& target) { return Call(who, "GET", target); }
  // Several at once on one loop.
  std::vector<Answer> CallAll(const std::vector<std::function<boost::asio::awaitable<http::Response>()>>& calls);
  boost::asio::awaitable<http::Response> Start(Principal who, std::string method, std::string target, std::string body,
                                               Headers headers);

  const catalog::Model& model() const { return *model_; }
  catalog::ModelPtr model_ptr() const { return model_; }
  const std::string& url() const { return url_; }
  std::vector<std::vector<std::string>> Sql(const std::string& sql) { return testing::Sql(url_, sql); }
  std::string Value(const std::string& sql) { return testing::SqlValue(url_, sql); }
  postgres::Pool& pool() { return *pool_; }
  boost::asio::io_context& loop() { return loop_; }
  HttpApi& api() { return api_; }
  void Use(HttpApi& api) { used_ = &api; }
  postgres::AsyncPostgres& postgres();
  // Statements sent since the last call, in order; BEGIN, COMMIT not counted.
  std::vector<std::string> TakeStatements();
  // Sends what `rewrite` makes of each statement instead: a planner with a mistake. Empty: none.
  void Rewrite(std::function<std::string(const std::string&)> rewrite);
  // Of all streamed answers: how many pieces, and the largest.
  int pieces() const { return pieces_; }
  size_t largest_piece() const { return largest_piece_; }

 private:
  std::string url_;
  catalog::ModelPtr model_;
  boost::asio::io_context loop_{1};
  std::unique_ptr<CountingPostgres> postgres_;
  std::unique_ptr<postgres::Pool> pool_;
  HttpApi api_{{.cursor_key = kCursorKey}};
  HttpApi* used_ = &api_;
  int pieces_ = 0;
  size_t largest_piece_ = 0;
};

CallContext Context(const Principal& who);

}  // namespace mainstay::records
