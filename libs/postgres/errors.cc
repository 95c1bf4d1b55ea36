// SPDX-License-Identifier: Apache-2.0
// libpqxx's exceptions lose most of what PostgreSQL said: serialization failures and deadlocks carry no SQLSTATE, 42501
// an empty one, and none names its constraint. The pool's connections therefore ask for verbose messages ("ERROR:
// 23505: …" with a line per name), which are read back here; the class of the exception is the fallback.
#include "libs/postgres/errors.h"

#include <libpq-fe.h>

#include <pqxx/pqxx>

#include "absl/strings/cord.h"
#include "libs/base/problem.h"
#include "libs/base/strings.h"

namespace mainstay::postgres {
namespace {

constexpr char kPayload[] = "mainstay/sql-error";
constexpr char kSeparator = '\x1f';

std::string Encode(const SqlError& e) {
  std::string out = e.outcome_unknown ? "1" : "0";
  for (const std::string* field : {&e.sqlstate, &e.message, &e.detail, &e.schema, &e.table, &e.column, &e.constraint}) {
    out += kSeparator;
    for (const char c : *field) out += c == kSeparator ? ' ' : c;
  }
  return out;
}

bool IsSqlstate(std::string_view text) {
  if (text.size() != 5) return false;
  for (const char c : text) {
    if (!((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z'))) return false;
  }
  return true;
}

std::string_view Strip(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\n')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\n')) text.remove_suffix(1);
  return text;
}

// "ERROR:  23505: duplicate key …\nDETAIL:  …\nSCHEMA NAME:  …\nTABLE NAME:  …\nCONSTRAINT NAME:  …\nLOCATION:  …"
SqlError ParseVerbose(std::string_view text) {
  SqlError error;
  bool first = true;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    const size_t colon = line.find(":  ");
    if (colon == std::string_view::npos) {
      if (first) error.message = Strip(line);
      first = false;
      continue;
    }
    const std::string_view label = line.substr(0, colon), value = Strip(line.substr(colon + 3));
    if (value.size() > 7 && IsSqlstate(value.substr(0, 5)) && value.substr(5, 2) == ": ") {
      // A connection's message may gather several; the first one is the cause, as the last one is only "connection
      // lost".
      if (error.sqlstate.empty()) {
        error.sqlstate = value.substr(0, 5);
        error.message = value.substr(7);
      }
    } else if (label == "DETAIL") {
      error.detail = value;
    } else if (label == "SCHEMA NAME") {
      error.schema = value;
    } else if (label == "TABLE NAME") {
      error.table = value;
    } else if (label == "COLUMN NAME") {
      error.column = value;
    } else if (label == "CONSTRAINT NAME") {
      error.constraint = value;
    } else if (first) {
      error.message = value;
    }
    first = false;
  }
  return error;
}

absl::Status FromException(std::string_view what, std::string_view sqlstate, std::string_view fallback) {
  SqlError error = ParseVerbose(what);
  if (error.sqlstate.empty()) error.sqlstate = sqlstate.empty() ? fallback : sqlstate;
  if (error.message.empty()) error.message = what;
  return StatusFromSqlError(error);
}

std::string Field(const PGresult* result, int code) {
  const char* text = PQresultErrorField(result, code);
  return text == nullptr ? "" : text;
}

absl::Status Validation(std::string_view code, std::string_view detail) {
  return MakeProblem("validation-failed", "a value was refused by the database",
                     {{.name = "", .code = std::string(code), .detail = std::string(detail)}});
}

absl::Status Map(const SqlError& error) {
  const std::string_view state = error.sqlstate, kind = state.substr(0, 2);
  if (state == "23505" || state == "23P01") return MakeProblem("unique-violation", "another record has the same value");
  if (state == "23503") {
    return error.message.starts_with("update or delete")
               ? MakeProblem("still-referenced", "other records point to this one")
               : Validation("reference_not_found", "there is no such record");
  }
  if (state == "23001") return MakeProblem("still-referenced", "other records point to this one");
  if (state == "23502") return Validation("required", "may not be null");
  if (state == "23514") return Validation("rule_violation", "a rule of the database forbids this value");
  if (state == "22001") return Validation("too_long", "the text is too long");
  if (state == "22003" || state == "22008") return Validation("out_of_range", "the value is out of range");
  if (state == "22P02" || state == "22007" || state == "22023" || state == "22032") {
    return Validation("invalid_type", "the value does not fit the column's type");
  }
  if (state == "22021" || state == "22P05")
    return Validation("invalid_characters", "the text has characters that cannot be stored");
  if (state == "P0001") return MakeProblem("rule-violation", "a rule of the database forbids this");
  if (kind == "40") return MakeProblem("transaction-conflict", "the change collided with others; try again");
  if (state == "57014") return MakeProblem("query-timeout", "the statement took too long and was stopped");
  if (state == "55P03") return MakeProblem("transaction-conflict", "a lock was not free in time; try again");
  if (kind == "53") return MakeProblem("overloaded", "the database has no room for more at the moment");
  if (kind == "08" || state.substr(0, 4) == "57P0" || state == "25P03") {
    return MakeProblem("database-unavailable", "the database is not available");
  }
  if (state == "25006") return MakeProblem("read-only", "the database is read-only at the moment");
  // Our own mistake or the operator's: the message is for the log, ProblemFromStatus shows clients none of it.
  return absl::InternalError(StrCat("PostgreSQL ", state.empty() ? "failed" : state, ": ", error.message));
}

}  // namespace

absl::Status StatusFromSqlError(const SqlError& error) {
  absl::Status status = Map(error);
  status.SetPayload(kPayload, absl::Cord(Encode(error)));
  return status;
}

absl::Status StatusFromResult(const pg_result* result) {
  if (result == nullptr) return StatusFromSqlError({.sqlstate = "08006", .message = "no answer from PostgreSQL"});
  SqlError error{.sqlstate = Field(result, PG_DIAG_SQLSTATE),
                 .message = Field(result, PG_DIAG_MESSAGE_PRIMARY),
                 .detail = Field(result, PG_DIAG_MESSAGE_DETAIL),
                 .schema = Field(result, PG_DIAG_SCHEMA_NAME),
                 .table = Field(result, PG_DIAG_TABLE_NAME),
                 .column = Field(result, PG_DIAG_COLUMN_NAME),
                 .constraint = Field(result, PG_DIAG_CONSTRAINT_NAME)};
  if (error.sqlstate.empty()) {  // libpq's own: the connection is gone
    error.sqlstate = "08006";
    error.message = PQresultErrorMessage(result);
  }
  return StatusFromSqlError(error);
}

absl::Status StatusFromCurrentException() {
  try {
    throw;
  } catch (const pqxx::in_doubt_error& e) {
    absl::Status status =
        MakeProblem("database-unavailable", "the connection broke during the commit: its outcome is unknown");
    status.SetPayload(kPayload,
                      absl::Cord(Encode({.sqlstate = "08007", .message = e.what(), .outcome_unknown = true})));
    return status;
  } catch (const pqxx::statement_completion_unknown& e) {
    return StatusFromSqlError({.sqlstate = "40003", .message = e.what(), .outcome_unknown = true});
  } catch (const pqxx::serialization_failure& e) {
    return FromException(e.what(), "", "40001");
  } catch (const pqxx::deadlock_detected& e) {
    return FromException(e.what(), "", "40P01");
  } catch (const pqxx::transaction_rollback& e) {
    return FromException(e.what(), "", "40000");
  } catch (const pqxx::insufficient_privilege& e) {
    return FromException(e.what(), e.sqlstate(), "42501");
  } catch (const pqxx::sql_error& e) {
    return FromException(e.what(), e.sqlstate(), "XX000");
  } catch (const pqxx::too_many_connections& e) {
    return FromException(e.what(), "", "53300");
  } catch (const pqxx::broken_connection& e) {
    return FromException(e.what(), "", "08006");
  } catch (const std::exception& e) {
    return absl::InternalError(StrCat("while talking to PostgreSQL: ", e.what()));
  } catch (...) {
    return absl::InternalError("while talking to PostgreSQL: an unknown exception");
  }
}

std::optional<SqlError> GetSqlError(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  if (!payload.has_value()) return std::nullopt;
  const std::string text(*payload);
  SqlError error;
  error.outcome_unknown = text.starts_with('1');
  size_t at = text.find(kSeparator);
  for (std::string* field : {&error.sqlstate, &error.message, &error.detail, &error.schema, &error.table, &error.column,
                             &error.constraint}) {
    if (at == std::string::npos) break;
    const size_t end = text.find(kSeparator, at + 1);
    *field = text.substr(at + 1, end == std::string::npos ? std::string::npos : end - at - 1);
    at = end;
  }
  return error;
}

bool IsTransient(const absl::Status& status) {
  if (status.ok()) return false;
  const auto error = GetSqlError(status);
  if (!error.has_value()) return ProblemFromStatus(status).type == "database-unavailable";
  const std::string_view state = error->sqlstate, kind = state.substr(0, 2);
  return kind == "40" || kind == "08" || kind == "53" || state.substr(0, 4) == "57P0" || state == "25006" ||
         state == "25P03" || state == "55P03";
}

bool IsOutcomeUnknown(const absl::Status& status) {
  const auto error = GetSqlError(status);
  return error.has_value() && error->outcome_unknown;
}

bool IsLockTimeout(const absl::Status& status) {
  const auto error = GetSqlError(status);
  return error.has_value() && error->sqlstate == "55P03";
}

absl::Status CheckText(std::string_view value) {
  if (value.find('\0') == std::string_view::npos) return absl::OkStatus();
  return Validation("invalid_characters", "the text has a NUL character, which cannot be stored");
}

}  // namespace mainstay::postgres
