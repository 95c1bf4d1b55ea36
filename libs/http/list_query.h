// SPDX-License-Identifier: Apache-2.0
// The one parser of list queries, for records and for the suite's own resources: ?filter[…]=…&sort=…&fields=…&expand=…
// and the same tree as JSON (QUERY, :query, configured filters).
//
// Pure functions. Checks form and limits, knows no field: names and values are typed against the catalog later, by
// libs/records, which finds in `place` where each condition stood. Strict, so that a typo never widens a result:
// unknown and repeated parameters, holes in index lists and broken escapes are refused. Errors are the problems
// invalid-parameter, unknown-field, filter-invalid, expand-too-deep and offset-too-deep.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace mainstay {
class JsonValue;
namespace common::v1 {
class ListQuery;
class Filter;
}  // namespace common::v1
}  // namespace mainstay

namespace mainstay::http {

// Name and value, decoded.
using Parameters = std::vector<std::pair<std::string, std::string>>;

// "a=1&b%5Bc%5D=x+y" → pairs in the order sent. Refuses broken escapes, invalid UTF-8, NUL, and more than 500 of them.
absl::StatusOr<Parameters> ParseQueryString(std::string_view query);

// A query apart from what its conditions are compared with and its cursor. Queries of one form ask the same of the
// catalog, so what was worked out for one serves them all.
struct QueryForm {
  std::string text;
  std::vector<std::pair<std::string_view, std::string_view>> values;  // name and value as sent, in that order
};
QueryForm FormOf(std::string_view query);
// A name or a value; nullopt where ParseQueryString refuses it.
std::optional<std::string> DecodeParameter(std::string_view sent);
// "a,b" with "\," for a comma.
std::vector<std::string> SplitValues(std::string_view text);

struct ListQueryLimits {
  int leaves = 50;       // conditions in the filter tree
  int depth = 5;         // of groups, negations and quantifiers
  int values = 100;      // of in, nin and their like; 5,000 in a body
  int max_limit = 1000;  // the resource's own, lower one is checked by libs/records
  int expand_depth = 3;
  int expands = 10;
  int sort_keys = 8;
  int64_t max_offset = 10000;
  size_t max_cursor = 4096;  // it holds the sort keys' values, which may be long texts
};
inline constexpr int kMaxValuesInBody = 5000;

// `others`: names the caller takes itself ("validate_only"); each found there is put into `*taken` and not refused.
// Both may be left out.
absl::Status ParseListQuery(const Parameters& parameters, const std::vector<std::string_view>& others,
                            std::map<std::string, std::string>* taken, common::v1::ListQuery* out,
                            const ListQueryLimits& limits = {});
// From the undecoded text after "?".
absl::StatusOr<common::v1::ListQuery> ParseListQuery(std::string_view query, const ListQueryLimits& limits = {});

// {"filter":{…},"sort":…,"fields":…,"expand":…,"limit":…,"cursor":…,"offset":…,"count":…,"deleted":…,"view":…}. Sort,
// fields and expand are lists of strings or one string as in the URL; places are JSON pointers.
absl::StatusOr<common::v1::ListQuery> ParseListQueryJson(const JsonValue& root, const ListQueryLimits& limits);

// Only a filter: {"status":"open","or":[{…},{…}]}. `pointer` is where it stands in its document.
absl::StatusOr<common::v1::Filter> ParseFilterJson(const JsonValue& value, std::string_view pointer,
                                                   const ListQueryLimits& limits);

}  // namespace mainstay::http
