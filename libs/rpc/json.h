// SPDX-License-Identifier: Apache-2.0
// Protobuf messages ↔ JSON by the API's conventions, through reflection.
//
// snake_case names; enums as lower-case words without their prefix; 64-bit integers as strings (a number is accepted
// too); times RFC 3339 UTC with 6 decimals; durations "1.5s"; bytes base64url; fields marked raw_json stand as the JSON
// they hold, verbatim. Out: every field, what is unset as null, so that shapes are stable. In: unknown fields,
// output_only fields, wrong types and missing required ones are refused, all at once, each with its pointer. protobuf's
// own converter is not used: it accepts far too much.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"

namespace google::protobuf {
class Message;
class FieldDescriptor;
}  // namespace google::protobuf

namespace mainstay::rpc {

// Appends `message` as a JSON object.
void AppendJson(const google::protobuf::Message& message, std::string& out);

// Fills `message` (empty) from a JSON object. `pointer` is where it stands in the body. Errors are added to `errors`.
void ReadJson(const JsonValue& json, std::string_view pointer, google::protobuf::Message& message,
              std::vector<FieldError>& errors);
// The same for a whole body: validation-failed with every error.
absl::Status FromJson(const JsonValue& json, google::protobuf::Message& message);

// Sets a single field from the text of a path or query parameter. Returns what is wrong ("an integer is expected"),
// empty when nothing is. Repeated fields take comma-separated values.
std::string SetFromText(google::protobuf::Message& message, const google::protobuf::FieldDescriptor& field,
                        std::string_view text);

}  // namespace mainstay::rpc
