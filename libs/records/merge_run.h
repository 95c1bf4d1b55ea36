// SPDX-License-Identifier: Apache-2.0
// Internal: the merge itself, over any Runner, with what the API's single-row writes need beyond records::Merge.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <optional>
#include <string>
#include <vector>

#include "libs/records/merge.h"
#include "libs/records/query.h"
#include "libs/records/runner.h"

namespace mainstay::records {

struct MergeExtra {
  // The caller ends the transaction at once when there are errors (and when only validating): no savepoint is needed
  // for one row.
  bool caller_rolls_back = false;
  // If-Match: the version the row must have; several: any of them.
  std::vector<std::string> expected_versions;
  // PUT: fields that are not given go back to their default.
  bool replace = false;
  // kUpdate of rows that are deleted softly: they come back.
  bool undelete = false;
  // Fields that the caller set itself: they need no right to be written.
  std::vector<int> ours;
  // If-Match per row, instead of expected_versions; empty: any.
  std::vector<std::string> row_versions;
};

struct MergeOutcome {
  MergeResult result;
  std::vector<std::vector<std::string>>
      keys;                          // per row, the primary key as PostgreSQL prints it; empty when nothing is there
  bool precondition_failed = false;  // a row had another version
};

boost::asio::awaitable<absl::StatusOr<MergeOutcome>> RunMerge(Runner& runner, const catalog::Resource& resource,
                                                              const catalog::Model& model, const CallContext& context,
                                                              AccessPtr access, const MergeRows& rows,
                                                              const MergeOptions& options, const MergeExtra& extra);

// Why clients may not set this field, "" when they may: "unknown_field" (also what they may not see) or "read_only".
std::string_view WriteRefusal(const catalog::Resource& resource, const Access& access, const catalog::Field& field,
                              bool all_tenants);

// The detail of what a trigger raised (P0001): a problem of its own.
inline constexpr std::string_view kRaised = "a rule of the database forbids this change";

// What PostgreSQL refused about one row, in the user's names. Empty: not about a row.
std::vector<FieldError> RowErrors(const catalog::Resource& resource, const absl::Status& status);

}  // namespace mainstay::records
