// SPDX-License-Identifier: Apache-2.0
#include "libs/webhooks/delivery.h"

#include "libs/base/text.h"

namespace mainstay::webhooks {

std::optional<std::string_view> Delivery::Header(std::string_view name) const {
  std::optional<std::string_view> found;
  for (const auto& [key, value] : headers) {
    if (key != name) continue;
    if (found) return std::nullopt;
    found = value;
  }
  return found;
}

std::optional<std::string> Delivery::Query(std::string_view name) const {
  size_t mark = target.find('?');
  if (mark == std::string::npos) return std::nullopt;
  std::string_view rest = std::string_view(target).substr(mark + 1);
  std::optional<std::string> found;
  while (!rest.empty()) {
    size_t end = rest.find('&');
    std::string_view pair = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
    size_t equals = pair.find('=');
    std::optional<std::string> key = PercentDecode(pair.substr(0, equals), true);
    if (!key || *key != name) continue;
    if (found) return std::nullopt;
    found = PercentDecode(equals == std::string_view::npos ? std::string_view() : pair.substr(equals + 1), true);
    if (!found) return std::nullopt;
  }
  return found;
}

}  // namespace mainstay::webhooks
