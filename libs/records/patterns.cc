// SPDX-License-Identifier: Apache-2.0
#include "libs/records/patterns.h"

#include <re2/re2.h>

#include <charconv>
#include <map>
#include <memory>

#include "absl/synchronization/mutex.h"
#include "libs/base/strings.h"
#include "libs/records/value.h"

namespace mainstay::records {
namespace {

int CompareDecimals(std::string_view a, std::string_view b) {
  const bool minus_a = a.starts_with('-'), minus_b = b.starts_with('-');
  if (minus_a != minus_b) return minus_a ? -1 : 1;
  if (minus_a) {
    std::swap(a, b);
    a.remove_prefix(1);
    b.remove_prefix(1);
  }
  const auto split = [](std::string_view text) {
    const size_t point = text.find('.');
    return std::pair(text.substr(0, point),
                     point == std::string_view::npos ? std::string_view() : text.substr(point + 1));
  };
  const auto [whole_a, rest_a] = split(a);
  const auto [whole_b, rest_b] = split(b);
  if (whole_a.size() != whole_b.size()) return whole_a.size() < whole_b.size() ? -1 : 1;
  if (const int c = whole_a.compare(whole_b); c != 0) return c;
  return rest_a.compare(rest_b);  // without trailing zeros, so text order is numeric order
}

}  // namespace

bool FullMatch(const std::string& pattern, std::string_view text) {
  static absl::Mutex mu(absl::kConstInit);
  // Patterns come from catalogs only: few, and kept for the life of the process.
  static auto& compiled = *new std::map<std::string, std::unique_ptr<RE2>>();
  const RE2* re = nullptr;
  {
    absl::ReaderMutexLock lock(&mu);
    if (const auto it = compiled.find(pattern); it != compiled.end()) re = it->second.get();
  }
  if (re == nullptr) {
    RE2::Options options;
    options.set_log_errors(false);
    auto fresh = std::make_unique<RE2>(pattern, options);
    absl::MutexLock lock(&mu);
    re = compiled.emplace(pattern, std::move(fresh)).first->second.get();
  }
  return re->ok() && RE2::FullMatch(re2::StringPiece(text.data(), text.size()), *re);
}

int CompareValues(const catalog::ColumnType& type, std::string_view a, std::string_view b) {
  using catalog::TypeFamily;
  switch (type.family) {
    case TypeFamily::kInt16:
    case TypeFamily::kInt32:
    case TypeFamily::kInt64:
    case TypeFamily::kDecimal: {
      catalog::ColumnType plain;
      plain.family = TypeFamily::kDecimal;
      std::string left, right;
      if (!ConvertText(plain, a, left).ok() || !ConvertText(plain, b, right).ok()) return 0;
      return CompareDecimals(left, right);
    }
    case TypeFamily::kFloat32:
    case TypeFamily::kFloat64: {
      double left = 0, right = 0;
      std::from_chars(a.data(), a.data() + a.size(), left);
      std::from_chars(b.data(), b.data() + b.size(), right);
      return left < right ? -1 : left > right ? 1 : 0;
    }
    default: {
      // Dates, times and timestamps have one form each, in which text order is their order.
      std::string right;
      if (!ConvertText(type, b, right).ok()) right = b;
      return a.compare(right);
    }
  }
}

}  // namespace mainstay::records
