// SPDX-License-Identifier: Apache-2.0
// The errors of rows: gathered in bounded memory, stored in sets, counted by code even where they are no longer kept.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "libs/base/ids.h"

namespace pqxx {
class transaction_base;
}

namespace mainstay::transfer {

struct RowError {
  int64_t row = 0, line = 0;
  std::string column, field, code, value, message, suggestion;
};

// Cut to what an error shows (200 characters), NULs and invalid UTF-8 made printable.
std::string ShownValue(std::string_view text);

struct ErrorCounts {
  std::map<std::string, int64_t> by_code;
  int64_t rows = 0;  // rows with at least one
  int64_t kept = 0;  // errors stored
  std::string ByCodeJson() const;
  static ErrorCounts Parse(std::string_view by_code_json, int64_t rows, int64_t kept);
};

// Stores as many of `errors` as the limit still allows and counts all.
absl::Status StoreErrors(pqxx::transaction_base& tx, const Uuid& import, std::string_view tenant,
                         const std::vector<RowError>& errors, int64_t max_kept, ErrorCounts* counts);

}  // namespace mainstay::transfer
