// SPDX-License-Identifier: Apache-2.0
#include "libs/telemetry/trace.h"

#include <algorithm>

#include "libs/base/crypto.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"

namespace mainstay::trace {
namespace {

bool IsLowerHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}
bool IsZero(std::string_view text) {
  return text.find_first_not_of('0') == std::string_view::npos;
}

}  // namespace

std::string SpanContext::Traceparent() const {
  return StrCat("00-", trace_id, "-", span_id, sampled ? "-01" : "-00");
}

std::optional<SpanContext> Parse(std::string_view t) {
  // Version 00 has exactly 55 characters; later versions may append fields, but never start with ff.
  if (t.size() < 55 || t[2] != '-' || t[35] != '-' || t[52] != '-' || !IsLowerHex(t.substr(0, 2)) ||
      t.substr(0, 2) == "ff")
    return std::nullopt;
  if (t.substr(0, 2) == "00" ? t.size() != 55 : t.size() > 55 && t[55] != '-') return std::nullopt;
  const std::string_view trace = t.substr(3, 32), span = t.substr(36, 16), flags = t.substr(53, 2);
  if (!IsLowerHex(trace) || !IsLowerHex(span) || !IsLowerHex(flags) || IsZero(trace) || IsZero(span))
    return std::nullopt;
  const char low = flags[1];
  const int bits = low <= '9' ? low - '0' : low - 'a' + 10;
  return SpanContext{std::string(trace), std::string(span), (bits & 1) != 0};
}

SpanContext New() {
  return {HexEncode(RandomBytes(16)), HexEncode(RandomBytes(8)), true};
}

SpanContext Child(std::string_view parent) {
  auto context = Parse(parent);
  if (!context) return New();
  context->span_id = HexEncode(RandomBytes(8));
  return *std::move(context);
}

}  // namespace mainstay::trace
