// SPDX-License-Identifier: Apache-2.0
// One webhook as it arrived: exact bytes, and the one way to look a header up.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace mainstay::webhooks {

struct Delivery {
  std::string source;  // the name in /hooks/<source>
  std::string method;
  std::string target;                                        // path and query as received
  std::vector<std::pair<std::string, std::string>> headers;  // names lower-case, values as sent
  std::string body;
  std::string remote_address;
  absl::Time received_at;
  std::string request_id, traceparent;

  // The value of a header (lower-case name); nullopt when absent or sent more than once: an attacker who can add a
  // second one must not choose which of the two is read.
  std::optional<std::string_view> Header(std::string_view name) const;
  // The raw value of a query parameter, percent-decoded; nullopt when absent, repeated or badly escaped.
  std::optional<std::string> Query(std::string_view name) const;
};

}  // namespace mainstay::webhooks
