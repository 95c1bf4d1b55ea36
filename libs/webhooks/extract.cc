// SPDX-License-Identifier: Apache-2.0
#include "libs/webhooks/extract.h"

#include "absl/strings/numbers.h"
#include "libs/base/clock.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"

namespace mainstay::webhooks {
namespace {

bool Digits(std::string_view text) {
  if (text.empty() || text.size() > 16) return false;
  for (char c : text)
    if (c < '0' || c > '9') return false;
  return true;
}

// A value of an urlencoded form, by the same rules as a query parameter.
std::optional<std::string> FormValue(const Delivery& delivery, std::string_view name) {
  Delivery form;
  form.target = StrCat("?", delivery.body);
  return form.Query(name);
}

}  // namespace

const JsonValue* FindPath(const JsonValue& root, std::string_view path) {
  const JsonValue* value = &root;
  while (!path.empty()) {
    size_t dot = path.find('.');
    std::string_view step = path.substr(0, dot);
    path = dot == std::string_view::npos ? std::string_view() : path.substr(dot + 1);
    if (value->is_array()) {
      uint32_t index = 0;
      if (!Digits(step) || step.size() > 6 || !absl::SimpleAtoi(ToAbsl(step), &index)) return nullptr;
      if (index >= value->items().size()) return nullptr;
      value = &value->items()[index];
    } else {
      value = value->Find(step);
      if (value == nullptr) return nullptr;
    }
  }
  return value;
}

std::optional<std::string> TextOf(const JsonValue& value) {
  switch (value.kind()) {
    case JsonValue::Kind::kNull:
      return std::nullopt;
    case JsonValue::Kind::kBool:
      return value.boolean() ? "true" : "false";
    case JsonValue::Kind::kNumber:
    case JsonValue::Kind::kString:
      return std::string(value.text());
    case JsonValue::Kind::kArray:
    case JsonValue::Kind::kObject:
      return std::string(value.raw());
  }
  return std::nullopt;
}

std::optional<std::string> Extract(const catalog::ValueSource& sources, const Delivery& delivery,
                                   const JsonValue* body) {
  for (const std::string& source : sources) {
    size_t colon = source.find(':');
    if (colon == std::string::npos) continue;
    std::string_view kind = std::string_view(source).substr(0, colon),
                     name = std::string_view(source).substr(colon + 1);
    if (kind == "const") return std::string(name);
    if (kind == "json" && body != nullptr) {
      const JsonValue* value = FindPath(*body, name);
      if (value == nullptr || value->is_object() || value->is_array()) continue;
      if (std::optional<std::string> text = TextOf(*value); text && !text->empty()) return text;
    } else if (kind == "header") {
      std::string lower(name);
      for (char& c : lower)
        if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
      if (auto value = delivery.Header(lower); value && !value->empty()) return std::string(*value);
    } else if (kind == "query") {
      if (auto value = delivery.Query(name); value && !value->empty()) return value;
    } else if (kind == "form") {
      if (auto value = FormValue(delivery, name); value && !value->empty()) return value;
    }
  }
  return std::nullopt;
}

absl::StatusOr<absl::Time> ParseSenderTime(std::string_view text, std::string_view unit) {
  if (unit == "iso8601") return ParseTimestamp(text);
  int64_t number = 0;
  if (!Digits(text) || !absl::SimpleAtoi(ToAbsl(text), &number))
    return absl::InvalidArgumentError("a time in plain digits was expected");
  absl::Time time = unit == "ms" ? absl::FromUnixMillis(number) : absl::FromUnixSeconds(number);
  // PostgreSQL and RFC 3339 end with the year 9999.
  if (time > absl::FromUnixSeconds(253402300799))
    return absl::InvalidArgumentError("a time before the year 10000 was expected");
  return time;
}

}  // namespace mainstay::webhooks
