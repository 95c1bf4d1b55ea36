// SPDX-License-Identifier: Apache-2.0
// Structured logs: one JSON line per event on stderr, redacted by field name and by registered secret values.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace mainstay::log {

enum class Level { kDebug, kInfo, kWarn, kError };

// A field's value; numbers and booleans stay what they are in the JSON.
struct Value {
  Value(std::string_view text);    // NOLINT: implicit on purpose, for {{"job", id}}
  Value(const char* text);         // NOLINT
  Value(const std::string& text);  // NOLINT
  Value(int64_t number);           // NOLINT
  Value(int number);               // NOLINT
  Value(uint64_t number);          // NOLINT
  Value(double number);            // NOLINT
  Value(bool flag);                // NOLINT
  std::string json;
};
using Fields = std::initializer_list<std::pair<std::string_view, Value>>;

// Once, at start. `service` stands in every line.
void Init(std::string_view service, std::string_view level);
// From now on this text never appears in a line (at least 8 bytes, else ignored).
void RegisterSecret(std::string_view value);

void Write(Level level, std::string_view message, Fields fields);
inline void Debug(std::string_view message, Fields fields = {}) {
  Write(Level::kDebug, message, fields);
}
inline void Info(std::string_view message, Fields fields = {}) {
  Write(Level::kInfo, message, fields);
}
inline void Warn(std::string_view message, Fields fields = {}) {
  Write(Level::kWarn, message, fields);
}
inline void Error(std::string_view message, Fields fields = {}) {
  Write(Level::kError, message, fields);
}

}  // namespace mainstay::log
