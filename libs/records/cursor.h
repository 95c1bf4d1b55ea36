// SPDX-License-Identifier: Apache-2.0
// Internal: list cursors: where a client stands in a list, sealed so that it can neither be read nor made up.
//
// Format before sealing: version 1, direction, time of issue (seconds), digest of the query's shape, digest of the
// caller's view, then the values of the sort keys. In front of the sealed bytes stand four of the key's digest, so that
// another key is told from a broken cursor by no one but us. What a cursor holds is a position, never a right.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/principal.h"
#include "libs/records/prepared.h"

namespace mainstay::records {

struct CursorBinding {
  std::string_view key;  // 32 bytes
  std::string shape;     // 16 bytes
  std::string view;      // 16 bytes
  absl::Time now;
  absl::Duration life = absl::Hours(24);
};
// `given`: to the query's arguments.
CursorBinding BindCursor(std::string_view key, const catalog::Model& model, const ListQuery& query, const Given& given,
                         const CallContext& context, absl::Time now, absl::Duration life);

inline constexpr size_t kMaxCursor = 4096;  // as texts; what http::ListQueryLimits lets through
// invalid-parameter: the values of the sort keys are too long for a cursor.
absl::StatusOr<std::string> SealCursor(const CursorBinding& binding, const Position& position);
// cursor-invalid: broken, expired or of another key; cursor-mismatch: of another query or caller.
absl::StatusOr<Position> OpenCursor(const CursorBinding& binding, std::string_view cursor, size_t keys);

}  // namespace mainstay::records
