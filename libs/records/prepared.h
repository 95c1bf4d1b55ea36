// SPDX-License-Identifier: Apache-2.0
// Internal: statements that were put together once and serve every request that differs only in values.
//
// A statement keeps the values that are its own, and of the others where they come from. What belongs to a request
// (its caller, what it compares with, keys, its place in a list) is not kept: it has to be filled in to run at all.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "libs/base/principal.h"
#include "libs/catalog/model.h"
#include "libs/postgres/async.h"
#include "libs/records/query.h"

namespace mainstay::records {

class SqlBuilder;

// Prepared statements by their text, so that equal texts share one. Bounded: when full it starts anew, and connections
// prepare again what is still in use.
class SqlCache {
 public:
  postgres::SqlPtr Get(std::string sql);

 private:
  std::vector<std::pair<size_t, postgres::SqlPtr>> slots_;  // open addressing, a power of two
  size_t used_ = 0;
};

// The values of the last row a client has seen, as PostgreSQL printed them.
struct Position {
  bool backward = false;
  std::vector<std::optional<std::string>> values;  // as many as sort keys
};

// Where a parameter's value comes from.
struct Source {
  enum class Kind : uint8_t { kTenant, kSubject, kArgument, kKey, kPosition };
  Kind kind = Kind::kArgument;
  int index = 0;                              // of the last three
  const catalog::ColumnType* type = nullptr;  // of the first two, of a living model; null: text
};

// What a request fills in. Parts that its statement does not ask for may be missing.
struct Values {
  const CallContext& context;
  const Given* given = nullptr;
  absl::Span<const std::string> keys;
  const Position* position = nullptr;
};

void Fill(const std::vector<std::pair<int, Source>>& sources, const Values& values, postgres::Params& params);

class Prepared {
 public:
  Prepared() = default;
  // Without a cache the text is no one else's.
  Prepared(SqlBuilder&& sql, SqlCache* cache);
  postgres::Params Fill(const Values& values) const;
  const postgres::SqlPtr& sql() const { return sql_; }
  // False: something of the principal went into the text or into a list.
  bool reusable() const { return reusable_; }

 private:
  postgres::SqlPtr sql_;
  postgres::Params params_;
  std::vector<std::pair<int, Source>> sources_;  // by parameter
  bool reusable_ = true;
};

// What the principal's tenant or subject is as a value of a column; nothing, which equals no value, where it is none.
std::optional<std::string> PrincipalValue(const std::string& text, const catalog::ColumnType* type);

}  // namespace mainstay::records
