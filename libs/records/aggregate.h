// SPDX-License-Identifier: Apache-2.0
// Internal: GET /v1/<resource>:aggregate — counts, sums, averages and bounds of the rows a caller may see, by group.
//
//   group_by=status,created_at:month & aggregate=count(),sum(total) & having[count()][gt]=5 & sort=-count() & zone=…
//
// The same stages as a list: names are resolved against the catalog with the caller's rights, values are bound, the
// caller's scope stands in the statement. A scan has no limit that would bound it, so PostgreSQL's own estimate of the
// statement does: it is asked first, and what is over the budget is refused unrun.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/http/list_query.h"
#include "libs/records/plan.h"
#include "libs/records/query.h"
#include "libs/records/runner.h"

namespace mainstay::records {

struct AggregateQuery {
  enum class Function : uint8_t { kCount, kSum, kAvg, kMin, kMax };
  struct Group {
    int field = 0;
    std::string unit;  // "month": times are cut down to it, in `zone`; empty: the value itself
  };
  struct Measure {
    Function function = Function::kCount;
    int field = -1;  // -1: rows
    catalog::ColumnType type;
    bool shown = true;  // false: only compared or sorted by
  };
  struct Condition {
    size_t measure = 0;
    Op op = Op::kEq;
    std::string value;
  };
  struct Order {
    bool group = false;  // of groups, else of measures
    size_t at = 0;
    bool descending = false;
  };
  std::unique_ptr<ListQuery> rows;  // filter, scope
  std::vector<Group> groups;
  std::vector<Measure> measures;
  std::vector<Condition> having;
  std::vector<Order> order;  // ends with the groups
  std::string zone = "UTC";
  int limit = 200;
};

// `parameters`: of the URL. The caller's right to aggregate is checked here.
absl::StatusOr<AggregateQuery> ResolveAggregate(Resolver& resolver, const catalog::Resource& resource,
                                                const http::Parameters& parameters);

void BuildAggregate(SqlBuilder& sql, const AggregateQuery& query);

struct AggregateAnswer {
  std::string json;
  int64_t cost = 0;  // as PostgreSQL estimated it
};
boost::asio::awaitable<absl::StatusOr<AggregateAnswer>> RunAggregate(Runner& runner, const CallContext& context,
                                                                     const AggregateQuery& query, int64_t cost_limit);

}  // namespace mainstay::records
