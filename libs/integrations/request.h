// SPDX-License-Identifier: Apache-2.0
// From an operation's declaration and the caller's parameters to one request: path, query, and the next page's.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/base/json.h"
#include "libs/catalog/model.h"

namespace mainstay::integrations {

struct Request {
  std::string path;                                         // after the base URL, escaped
  std::vector<std::pair<std::string, std::string>> query;   // not escaped yet
  std::string QueryString() const;                          // "?a=b&c=d" or empty
  void Set(std::string_view name, std::string_view value);  // replaces
};

// Every declared parameter must be there unless it ends in "?"; an undeclared one is refused. Problem validation-failed
// names all of them.
absl::StatusOr<Request> BuildRequest(const catalog::Operation& operation, std::string_view params_json);

// A page, read: its items, and where the next one is.
struct PageRead {
  std::string items = "[]";  // the JSON array
  int64_t count = 0;
  std::optional<std::string> next_url;    // link_header, next_url: a reference, still untrusted
  std::optional<std::string> next_value;  // cursor, last_id, offset, page: value of cursor_param
};
// `sent`: the value of cursor_param that asked for this page (empty on the first). InvalidArgument when the response is
// not as declared.
absl::StatusOr<PageRead> ReadPage(const catalog::Pagination& pagination, const JsonValue& body,
                                  const std::vector<std::string>& link_headers, std::string_view sent);

// The rel="next" of RFC 8288 Link headers.
std::optional<std::string> NextLink(const std::vector<std::string>& headers);

}  // namespace mainstay::integrations
