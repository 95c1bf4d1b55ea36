// SPDX-License-Identifier: Apache-2.0
// Internal: resolved queries run and turned into JSON: one statement for the rows, one per relation of each level
// below, one for a count, whatever the number of rows.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/records/read_plan.h"
#include "libs/records/runner.h"

namespace mainstay::records {

struct ReadOptions {
  std::string_view cursor_key;
  absl::Duration cursor_life = absl::Hours(24);
  // An exact count goes no further than this many rows, and takes no longer than this (in a transaction that may fail
  // afterwards; zero: as long as any statement). Then it is answered as `capped`.
  int64_t exact_count_cap = 100'000;
  absl::Duration exact_count_time = absl::ZeroDuration();
  // The transaction may end with the last relation's rows.
  bool nothing_follows = false;
  absl::Time now;
};

// The rows of one level and of all below it.
struct Level;
// One parent's list.
struct Group {
  int first = 0, rows = 0;  // in the related level; one more row than the limit says that there is more
  bool backward = false;    // read from its end, so they stand the other way round
  std::string next_cursor, prev_cursor;
};
struct Related {
  std::unique_ptr<Level> level;
  std::vector<int> group;  // by shown row of the parent level: which group, -1: none
  std::vector<Group> groups;
};
struct Level {
  explicit Level(const LevelPlan& p) : plan(&p) {}
  const LevelPlan* plan;
  RowsPtr rows;
  int shown = 0;                 // so many of them, from the first; the others only say that there are more
  std::vector<Related> related;  // as plan->below
  int ColumnOf(int field) const { return plan->first_column + plan->columns.at[static_cast<size_t>(field)]; }
};

struct PageOfRows {
  std::unique_ptr<Level> level;
  std::vector<int> shown;  // rows in the order of the answer
  common::v1::Page page;
};

// A page of the top level with its count, cursors and related rows. The plan must live until the answer, and as long as
// its levels are in use.
boost::asio::awaitable<absl::StatusOr<PageOfRows>> FetchPage(Runner& runner, const catalog::Model& model,
                                                             const CallContext& context, ReadPlan& plan,
                                                             const Given& given, ReadOptions options);
// The relations of the rows in `level`.
boost::asio::awaitable<absl::Status> FetchRelated(Runner& runner, const catalog::Model& model,
                                                  const CallContext& context, const Given& given, Level& level,
                                                  ReadOptions options);

// A figure of PostgreSQL's plan for a statement that is not run: "Plan Rows", "Total Cost".
boost::asio::awaitable<absl::StatusOr<double>> Explain(Runner& runner, std::string sql, postgres::Params params,
                                                       std::string_view figure);

// {"id":"1",…} appended.
void RenderRow(const Level& level, int row, std::string& out);
void RenderPage(const common::v1::Page& page, bool counted, std::string& out);
// The row's version as text; "" when it has none.
std::string_view VersionOf(const Level& level, int row);

// Wrong values that only PostgreSQL could see (ranges, intervals …) are the query's fault in a read.
absl::Status ReadFailure(absl::Status status);

}  // namespace mainstay::records
