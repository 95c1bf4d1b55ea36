// SPDX-License-Identifier: Apache-2.0
// JSON at the edge: a strict reader that keeps every digit, and a writer.
//
// The reader (RFC 8259 + RFC 7493) refuses what lenient ones let through and attackers use: duplicate keys (also when
// one is escaped), bad UTF-8, lone surrogates, a BOM, NaN, comments, trailing text, nesting over the limit. A number
// stays the text that was sent. Each value knows its place in the input, so that free JSON passes through verbatim.
// Errors are the problems json-invalid, json-duplicate-key, json-too-deep with a pointer.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace mainstay {

struct JsonLimits {
  int depth = 32;
  int number_digits = 64;     // length of a number's text
  int number_exponent = 400;  // absolute
};

// A value of a parsed document. Views point into the JsonDocument, which must outlive them.
class JsonValue {
 public:
  enum class Kind : uint8_t { kNull, kBool, kNumber, kString, kArray, kObject };
  struct Member;

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::kNull; }
  bool is_object() const { return kind_ == Kind::kObject; }
  bool is_array() const { return kind_ == Kind::kArray; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_number() const { return kind_ == Kind::kNumber; }
  bool is_bool() const { return kind_ == Kind::kBool; }

  bool boolean() const { return boolean_; }
  std::string_view text() const { return text_; }  // a string's characters (unescaped) or a number's exact text
  const std::vector<JsonValue>& items() const { return *items_; }
  const std::vector<Member>& members() const { return *members_; }  // in the order sent
  const JsonValue* Find(std::string_view key) const;                // null when absent or no object
  // The bytes this value had in the input.
  std::string_view raw() const { return raw_; }

 private:
  friend class JsonReader;
  Kind kind_ = Kind::kNull;
  bool boolean_ = false;
  std::string_view text_;
  std::string_view raw_;
  std::shared_ptr<std::vector<JsonValue>> items_;
  std::shared_ptr<std::vector<Member>> members_;
};
struct JsonValue::Member {
  std::string_view key;
  JsonValue value;
};

class JsonDocument {
 public:
  // Keeps its own copy of `text`.
  static absl::StatusOr<JsonDocument> Parse(std::string text, const JsonLimits& limits = {});
  const JsonValue& root() const { return root_; }

 private:
  friend class JsonReader;
  std::unique_ptr<std::string> input_;
  std::unique_ptr<std::deque<std::string>> unescaped_;  // strings that had escapes
  JsonValue root_;
};

// Appends JSON to a string: keeps track of commas, escapes what must be escaped. Nothing checks that the calls balance
// but debug assertions.
class JsonWriter {
 public:
  explicit JsonWriter(std::string& out) : out_(out) {}
  JsonWriter& BeginObject();
  JsonWriter& EndObject();
  JsonWriter& BeginArray();
  JsonWriter& EndArray();
  JsonWriter& Key(std::string_view key);
  JsonWriter& String(std::string_view value);
  JsonWriter& Int(int64_t value);    // as a JSON number; 64-bit integers of resources go out by String
  JsonWriter& Double(double value);  // shortest form that reads back; NaN and infinities as strings
  JsonWriter& Bool(bool value);
  JsonWriter& Null();
  JsonWriter& Raw(std::string_view json);  // already JSON

 private:
  void Separate();
  std::string& out_;
  bool comma_ = false;
};

// `"…"` with the escapes RFC 8259 asks for; invalid UTF-8 becomes U+FFFD. Appended to `out`.
void AppendJsonString(std::string_view text, std::string& out);
std::string JsonQuote(std::string_view text);

}  // namespace mainstay
