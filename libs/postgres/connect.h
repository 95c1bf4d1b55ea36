// SPDX-License-Identifier: Apache-2.0
// How this library opens connections, in one place: the settings that every session has, and a connect that keeps a
// deadline.
//
// Only for libs/postgres. All settings are connection options (the startup message), so there is no SET that a lost
// session could forget.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

struct pg_conn;

namespace mainstay::postgres {

struct ConnectSettings {
  std::string url;
  std::string application_name;
  absl::Duration statement_timeout = absl::ZeroDuration();  // zero: none
  absl::Duration lock_timeout = absl::ZeroDuration();       // zero: none
  bool pin_plans = false;
  bool plan_once = false;      // prepared statements have one plan for all values (plan_cache_mode)
  bool whole_cursors = false;  // cursors are read to their end: plan them for that
};

// libpq's parameter lists, ready for PQconnectStartParams.
class ConnectParameters {
 public:
  // InvalidArgument when `url` is neither a URL nor keywords libpq understands; the message never repeats the URL (it
  // may hold a password).
  static absl::StatusOr<ConnectParameters> Make(const ConnectSettings& settings);
  // A new, unfinished connection (non-blocking connect); null only when out of memory.
  pg_conn* Start() const;
  // Starts and waits, at most until `deadline`. The caller owns the result.
  absl::StatusOr<pg_conn*> Connect(absl::Time deadline) const;

 private:
  std::vector<std::pair<std::string, std::string>> values_;
};

// Why a connection failed, as a status: database-unavailable, or overloaded when the server has no free connections.
// Names host and port, never a password.
absl::Status ConnectFailure(const pg_conn* connection, std::string_view what);

// The URL with another database: for tools that make databases.
absl::StatusOr<std::string> WithDatabase(const std::string& url, std::string_view database);

}  // namespace mainstay::postgres
