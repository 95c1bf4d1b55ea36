// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/keys.h"

#include <charconv>

#include "libs/base/strings.h"

namespace mainstay::jobs {

std::string StreamKey(std::string_view queue, int priority, std::string_view lane) {
  std::string key = StrCat("mainstay:jobs:{", queue, "}:", priority);
  if (!lane.empty()) StrAppend(&key, ":", lane);
  return key;
}

std::string Route(std::string_view kind, int version) {
  return version == 0 ? std::string(kind) : StrCat(kind, "@", version);
}

std::string EncodeEntry(const Entry& entry) {
  std::string text = StrCat(entry.id.ToString(), " ", entry.fence, " ", entry.attempt, " ", entry.kind);
  if (entry.args.has_value()) StrAppend(&text, " ", *entry.args);
  return text;
}

std::optional<Entry> DecodeEntry(std::string_view text) {
  auto word = [&]() {
    const size_t end = text.find(' ');
    const std::string_view w = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    return w;
  };
  auto number = [](std::string_view w, auto* out) {
    const auto [rest, error] = std::from_chars(w.data(), w.data() + w.size(), *out);
    return error == std::errc() && rest == w.data() + w.size() && !w.empty();
  };
  Entry entry;
  const auto id = ParseUuid(word());
  if (!id.ok()) return std::nullopt;
  entry.id = *id;
  if (!number(word(), &entry.fence) || !number(word(), &entry.attempt)) return std::nullopt;
  entry.kind = std::string(word());
  if (entry.kind.empty()) return std::nullopt;
  if (!text.empty()) entry.args = std::string(text);
  return entry;
}

}  // namespace mainstay::jobs
