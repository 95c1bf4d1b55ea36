// SPDX-License-Identifier: Apache-2.0
// Internal: what a read costs, told before it runs.
//
// Cheap is a list that one index answers: the rows of a page stand beside each other in it, in the order of the answer,
// so its time depends neither on the table nor on how large the tenant is. Only such a list shares a connection with
// other requests and keeps a prepared plan. Everything else runs on a connection of its own and is planned for its very
// values, because for them the right plan is not the same for a tenant with ten rows and one with ten million.
//
// The score is a figure for clients and for the budget: rows that may come, and a penalty for what no index answers. It
// says nothing of the data. Pure.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "libs/records/query.h"

namespace mainstay::records {

// `all_tenants`: the caller's statements hold no tenant.
bool IsCheap(const ListQuery& query, bool all_tenants);

// Of a page whose own rows are cheap: whether the rest of it is soon done as well. There is no count, indexes find the
// related rows, and in all they are few.
bool IsShort(const ListQuery& query, int64_t score);

// Rows at most on all levels, 1,000 for each level that must look at more rows than it shows, 1,000 for each relation
// in a filter.
int64_t Score(const ListQuery& query);
absl::Status CheckScore(int64_t score, int64_t limit);

}  // namespace mainstay::records
