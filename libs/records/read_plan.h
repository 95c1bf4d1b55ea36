// SPDX-License-Identifier: Apache-2.0
// Internal: resolved queries with all their statements, level by level, ready for every request that asks the same of
// other values. One thread's.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "libs/http/list_query.h"
#include "libs/records/plan.h"
#include "libs/records/prepared.h"

namespace mainstay::records {

// What one level of the answer selects, and how its rows hang on those above.
struct LevelPlan {
  // `versions`: with the rows' versions, for entity tags.
  LevelPlan(const ListQuery& query, bool versions);
  const ListQuery* query;
  Columns columns;
  int first_column = 0;  // 1 where the parent's ordinal stands first
  // In JSON, what stands before the value of each shown field, then of each relation: {"id":  ,"name":
  std::vector<std::string> leads;
  // Of a relation:
  std::vector<int> parent_key;  // the fields of the level above that its rows are found by
  int plain_key = -1;           // PlainKey
  // Of all parents, from the beginning of their lists: not there when it has a cursor. Lists with a plain key can be
  // read together as well (BuildTogether).
  std::optional<Prepared> rows, together;
  mutable int apart = 0;         // so many requests more they are not: they were long
  std::vector<LevelPlan> below;  // as query->expansions
};

class ReadPlan {
 public:
  enum class Of : uint8_t { kPage, kAll, kRecord };
  // `cache`: where statements are shared, kept as long as this; may be null.
  ReadPlan(Of what, std::unique_ptr<ListQuery> query, const CallContext& context, bool versions,
           std::shared_ptr<SqlCache> cache);

  const ListQuery& query() const { return *query_; }
  const LevelPlan& level() const { return level_; }
  int64_t cost() const { return cost_; }  // Score
  bool cheap() const { return cheap_; }   // IsCheap
  // Of the connection, where there is more than one statement.
  postgres::Lane lane() const { return lane_; }
  // The record by its key, the list's first page, or all of it.
  const Prepared& rows() const { return rows_; }
  // A page from there, put together when first asked for. Used before the next call.
  const Prepared& PageFrom(const Position& position, const CallContext& context);

  // Says that queries of this form are this plan's; false when it can't serve another request.
  bool Take(const http::QueryForm& form);
  // The values of a query of its form. Nothing: something is wrong with one, which Resolver can tell best.
  std::optional<Given> ValuesOf(const http::QueryForm& form) const;

 private:
  struct Later {
    bool backward;
    std::vector<bool> nulls;  // by sort key
    Prepared statement;
  };
  const std::unique_ptr<const ListQuery> query_;
  const std::shared_ptr<SqlCache> cache_;
  const int64_t cost_;
  const bool cheap_;
  const postgres::Lane lane_;
  LevelPlan level_;
  Prepared rows_;
  std::vector<Later> later_;
  std::vector<int> slots_;  // by value of the form: the argument, -1: the cursor
};

}  // namespace mainstay::records
