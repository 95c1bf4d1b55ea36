// SPDX-License-Identifier: Apache-2.0
#include "libs/catalog/sensitive.h"

#include <algorithm>
#include <array>
#include <string>

#include "libs/catalog/build.h"

namespace mainstay::catalog {

bool LooksSensitive(std::string_view column) {
  // Whole words of the public name, so that "secretary" and "passenger" stay innocent; some are telling wherever they
  // stand.
  static constexpr std::array<std::string_view, 21> kWords = {
      "password", "passwd", "pwd",  "pass", "passphrase", "secret",     "token",       "ssn",    "pin", "cvv", "cvc",
      "otp",      "totp",   "salt", "iban", "passport",   "credential", "credentials", "apikey", "pan", "tin"};
  static constexpr std::array<std::string_view, 14> kParts = {
      "password",    "passwd",     "passphrase",      "secret_",     "_secret",     "_token", "api_key",
      "private_key", "access_key", "social_security", "credit_card", "card_number", "tax_id", "national_id"};
  const std::string name = PublicName(column);
  std::string_view rest = name;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('_'), rest.size());
    if (std::find(kWords.begin(), kWords.end(), rest.substr(0, end)) != kWords.end()) return true;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return std::any_of(kParts.begin(), kParts.end(),
                     [&](std::string_view part) { return name.find(part) != std::string::npos; });
}

}  // namespace mainstay::catalog
