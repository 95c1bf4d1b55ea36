// SPDX-License-Identifier: Apache-2.0
// Small text helpers that several libraries share: encodings, UTF-8 checks, bounded cuts. Strict: what is malformed is
// refused.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace mainstay {

std::string HexEncode(std::string_view bytes);
std::optional<std::string> HexDecode(std::string_view text);        // either case; even length
std::string Base64Encode(std::string_view bytes);                   // with padding
std::optional<std::string> Base64Decode(std::string_view text);     // padding required, no blanks, zero spare bits
std::string Base64UrlEncode(std::string_view bytes);                // without padding
std::optional<std::string> Base64UrlDecode(std::string_view text);  // padding refused

bool IsValidUtf8(std::string_view text);  // RFC 3629: no surrogates, no overlong forms
// At most `bytes` of `text`, never cutting a UTF-8 character in two.
std::string_view TruncateUtf8(std::string_view text, size_t bytes);
// Percent-decodes; nullopt on a bad escape. `plus_is_space` for query strings.
std::optional<std::string> PercentDecode(std::string_view text, bool plus_is_space);
std::string PercentEncode(std::string_view text);  // RFC 3986 unreserved stay

// A PostgreSQL array literal of text elements: {"a","b\"c"}; bound as one parameter and cast ($1::text[]).
class PgArray {
 public:
  void Add(std::string_view element);
  void AddNull();
  std::string Finish() &&;

 private:
  std::string text_ = "{";
};

}  // namespace mainstay
