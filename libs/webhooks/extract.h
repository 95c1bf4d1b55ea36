// SPDX-License-Identifier: Apache-2.0
// Values out of a delivery by the catalog's expressions: "json:data.object.id", "header:X-Id", "query:k", "form:k",
// "const:text".
//
// Only ever called on a verified delivery. A value is text: a JSON string's characters, a number's exact digits, true
// or false; objects and arrays are their JSON.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/json.h"
#include "libs/catalog/model.h"
#include "libs/webhooks/delivery.h"

namespace mainstay::webhooks {

// The value at a dotted path ("items.0.id"); null when there is nothing.
const JsonValue* FindPath(const JsonValue& root, std::string_view path);
// nullopt for null.
std::optional<std::string> TextOf(const JsonValue& value);

// The first source that is present. `body`: the parsed body, or null when it is no JSON.
std::optional<std::string> Extract(const catalog::ValueSource& sources, const Delivery& delivery,
                                   const JsonValue* body);

// A sender's time: seconds or milliseconds since 1970 as plain digits, or RFC 3339.
absl::StatusOr<absl::Time> ParseSenderTime(std::string_view text, std::string_view unit);

}  // namespace mainstay::webhooks
