// SPDX-License-Identifier: Apache-2.0
// Each migration is one transaction that takes an advisory lock first and then looks whether it is still needed: two
// runs at once are safe, also through a transaction pooler.
#include "libs/postgres/migrations.h"

#include <libpq-fe.h>

#include <map>
#include <memory>

#include "libs/base/crypto.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/postgres/connect.h"
#include "libs/postgres/errors.h"

namespace mainstay::postgres {
namespace {

constexpr const char* kRoles[] = {"mainstay_gateway", "mainstay_webhooks", "mainstay_integrations", "mainstay_transfer",
                                  "mainstay_worker"};

// Another run may work for a while; DDL that waits for a lock holds up everybody behind it, so it gives up soon and
// tries again.
constexpr char kBegin[] =
    "BEGIN; SET LOCAL lock_timeout = '120s'; SELECT pg_advisory_xact_lock(7306632746141573); SET LOCAL lock_timeout = "
    "'3s'";
constexpr int kLockAttempts = 5;

constexpr char kBootstrap[] = R"sql(
CREATE SCHEMA IF NOT EXISTS mainstay;
REVOKE ALL ON SCHEMA mainstay FROM PUBLIC;
CREATE TABLE IF NOT EXISTS mainstay.migrations (
  domain text NOT NULL, number integer NOT NULL, title text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (domain, number)
))sql";

class Connection {
 public:
  static absl::StatusOr<Connection> Open(const std::string& url) {
    ASSIGN_OR_RETURN(const auto parameters,
                     ConnectParameters::Make({.url = url, .application_name = "mainstay migrate"}));
    ASSIGN_OR_RETURN(PGconn * raw, parameters.Connect(absl::Now() + absl::Seconds(10)));
    PQsetNoticeProcessor(
        raw, [](void*, const char*) {}, nullptr);
    return Connection(raw);
  }
  using Rows = std::vector<std::vector<std::string>>;
  // One statement with parameters, or several without.
  absl::StatusOr<Rows> Run(const std::string& sql, const std::vector<std::string>& parameters = {}) {
    std::vector<const char*> values;
    for (const auto& p : parameters) values.push_back(p.c_str());
    std::unique_ptr<PGresult, decltype(&PQclear)> result(
        parameters.empty()
            ? PQexec(raw_.get(), sql.c_str())
            : PQexecParams(raw_.get(), sql.c_str(), int(values.size()), nullptr, values.data(), nullptr, nullptr, 0),
        &PQclear);
    const ExecStatusType status = PQresultStatus(result.get());
    if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK && status != PGRES_EMPTY_QUERY)
      return StatusFromResult(result.get());
    Rows rows(PQntuples(result.get()));
    for (size_t r = 0; r < rows.size(); ++r) {
      for (int c = 0; c < PQnfields(result.get()); ++c)
        rows[r].emplace_back(PQgetvalue(result.get(), int(r), c), PQgetlength(result.get(), int(r), c));
    }
    return rows;
  }

 private:
  explicit Connection(PGconn* raw) : raw_(raw, &PQfinish) {}
  std::unique_ptr<PGconn, decltype(&PQfinish)> raw_;
};

std::string Checksum(const Migration& migration) {
  return HexEncode(Sha256(migration.sql));
}

// The whole story for the operator: what failed, and PostgreSQL's own words.
absl::Status Explain(const absl::Status& status, std::string_view what) {
  const auto error = GetSqlError(status);
  std::string message = error.has_value() ? StrCat(error->message, error->detail.empty() ? "" : "; ", error->detail,
                                                   " (SQLSTATE ", error->sqlstate, ")")
                                          : std::string(ToStd(status.message()));
  absl::Status out(error.has_value() && !IsTransient(status) ? absl::StatusCode::kFailedPrecondition : status.code(),
                   StrCat(what, ": ", message));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) { out.SetPayload(url, payload); });
  return out;
}

bool IsLockTimeout(const absl::Status& status) {
  const auto error = GetSqlError(status);
  return error.has_value() && (error->sqlstate == "55P03" || error->sqlstate == "40P01");
}

absl::Status InTransaction(Connection& connection, const std::function<absl::Status()>& body) {
  absl::Status status;
  for (int attempt = 1; attempt <= kLockAttempts; ++attempt) {
    status = connection.Run(kBegin).status();
    if (status.ok()) status = body();
    if (status.ok()) status = connection.Run("COMMIT").status();
    if (status.ok()) return status;
    (void)connection.Run("ROLLBACK");
    if (!IsLockTimeout(status)) return status;
    absl::SleepFor(absl::Milliseconds(200) * attempt);
  }
  return status;
}

// Roles belong to the whole server, so another database's run may make the same one at the same time.
absl::Status EnsureRoles(Connection& connection) {
  ASSIGN_OR_RETURN(const auto may,
                   connection.Run("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"));
  const bool may_create = !may.empty() && may[0][0] == "t";
  std::string missing;
  for (const char* role : kRoles) {
    ASSIGN_OR_RETURN(const auto found, connection.Run("SELECT 1 FROM pg_roles WHERE rolname = $1", {role}));
    if (!found.empty()) continue;
    if (!may_create) {
      StrAppend(&missing, " CREATE ROLE ", role, " LOGIN;");
      continue;
    }
    RETURN_IF_ERROR(connection
                        .Run(StrCat("DO $$ BEGIN CREATE ROLE ", role,
                                    " LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"))
                        .status());
  }
  if (!missing.empty())
    return absl::FailedPreconditionError(
        StrCat("this database user may not create roles; have an administrator run:", missing));
  std::string roles;
  for (const char* role : kRoles) StrAppend(&roles, roles.empty() ? "" : ", ", role);
  RETURN_IF_ERROR(connection.Run(StrCat("GRANT USAGE ON SCHEMA mainstay TO ", roles)).status());
  return connection.Run(StrCat("GRANT SELECT ON mainstay.migrations TO ", roles)).status();
}

using Applied = std::map<std::pair<std::string, int>, std::string>;
absl::StatusOr<Applied> ReadApplied(Connection& connection) {
  ASSIGN_OR_RETURN(const auto rows, connection.Run("SELECT domain, number, checksum FROM mainstay.migrations"));
  Applied applied;
  for (const auto& row : rows) applied[{row[0], std::stoi(row[1])}] = row[2];
  return applied;
}

}  // namespace

absl::StatusOr<std::vector<AppliedMigration>> Migrate(const std::string& url,
                                                      const std::vector<std::vector<Migration>>& domains) {
  ASSIGN_OR_RETURN(Connection connection, Connection::Open(url));
  const absl::Status bootstrap = InTransaction(connection, [&]() -> absl::Status {
    RETURN_IF_ERROR(connection.Run(kBootstrap).status());
    return EnsureRoles(connection);
  });
  if (!bootstrap.ok()) return Explain(bootstrap, "preparing schema mainstay and its roles");

  std::vector<AppliedMigration> report;
  ASSIGN_OR_RETURN(Applied applied, ReadApplied(connection));
  for (const auto& domain : domains) {
    for (const Migration& migration : domain) {
      const std::string name = StrCat("migration ", migration.domain, "/", migration.number, "_", migration.title);
      const std::string checksum = Checksum(migration);
      const std::pair<std::string, int> key{migration.domain, migration.number};
      const auto changed = [&] {
        return absl::FailedPreconditionError(
            StrCat(name, " was applied in another form: a migration is never edited once applied; add a new one"));
      };
      bool already = applied.contains(key);
      if (already && applied[key] != checksum) return changed();
      if (!already) {
        const absl::Status status = InTransaction(connection, [&]() -> absl::Status {
          ASSIGN_OR_RETURN(applied, ReadApplied(connection));  // another run may have been first
          already = applied.contains(key);
          if (already) return applied[key] == checksum ? absl::OkStatus() : changed();
          RETURN_IF_ERROR(connection.Run(migration.sql).status());
          return connection
              .Run("INSERT INTO mainstay.migrations (domain, number, title, checksum) VALUES ($1, $2::integer, $3, $4)",
                   {migration.domain, std::to_string(migration.number), migration.title, checksum})
              .status();
        });
        if (!status.ok()) return Explain(status, name);
      }
      report.push_back({migration.domain, migration.number, migration.title, already});
    }
  }
  return report;
}

absl::Status CheckSchema(const std::string& url, const std::vector<std::vector<Migration>>& domains) {
  ASSIGN_OR_RETURN(Connection connection, Connection::Open(url));
  auto applied = ReadApplied(connection);
  if (!applied.ok()) {
    const auto error = GetSqlError(applied.status());
    if (error.has_value() && (error->sqlstate == "42P01" || error->sqlstate == "3F000")) {
      return absl::FailedPreconditionError("schema mainstay is missing: run `mainstay migrate`");
    }
    return applied.status();
  }
  std::string behind;
  for (const auto& domain : domains) {
    for (const Migration& migration : domain) {
      const auto it = applied->find({migration.domain, migration.number});
      if (it == applied->end()) {
        StrAppend(&behind, behind.empty() ? "" : ", ", migration.domain, "/", migration.number);
      } else if (it->second != Checksum(migration)) {
        return absl::FailedPreconditionError(
            StrCat("migration ", migration.domain, "/", migration.number, " was applied in another form"));
      }
    }
  }
  if (behind.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      StrCat("the schema is older than this program, run `mainstay migrate`; missing: ", behind));
}

}  // namespace mainstay::postgres
