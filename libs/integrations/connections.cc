// SPDX-License-Identifier: Apache-2.0
#include "libs/integrations/connections.h"

#include <map>
#include <optional>
#include <pqxx/pqxx>
#include <tuple>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/problem.h"
#include "libs/base/strings.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"

namespace mainstay::integrations {
namespace {

constexpr absl::Duration kFresh = absl::Seconds(10), kUsable = absl::Seconds(70), kTimeout = absl::Seconds(2),
                         kUseNoted = absl::Minutes(1);
constexpr size_t kMaxRemembered = 10000;

// The tenant's own row wins over the installation's. Locks nothing. $1 tenant $2 provider $3 name
constexpr char kFindConnection[] =
    "SELECT id::text, tenant, secret, state FROM mainstay.connections WHERE tenant IN ($1, '') AND provider = $2 AND "
    "name = $3 ORDER BY tenant DESC LIMIT 1";
// $1 id
constexpr char kNoteUse[] =
    "UPDATE mainstay.connections SET last_used_at = date_trunc('minute', clock_timestamp()) WHERE id = $1::uuid AND "
    "(last_used_at IS NULL OR last_used_at < date_trunc('minute', clock_timestamp()))";

struct Row {
  std::string id, tenant, secret, state;
};

}  // namespace

struct ConnectionDirectory::Impl {
  struct Remembered {
    std::optional<Row> row;  // nullopt: there is none
    absl::Duration at, noted;
  };

  Impl(postgres::Pool& p, Clock& c) : pool(p), clock(c) {}

  absl::StatusOr<std::optional<Row>> Look(const std::string& tenant, const std::string& provider,
                                          const std::string& name) {
    const absl::Duration now = clock.Monotonic();
    std::optional<Remembered> known;
    {
      absl::MutexLock lock(&mu);
      auto found = rows.find({tenant, provider, name});
      if (found != rows.end()) known = found->second;
    }
    if (known && now - known->at < kFresh) return known->row;
    std::optional<Row> row;
    absl::Duration noted = known ? known->noted : -absl::InfiniteDuration();
    absl::Status status = pool.Autocommit(clock.Now() + kTimeout, [&](pqxx::transaction_base& tx) -> absl::Status {
      row.reset();
      pqxx::result result = tx.exec_params(kFindConnection, tenant, provider, name);
      if (!result.empty())
        row = Row{result[0][0].c_str(), result[0][1].c_str(), result[0][2].c_str(), result[0][3].c_str()};
      if (row && now - noted >= kUseNoted) tx.exec_params(kNoteUse, row->id);
      return absl::OkStatus();
    });
    if (!status.ok()) {
      if (known && now - known->at < kUsable) {
        log::Warn("connection not refreshed", {{"provider", provider}, {"reason", ToStd(status.message())}});
        return known->row;
      }
      return status;
    }
    if (row && now - noted >= kUseNoted) noted = now;
    absl::MutexLock lock(&mu);
    if (rows.size() >= kMaxRemembered) rows.clear();
    rows[{tenant, provider, name}] = {row, now, noted};
    return row;
  }

  postgres::Pool& pool;
  Clock& clock;
  absl::Mutex mu;
  std::map<std::tuple<std::string, std::string, std::string>, Remembered> rows ABSL_GUARDED_BY(mu);
};

ConnectionDirectory::ConnectionDirectory(postgres::Pool& pool, Clock& clock)
    : impl_(std::make_unique<Impl>(pool, clock)) {}
ConnectionDirectory::~ConnectionDirectory() = default;

absl::StatusOr<Credentials> ConnectionDirectory::Find(std::string_view tenant, const catalog::Provider& provider,
                                                      std::string_view connection) {
  std::string name = connection.empty() ? "default" : std::string(connection);
  if (name.size() > 100 || name.find('\0') != std::string::npos || tenant.find('\0') != std::string_view::npos)
    return MakeProblem("invalid-parameter", "the connection's name is not valid");
  absl::StatusOr<std::optional<Row>> found = impl_->Look(std::string(tenant), provider.name, name);
  if (!found.ok()) return found.status();
  if (!found->has_value()) {
    if (!connection.empty())
      return MakeProblem("not-found", StrCat("Provider ", provider.name, " has no connection \"", name, "\""));
    return Credentials{provider.auth_secret, std::string(tenant)};
  }
  const Row& row = **found;
  if (row.state != "ready")
    return MakeProblem("conflict", StrCat("Connection \"", name, "\" of provider ", provider.name, " is ", row.state));
  return Credentials{row.secret, std::string(tenant)};
}

}  // namespace mainstay::integrations
