// SPDX-License-Identifier: Apache-2.0
// The gateway as the command line sees it: plain HTTP with an API key, over libcurl. An answer of 400 or more is an
// error whose message is the problem's detail and field errors.
#pragma once

#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/base/json.h"
#include "services/cli/command.h"

namespace mainstay::cli {

struct HttpAnswer {
  int status = 0;
  std::string body;
};
// Any URL, without a key (readiness of the services). `timeout_ms` 0: none.
absl::StatusOr<HttpAnswer> HttpGet(const std::string& url, long timeout_ms);

class Gateway {
 public:
  static absl::StatusOr<Gateway> FromArguments(const Arguments& arguments);
  absl::StatusOr<std::string> Get(const std::string& path) const { return Call("GET", path, ""); }
  absl::StatusOr<std::string> Post(const std::string& path, const std::string& body) const {
    return Call("POST", path, body);
  }
  absl::StatusOr<std::string> Patch(const std::string& path, const std::string& body) const {
    return Call("PATCH", path, body);
  }
  absl::Status Delete(const std::string& path) const { return Call("DELETE", path, "").status(); }
  // A stream of JSON Lines: `line` is called for each as it comes and says whether to go on. OK when either side ended
  // it; Unavailable when the connection broke.
  absl::Status Stream(const std::string& path, const std::function<bool(const std::string&)>& line) const;
  // The file's bytes as the request body; `progress` sees the share sent, 0 to 1.
  absl::StatusOr<std::string> Upload(const std::string& path, const std::string& file, const std::string& content_type,
                                     const std::function<void(double)>& progress) const;
  absl::Status Download(const std::string& path, std::FILE* out) const;

 private:
  absl::StatusOr<std::string> Call(const std::string& method, const std::string& path, const std::string& body) const;
  std::string url_, key_;
};

// A member of a parsed object as text for people: strings and numbers as they are, else the JSON; "" when absent or
// null.
std::string Text(const JsonValue& object, std::string_view key);
// A list answer ({"data": […]}) as an aligned table of these fields.
absl::Status PrintTable(const std::string& json, const std::vector<std::string>& fields);
// One object, a line per member that is set.
absl::Status PrintObject(const std::string& json);
// One object for people, or as it came with --json.
absl::Status Show(const Arguments& arguments, const std::string& json);
// What the first argument names in `collection` (a path) does `action`: POST …/ID:action with --reason, where it is
// given. Shows the answer.
absl::Status Act(const Arguments& arguments, std::string_view collection, std::string_view action);
// A page of the list at `path`: --limit, --cursor, an option per field in `filters`, and `more` parameters ("&a=b").
absl::Status List(const Arguments& arguments, std::string_view path, const std::vector<std::string>& filters,
                  const std::vector<std::string>& columns, std::string_view more = "");

}  // namespace mainstay::cli
