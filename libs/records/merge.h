// SPDX-License-Identifier: Apache-2.0
// The set-based merge: the one way rows get into the user's tables, used by the API's writes, imports, syncs and
// webhook apply.
//
// Permissions, tenancy and row predicates of the principal are part of every statement, on old and new images; rows are
// locked in the order of their keys, so two merges cannot deadlock.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "libs/base/principal.h"
#include "libs/base/problem.h"
#include "libs/catalog/model.h"

namespace pqxx {
class transaction_base;
}

namespace mainstay::records {

enum class MergeMode { kCreate, kUpdate, kUpsert, kDelete, kIgnore };
enum class RowStatus { kCreated, kUpdated, kUnchanged, kDeleted, kSkipped, kStale, kError };

struct MergeOptions {
  MergeMode mode = MergeMode::kUpsert;
  // Fields that identify an existing row; they must be the primary key or a unique key (the tenant is always part).
  // Empty: the primary key.
  std::vector<std::string> key;
  // false: any row error makes the whole merge an error (the caller rolls back). true: good rows are written, bad ones
  // reported.
  bool skip_errors = false;
  // Old news: a row whose stored value of this field is not older than the incoming one stays and is kStale.
  std::string stale_field;
  // Declared changes of a status field; another change is an error `invalid_transition` (staying the same is allowed).
  std::string status_field;
  std::map<std::string, std::vector<std::string>> transitions;
  // Everything but the writing.
  bool validate_only = false;
  // Fill MergeResult::before.
  bool before_images = false;
};

// Rows in text form, column by column. nullopt is NULL.
struct MergeRows {
  std::vector<std::string> fields;
  std::vector<std::vector<std::optional<std::string>>> rows;
  // By row and field, where rows do not all have the same fields. false: nothing is said about it; it is created with
  // its column's default and left alone by a change. Empty: everything is given.
  std::vector<std::vector<bool>> given;
};

struct MergeResult {
  std::vector<RowStatus> status;                // per row
  std::vector<std::vector<FieldError>> errors;  // per row; empty when fine. `name` is the field
  // Per row, when asked for: the row as it was, as JSON by column; empty where nothing was there or nothing changed.
  std::vector<std::string> before;
  int64_t created = 0, updated = 0, unchanged = 0, deleted = 0, skipped = 0, stale = 0, error = 0;
};

// Validates every value first. What is wrong with rows is in the result (status kError, `error` > 0), not in the
// status: without skip_errors such a merge has written nothing, with it the good rows are written. Errors are about the
// whole: unknown or read-only fields, no right to the action, a key that is none, the database away. A row refused by
// PostgreSQL alone is found by halving the batch under savepoints. Codes: required, invalid_type, out_of_range,
// too_long, too_short, pattern, one_of, invalid_characters, duplicate_key, unique, not_found, reference_not_found,
// still_referenced, rule_violation, check_failed, invalid_transition, read_only, forbidden. What is written leaves one
// event in mainstay.audit_events, and the images and jobs that the catalog declares, in the same transaction. `tx` must
// be a real transaction (savepoints), READ COMMITTED.
absl::StatusOr<MergeResult> Merge(pqxx::transaction_base& tx, const catalog::Resource& resource,
                                  const catalog::Model& model, const CallContext& context, const MergeRows& rows,
                                  const MergeOptions& options);

// Validation of one value in its text form against its field: type, range, length, pattern, enum. Returns the
// normalised text (trimmed of nothing, NFC where declared), or adds to `errors`.
std::optional<std::string> ValidateValue(const catalog::Field& field, std::string_view text,
                                         std::vector<FieldError>& errors);

}  // namespace mainstay::records
