// SPDX-License-Identifier: Apache-2.0
// Internal: what was written, read back from mainstay.record_changes: one row's history, and the feed of a resource.
//
// Images are shown by the rules for reading as they are now: the caller's tenant, fields and rows, asked of the old and
// of the new image. A rule that names a column which an image lacks (hidden and sensitive ones are not kept) hides that
// image. A position is "<xid>-<id>": everything at or before it was committed when it was handed out, and whatever
// commits later stands behind it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/records/plan.h"
#include "libs/records/runner.h"

namespace mainstay::records {

struct FeedPosition {
  uint64_t xid = 0;
  int64_t id = 0;
  friend auto operator<=>(const FeedPosition&, const FeedPosition&) = default;
};
std::string FormatPosition(const FeedPosition& position);
std::optional<FeedPosition> ParsePosition(std::string_view text);

// One row's changes, newest first, before `before` (none: from the newest): `limit` + 1 rows.
void BuildHistory(SqlBuilder& sql, const catalog::Resource& resource, const Access& access,
                  const std::vector<std::string>& key, const std::optional<FeedPosition>& before, int limit);
// {"event":"updated","at":…,"by":…,"changed":["status"],"before":{…},"after":{…}}, an image that the caller may not see
// as null.
void RenderHistory(const catalog::Resource& resource, const Access& access, const Rows& rows, int row,
                   std::string& out);
FeedPosition PositionOf(const Rows& rows, int row);

// The next `limit` changes behind `after` that are safe to read, seen or not. The order is that of positions.
void BuildFeed(SqlBuilder& sql, const catalog::Resource& resource, const Access& access, const FeedPosition& after,
               int limit);
// As server-sent event: created, updated, or removed for what has left the caller's view. Nothing for what it never
// saw.
void RenderFeedEvent(const catalog::Resource& resource, const Access& access, const Rows& rows, int row,
                     std::string& out);

}  // namespace mainstay::records
