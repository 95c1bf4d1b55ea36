// SPDX-License-Identifier: Apache-2.0
#include "libs/tabular/record.h"

#include "absl/strings/cord.h"
#include "libs/base/strings.h"

namespace mainstay::tabular {
namespace {
constexpr char kPayload[] = "mainstay/refusal";
}

bool Record::blank() const {
  for (const Cell& cell : cells)
    if (cell.quoted || cell.text.find_first_not_of(" \t") != std::string::npos) return false;
  return true;
}

absl::Status Refuse(std::string_view code, std::string_view message) {
  absl::Status status = absl::InvalidArgumentError(ToAbsl(message));
  status.SetPayload(kPayload, absl::Cord(ToAbsl(code)));
  return status;
}

std::optional<Refusal> GetRefusal(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayload);
  if (!payload) return std::nullopt;
  return Refusal{std::string(*payload), std::string(status.message())};
}

}  // namespace mainstay::tabular
