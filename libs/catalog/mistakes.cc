// SPDX-License-Identifier: Apache-2.0
// Mistakes: where they stand, how they read, and all of them as one status.
#include <algorithm>
#include <tuple>

#include "absl/strings/str_join.h"
#include "libs/base/strings.h"
#include "libs/catalog/build.h"
#include "libs/catalog/declarations.h"

namespace mainstay::catalog {

constexpr size_t kMaxReported = 100;

std::string Mistake::ToString() const {
  std::string out;
  if (!file.empty()) out = line > 0 ? StrCat(file, ":", line, ":", column, ": ") : StrCat(file, ": ");
  if (!path.empty()) StrAppend(&out, path, ": ");
  out += message;
  // A mistake is one line, whatever it quotes.
  for (char& c : out)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = ' ';
  return out;
}

absl::Status MistakesToStatus(std::vector<Mistake> mistakes) {
  if (mistakes.empty()) return absl::OkStatus();
  std::stable_sort(mistakes.begin(), mistakes.end(), [](const Mistake& a, const Mistake& b) {
    return std::tie(a.file, a.line, a.column) < std::tie(b.file, b.line, b.column);
  });
  std::vector<std::string> lines;
  for (const Mistake& mistake : mistakes) {
    std::string line = mistake.ToString();
    if (lines.size() == kMaxReported) {
      lines.push_back(StrCat("… and ", mistakes.size() - kMaxReported, " more"));
      break;
    }
    if (lines.empty() || lines.back() != line) lines.push_back(std::move(line));
  }
  return absl::InvalidArgumentError(absl::StrJoin(lines, "\n"));
}

Mistake MistakeAt(const Declarations& declarations, const std::string& path, std::string message, bool at_key) {
  std::string_view near = path;
  for (;;) {
    auto it = declarations.places.find(std::string(near));
    if (it != declarations.places.end()) {
      // A place above the wrong one is named by its key; the value of a long map would point at its first entry.
      const Spot& spot = at_key || near.size() != path.size() ? it->second.key : it->second.value;
      return {spot.file < 0 ? "" : declarations.files[spot.file].name, spot.line, spot.column, path,
              std::move(message)};
    }
    size_t cut = near.find_last_of(".[");
    if (cut == std::string_view::npos) return {"", 0, 0, path, std::move(message)};
    near = near.substr(0, cut);
  }
}

}  // namespace mainstay::catalog
