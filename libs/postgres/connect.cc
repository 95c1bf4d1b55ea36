// SPDX-License-Identifier: Apache-2.0
#include "libs/postgres/connect.h"

#include <libpq-fe.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/postgres/errors.h"

namespace mainstay::postgres {
namespace {

using Values = std::vector<std::pair<std::string, std::string>>;

absl::StatusOr<Values> ParseUrl(const std::string& url) {
  char* error = nullptr;
  PQconninfoOption* options = PQconninfoParse(url.c_str(), &error);
  if (options == nullptr) {
    PQfreemem(error);  // it quotes parts of the URL
    return absl::InvalidArgumentError(
        "the database URL cannot be read; expected postgresql://user@host:port/database or libpq keywords");
  }
  Values values;
  for (const PQconninfoOption* o = options; o->keyword != nullptr; ++o) {
    if (o->val != nullptr) values.emplace_back(o->keyword, o->val);
  }
  PQconninfoFree(options);
  return values;
}

std::string* Find(Values& values, std::string_view keyword) {
  for (auto& [k, v] : values) {
    if (k == keyword) return &v;
  }
  return nullptr;
}

void SetDefault(Values& values, std::string_view keyword, std::string_view value) {
  if (Find(values, keyword) == nullptr) values.emplace_back(keyword, value);
}

}  // namespace

absl::StatusOr<ConnectParameters> ConnectParameters::Make(const ConnectSettings& settings) {
  ASSIGN_OR_RETURN(Values values, ParseUrl(settings.url));
  // What the text of values looks like must not depend on the server's or the user's settings.
  std::string options = "-c timezone=UTC -c datestyle=ISO,YMD -c intervalstyle=postgres -c bytea_output=hex -c jit=off";
  if (settings.statement_timeout > absl::ZeroDuration()) {
    StrAppend(&options,
              " -c statement_timeout=", std::max<int64_t>(1, absl::ToInt64Milliseconds(settings.statement_timeout)));
    // A client that stopped in the middle of a transaction must not hold its locks for ever.
    options += " -c idle_in_transaction_session_timeout=60000";
  }
  if (settings.lock_timeout > absl::ZeroDuration())
    StrAppend(&options, " -c lock_timeout=", std::max<int64_t>(1, absl::ToInt64Milliseconds(settings.lock_timeout)));
  // A client that vanished without a word is noticed by the server in half a minute, between its statements and in
  // them.
  options +=
      " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 -c tcp_user_timeout=20000 -c "
      "client_connection_check_interval=10000";
  if (settings.pin_plans) {
    options +=
        " -c enable_seqscan=off -c enable_bitmapscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c "
        "max_parallel_workers_per_gather=0";
  }
  if (settings.plan_once) options += " -c plan_cache_mode=force_generic_plan";
  if (settings.whole_cursors) options += " -c cursor_tuple_fraction=1.0";
  // The URL's own options come last: they win.
  if (std::string* own = Find(values, "options"); own != nullptr) {
    *own = StrCat(options, " ", *own);
  } else {
    values.emplace_back("options", options);
  }
  if (!settings.application_name.empty()) SetDefault(values, "application_name", settings.application_name);
  SetDefault(values, "client_encoding", "UTF8");
  // A peer that vanished without a word is noticed in half a minute, not in hours.
  SetDefault(values, "keepalives_idle", "10");
  SetDefault(values, "keepalives_interval", "5");
  SetDefault(values, "keepalives_count", "3");
  SetDefault(values, "tcp_user_timeout", "20000");
  if (const std::string* host = Find(values, "host"); host != nullptr && host->find(',') != std::string::npos) {
    SetDefault(values, "target_session_attrs", "read-write");
  }
  ConnectParameters parameters;
  parameters.values_ = std::move(values);
  return parameters;
}

pg_conn* ConnectParameters::Start() const {
  std::vector<const char*> keywords, values;
  for (const auto& [k, v] : values_) {
    keywords.push_back(k.c_str());
    values.push_back(v.c_str());
  }
  keywords.push_back(nullptr);
  values.push_back(nullptr);
  return PQconnectStartParams(keywords.data(), values.data(), /*expand_dbname=*/0);
}

absl::StatusOr<pg_conn*> ConnectParameters::Connect(absl::Time deadline) const {
  std::unique_ptr<PGconn, decltype(&PQfinish)> connection(Start(), &PQfinish);
  if (connection == nullptr) return absl::ResourceExhaustedError("out of memory while connecting to PostgreSQL");
  PostgresPollingStatusType poll = PGRES_POLLING_WRITING;
  while (PQstatus(connection.get()) != CONNECTION_BAD && poll != PGRES_POLLING_OK && poll != PGRES_POLLING_FAILED) {
    pollfd fd{PQsocket(connection.get()), short(poll == PGRES_POLLING_READING ? POLLIN : POLLOUT), 0};
    const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
    const int ready = left <= 0 ? 0 : ::poll(&fd, 1, int(std::min<int64_t>(left, 60'000)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) {
      if (absl::Now() < deadline) continue;
      return MakeProblem("database-unavailable", "PostgreSQL did not answer in time while connecting");
    }
    poll = PQconnectPoll(connection.get());
  }
  if (PQstatus(connection.get()) != CONNECTION_OK) return ConnectFailure(connection.get(), "connecting to PostgreSQL");
  return connection.release();
}

absl::Status ConnectFailure(const pg_conn* connection, std::string_view what) {
  std::string message = PQerrorMessage(connection);
  while (!message.empty() && (message.back() == '\n' || message.back() == ' ')) message.pop_back();
  std::replace(message.begin(), message.end(), '\n', ' ');
  // libpq keeps no SQLSTATE of a refused connection, only the server's sentence.
  const bool full = message.find("too many clients") != std::string::npos ||
                    message.find("remaining connection slots") != std::string::npos;
  absl::Status status =
      StatusFromSqlError({.sqlstate = full ? "53300" : "08006", .message = StrCat(what, ": ", message)});
  return status;
}

absl::StatusOr<std::string> WithDatabase(const std::string& url, std::string_view database) {
  ASSIGN_OR_RETURN(Values values, ParseUrl(url));
  std::string out = "postgresql://";
  const std::string* user = Find(values, "user");
  const std::string* password = Find(values, "password");
  if (user != nullptr) out += PercentEncode(*user);
  if (password != nullptr) StrAppend(&out, ":", PercentEncode(*password));
  if (user != nullptr || password != nullptr) out += "@";
  StrAppend(&out, "/", PercentEncode(database));
  char separator = '?';
  for (const auto& [k, v] : values) {
    if (k == "user" || k == "password" || k == "dbname") continue;
    StrAppend(&out, std::string(1, separator), k, "=", PercentEncode(v));
    separator = '&';
  }
  return out;
}

}  // namespace mainstay::postgres
