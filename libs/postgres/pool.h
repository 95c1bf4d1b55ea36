// SPDX-License-Identifier: Apache-2.0
// Blocking PostgreSQL: a bounded pool of libpqxx connections for services that may wait on a thread.
//
// PostgreSQL away: Acquire fails fast with database-unavailable while one connection at a time probes with backoff;
// nothing exits, nothing hangs past its deadline. A connection that broke is thrown away (libpqxx would silently reopen
// it without its settings). No session state outlives a transaction, so a transaction pooler may stand between.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"

namespace pqxx {
class transaction_base;
}

namespace mainstay::postgres {

struct PoolOptions {
  std::string url;               // libpq URL or keywords
  std::string application_name;  // seen in pg_stat_activity
  int size = 8;
  // Waiting longer than this for a connection is `overloaded`.
  absl::Duration acquire_timeout = absl::Seconds(2);
  absl::Duration max_lifetime = absl::Minutes(30);
  absl::Duration statement_timeout = absl::Seconds(10);  // a connection option, not a statement per call
  // A statement that waits longer for a lock fails with transaction-conflict (IsLockTimeout). Zero: as the statement.
  absl::Duration lock_timeout = absl::ZeroDuration();
  // Turns sequential and bitmap scans, hash and merge joins and parallel workers off: for the engine's statements,
  // whose plans must not depend on when they were prepared.
  bool pin_plans = false;
};

class Pool {
 public:
  explicit Pool(PoolOptions options);
  ~Pool();

  // Runs `body` in one transaction: commits when it returns OK, rolls back otherwise. Exceptions of libpqxx become
  // statuses (errors.h). Serialization failures and deadlocks run `body` again, up to 3 times, so it must not have
  // effects outside the transaction. The deadline bounds the wait for a connection and cancels a running statement.
  absl::Status Transaction(absl::Time deadline, absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body);
  // The same without BEGIN/COMMIT round trips: for single statements.
  absl::Status Autocommit(absl::Time deadline, absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body);
  // Read-only, REPEATABLE READ: all statements see one snapshot.
  absl::Status Snapshot(absl::Time deadline, absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body);

  // For readiness: OK, or why the last attempt failed.
  absl::Status Health() const;
  int in_use() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mainstay::postgres
