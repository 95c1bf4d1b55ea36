// SPDX-License-Identifier: Apache-2.0
// Internal: what the catalog declares about writes, compiled: checks between fields, jobs, and the images that writes
// leave behind. All of it becomes part of the writing statement, so that nobody who writes can pass it by.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "libs/base/principal.h"
#include "libs/catalog/model.h"
#include "libs/records/plan.h"
#include "libs/records/query.h"

namespace mainstay::records {

struct WriteRules {
  struct Check {
    const catalog::RowCheck* declared;
    std::shared_ptr<const Predicate> condition, that;  // condition: null for all rows
  };
  struct Job {
    const catalog::WriteJob* declared;
    std::shared_ptr<const Predicate> when;  // null for all rows
  };
  std::vector<Check> checks;
  std::vector<Job> jobs;
};

// Null where nothing is declared.
std::shared_ptr<const WriteRules> CompileRules(const catalog::Model& model, const catalog::Resource& resource);

// "… IS TRUE AND (…) IS FALSE": the row at `alias` breaks the check.
std::string BreaksCheck(SqlBuilder& sql, const std::string& alias, const catalog::Resource& resource,
                        const WriteRules::Check& check);

// What happens to a row, as history, feed and jobs call it.
enum class Written : uint8_t { kCreated, kUpdated, kDeleted, kRestored };
std::string_view WrittenName(Written written);

// The row leaves something behind: an image, or a job.
bool LeavesTraces(const catalog::Resource& resource, const WriteRules* rules, Written written);

// Wraps "INSERT|UPDATE|DELETE … RETURNING <columns>" (whose last columns are `before_row` and `after_row`, as far as
// the operation has them) into a statement that also writes images and jobs and then returns `columns`.
std::string WithTraces(SqlBuilder& sql, const catalog::Resource& resource, const WriteRules* rules,
                       const CallContext& context, Written written, const std::string& event, std::string_view write,
                       std::string_view columns);

// The table's type, for whole rows: "shop"."orders".
std::string WholeRow(const std::string& alias, const catalog::Resource& resource);

}  // namespace mainstay::records
