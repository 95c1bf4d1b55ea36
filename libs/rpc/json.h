// SPDX-License-Identifier: Apache-2.0
// Protobuf messages as JSON in the suite's own form, both ways.
//
// snake_case names; enums as lower-case words without prefix (null when unspecified); 64-bit integers as strings, read
// from strings or numbers; times RFC 3339 with 6 decimals; durations "1.5s"; bytes base64url without padding; raw_json
// fields verbatim. Every field is written, unset messages and optionals as null, so that shapes are stable. Reading is
// strict and names every violation at once: unknown fields, output_only fields (read_only), wrong types, ranges and
// missing required fields, each with its JSON pointer. Duplicate keys were refused by the parser of libs/base/json.h.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "libs/base/problem.h"

namespace google::protobuf {
class FieldDescriptor;
class Message;
}  // namespace google::protobuf
namespace mainstay {
class JsonValue;
}

namespace mainstay::rpc {

void AppendJson(const google::protobuf::Message& message, std::string& out);
std::string ToJson(const google::protobuf::Message& message);

// Fills `message` from an object, adding to `errors`. `pointer` is where the object stands. `skip`: top-level fields that came from
// elsewhere (the path); they are unknown here.
void ReadJson(const JsonValue& value, const std::string& pointer, const std::vector<std::string>& skip,
              google::protobuf::Message& message, std::vector<FieldError>& errors);
// validation-failed with all of them.
absl::Status FromJson(const JsonValue& value, google::protobuf::Message& message);

// A scalar, enum, Duration or Timestamp field from its text in a path or query ("10s", "ready", "42"); repeated fields take one more element. False when the text does not fit;
// `code` and `detail` then say why.
bool SetFromText(const google::protobuf::FieldDescriptor& field, std::string_view text,
                 google::protobuf::Message& message, std::string& code, std::string& detail);

}  // namespace mainstay::rpc
