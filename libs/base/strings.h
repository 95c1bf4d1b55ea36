// SPDX-License-Identifier: Apache-2.0
// Abseil's string functions for std::string_view.
//
// The installed Abseil was built with a string_view class of its own, which std::string_view does not convert to. Call
// StrCat and StrAppend from here (same namespace, so unqualified), and bridge other Abseil functions with ToAbsl and
// ToStd.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace mainstay {

inline absl::string_view ToAbsl(std::string_view text) {
  return {text.data(), text.size()};
}
inline std::string_view ToStd(absl::string_view text) {
  return {text.data(), text.size()};
}

namespace strings_internal {
inline absl::string_view Argument(std::string_view text) {
  return ToAbsl(text);
}
inline absl::string_view Argument(const std::string& text) {
  return text;
}
inline absl::string_view Argument(const char* text) {
  return text;
}
inline absl::string_view Argument(absl::string_view text) {
  return text;
}
template <typename T>
const T& Argument(const T& value) {
  return value;
}
}  // namespace strings_internal

template <typename... Args>
std::string StrCat(const Args&... args) {
  return absl::StrCat(strings_internal::Argument(args)...);
}
template <typename... Args>
void StrAppend(std::string* out, const Args&... args) {
  absl::StrAppend(out, strings_internal::Argument(args)...);
}

}  // namespace mainstay
