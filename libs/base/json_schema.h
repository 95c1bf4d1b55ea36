// SPDX-License-Identifier: Apache-2.0
// JSON Schema, for values that others send: what the arguments of a job must look like.
//
// The part of draft 2020-12 (and of draft 7) that says what a value is: the table of keywords in json_schema.cc. What a
// schema asks for is checked, or the schema is refused when it is compiled (multipleOf, dependentSchemas, minContains,
// unevaluated…, anchors): no keyword passes silently but annotations, to which the standard counts `format`. Patterns
// are RE2 and unanchored, no reference leaves the document, numbers are compared by their digits, and the work for one
// value is bounded, so no value can hold up or fell the process. Immutable, so thread-safe.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"

namespace mainstay {

class JsonSchema {
 public:
  // InvalidArgument with the pointer of what is wrong, e.g. `/properties/to/typ: unknown keyword`.
  static absl::StatusOr<JsonSchema> Compile(std::string json);

  // Adds what is wrong with `value` to `errors`, named by `at` and the pointer below it, until there are `limit`.
  void Check(const JsonValue& value, std::string_view at, std::vector<FieldError>& errors, size_t limit = 20) const;

 private:
  struct Compiled;
  explicit JsonSchema(std::shared_ptr<const Compiled> compiled) : compiled_(std::move(compiled)) {}
  std::shared_ptr<const Compiled> compiled_;
};

}  // namespace mainstay
