// SPDX-License-Identifier: Apache-2.0
// Names: public ones made from columns, and guesses at what a misspelt one meant.
#include <unicode/translit.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/synchronization/mutex.h"
#include "libs/catalog/build.h"
#include "libs/catalog/declarations.h"

namespace mainstay::catalog {
namespace {

std::string ToAscii(std::string_view text) {
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; }))
    return std::string(text);
  // Made once, on the first name that needs it (it costs milliseconds); an object of ICU is used by one thread at a
  // time.
  static absl::Mutex mutex;
  absl::MutexLock lock(&mutex);
  static const std::unique_ptr<icu::Transliterator> transliterator = [] {
    UErrorCode error = U_ZERO_ERROR;
    return std::unique_ptr<icu::Transliterator>(
        icu::Transliterator::createInstance("Any-Latin; Latin-ASCII", UTRANS_FORWARD, error));
  }();
  if (transliterator == nullptr) return std::string(text);
  icu::UnicodeString unicode =
      icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
  transliterator->transliterate(unicode);
  std::string out;
  unicode.toUTF8String(out);
  return out;
}

// Edits (a letter more, less, other, or two swapped) between two names.
size_t Distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before(b.size() + 1), last(b.size() + 1), now(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) now[j] = std::min(now[j], before[j - 2] + 1);
    }
    before = last;
    last = now;
  }
  return last[b.size()];
}

}  // namespace

std::string PublicName(std::string_view column) {
  if (IsFieldName(column)) return IsReservedName(column) ? std::string(column) + "_" : std::string(column);
  const std::string ascii = ToAscii(column);
  auto at = [&](size_t i) { return i < ascii.size() ? static_cast<unsigned char>(ascii[i]) : 0; };
  std::string out;
  for (size_t i = 0; i < ascii.size(); ++i) {
    const unsigned char c = at(i);
    if (!absl::ascii_isalnum(c)) {
      if (!out.empty() && out.back() != '_') out += '_';
      continue;
    }
    // createdAt → created_at, HTTPServer → http_server
    if (absl::ascii_isupper(c) && i > 0 && !out.empty() && out.back() != '_' &&
        (absl::ascii_islower(at(i - 1)) || absl::ascii_isdigit(at(i - 1)) ||
         (absl::ascii_isupper(at(i - 1)) && absl::ascii_islower(at(i + 1)))))
      out += '_';
    out += static_cast<char>(absl::ascii_tolower(c));
  }
  while (!out.empty() && out.back() == '_') out.pop_back();
  if (out.empty() || !absl::ascii_islower(static_cast<unsigned char>(out[0]))) out = out.empty() ? "field" : "f_" + out;
  if (IsReservedName(out)) out += '_';
  return out.substr(0, 63);
}

std::string Nearest(std::string_view name, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(1, (name.size() + 1) / 3) + 1;
  if (name.size() > 100) return "";
  for (const std::string& candidate : candidates) {
    if (candidate.size() > 100) continue;
    size_t distance = Distance(name, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace mainstay::catalog
