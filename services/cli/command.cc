// SPDX-License-Identifier: Apache-2.0
#include "services/cli/command.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "libs/base/strings.h"

namespace mainstay::cli {
namespace {

bool IsOptional(const std::string& positional) {
  return absl::StartsWith(positional, "[");
}

std::string FlagText(const Flag& flag) {
  return StrCat("--", flag.name, flag.value.empty() ? "" : " ", flag.value);
}

void AppendIndented(std::string_view text, std::string& out) {
  for (const absl::string_view line : absl::StrSplit(ToAbsl(text), '\n'))
    StrAppend(&out, line.empty() ? "" : "  ", line, "\n");
}

}  // namespace

bool Arguments::Has(std::string_view flag) const {
  return flags_.find(flag) != flags_.end();
}

std::string Arguments::Get(std::string_view flag, std::string_view fallback) const {
  const auto it = flags_.find(flag);
  return it == flags_.end() ? std::string(fallback) : it->second.back();
}

std::vector<std::string> Arguments::All(std::string_view flag) const {
  const auto it = flags_.find(flag);
  return it == flags_.end() ? std::vector<std::string>() : it->second;
}

const std::string& Arguments::operator[](size_t position) const {
  static const std::string none;
  return position < positionals_.size() ? positionals_[position] : none;
}

absl::StatusOr<std::string> Arguments::FlagOrEnvironment(std::string_view flag, const char* variable) const {
  if (Has(flag)) return Get(flag);
  if (const char* value = std::getenv(variable); value != nullptr && *value != '\0') return std::string(value);
  return absl::InvalidArgumentError(StrCat("--", flag, " is missing (or set ", variable, ")"));
}

absl::StatusOr<Arguments> Command::Parse(const std::vector<std::string>& words) const {
  Arguments arguments;
  bool only_positionals = false;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (only_positionals || word == "-" || !absl::StartsWith(word, "-")) {
      arguments.positionals_.push_back(word);
      continue;
    }
    if (word == "--") {
      only_positionals = true;
      continue;
    }
    const size_t equals = word.find('=');
    const std::string given = word.substr(0, equals);
    const auto flag =
        std::find_if(flags.begin(), flags.end(), [&](const Flag& f) { return given == StrCat("--", f.name); });
    if (flag == flags.end()) return absl::InvalidArgumentError(StrCat("unknown option ", given));
    std::vector<std::string>& values = arguments.flags_[flag->name];
    if (!values.empty() && !flag->repeated) return absl::InvalidArgumentError(StrCat(given, " is given twice"));
    if (flag->value.empty()) {
      if (equals != word.npos) return absl::InvalidArgumentError(StrCat(given, " takes no value"));
      values.emplace_back("true");
    } else if (equals != word.npos) {
      values.push_back(word.substr(equals + 1));
    } else if (i + 1 < words.size()) {
      values.push_back(words[++i]);
    } else {
      return absl::InvalidArgumentError(StrCat(given, " needs a value: ", FlagText(*flag)));
    }
  }
  const size_t required =
      std::count_if(positionals.begin(), positionals.end(), [](const auto& p) { return !IsOptional(p); });
  if (arguments.positionals_.size() < required)
    return absl::InvalidArgumentError(StrCat(positionals[arguments.positionals_.size()], " is missing"));
  if (arguments.positionals_.size() > positionals.size())
    return absl::InvalidArgumentError(StrCat("one argument too many: ", arguments.positionals_.back()));
  return arguments;
}

std::string Command::Help() const {
  std::string out = StrCat("mainstay ", name, ": ", summary, "\n\nUsage: mainstay ", name);
  for (const std::string& positional : positionals) StrAppend(&out, " ", positional);
  if (!flags.empty()) StrAppend(&out, " [option...]");
  StrAppend(&out, "\n\n", details, "\n");
  if (!flags.empty()) {
    size_t width = 0;
    for (const Flag& flag : flags) width = std::max(width, FlagText(flag).size());
    StrAppend(&out, "\nOptions:\n");
    for (const Flag& flag : flags) {
      const std::string text = FlagText(flag);
      StrAppend(&out, "  ", text, std::string(width - text.size() + 2, ' '), flag.help, "\n");
    }
  }
  if (!examples.empty()) {
    StrAppend(&out, "\nExamples:\n");
    AppendIndented(examples, out);
  }
  return out;
}

std::vector<Flag> DatabaseFlags(std::vector<Flag> more) {
  more.insert(more.begin(), {"database", "URL", "PostgreSQL, as the owner of the tables (or MAINSTAY_DATABASE_URL)"});
  return more;
}

std::vector<Flag> GatewayFlags(std::vector<Flag> more) {
  more.push_back({"url", "URL", "the gateway (or MAINSTAY_URL; default http://127.0.0.1:8080)"});
  more.push_back(
      {"key-file", "FILE", "a file that holds the API key (or MAINSTAY_KEY_FILE, or the key itself in MAINSTAY_KEY)"});
  more.push_back({"json", "", "print the answer as it came"});
  return more;
}

}  // namespace mainstay::cli
