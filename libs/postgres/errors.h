// SPDX-License-Identifier: Apache-2.0
// SQLSTATE → absl::Status, in one place. The status carries the SQLSTATE and, where PostgreSQL names them, constraint,
// table and column, for the layer that can translate them into the user's names; nothing of that is in the message a
// client sees.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

struct pg_result;

namespace mainstay::postgres {

struct SqlError {
  std::string sqlstate, message, detail, schema, table, column, constraint;
  bool outcome_unknown = false;
};

// The problem of the table in the API conventions (23505 → unique-violation, 57014 → query-timeout, 08* →
// database-unavailable …), with SqlError attached.
absl::Status StatusFromSqlError(const SqlError& error);
absl::Status StatusFromResult(const pg_result* result);  // of a failed PGresult
// Inside a catch block: translates the exception in flight (libpqxx's classes included).
absl::Status StatusFromCurrentException();
std::optional<SqlError> GetSqlError(const absl::Status& status);
// Expected failures that another try may cure: serialization, deadlock, lost connection, read-only. Retry policy, log
// level and alerts ask this one predicate.
bool IsTransient(const absl::Status& status);
// The connection broke during COMMIT: it may or may not have happened. Whoever tries again must be idempotent or look
// first.
bool IsOutcomeUnknown(const absl::Status& status);
// A lock was not free within lock_timeout: somebody else holds a row for long.
bool IsLockTimeout(const absl::Status& status);
// PostgreSQL refuses text with a NUL byte and the client library would cut there silently: check values of users before
// binding them.
absl::Status CheckText(std::string_view value);

}  // namespace mainstay::postgres
