// SPDX-License-Identifier: Apache-2.0
// Who acts, for which tenant, and the circumstances of one call: passed down explicitly through every layer.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/time/time.h"

namespace mainstay {

// The tenant of keys that see every tenant (operators). A write by one names its tenant itself.
inline constexpr std::string_view kAllTenants = "*";

struct Principal {
  std::string tenant;              // "acme", or kAllTenants
  std::string subject;             // "key_01…", "user:42", "source:payments", "service:worker"
  std::vector<std::string> roles;  // names from the catalog; "admin" is built in and may do everything
  bool HasRole(std::string_view role) const {
    for (const auto& r : roles)
      if (r == role) return true;
    return false;
  }
  friend bool operator==(const Principal&, const Principal&) = default;
};

// One call, from the edge to the last statement. What is left of `deadline` is passed on at every hop.
struct CallContext {
  Principal principal;
  absl::Time deadline = absl::InfiniteFuture();  // never infinite in production: the edge sets it
  std::string request_id;
  std::string traceparent;  // W3C, the caller's span as parent; empty: none
};

}  // namespace mainstay
