// SPDX-License-Identifier: Apache-2.0
#include "libs/base/config.h"

#include <yaml-cpp/yaml.h>

#include <cctype>
#include <fstream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "libs/base/clock.h"
#include "libs/base/strings.h"

extern char** environ;

namespace mainstay {
namespace {

constexpr std::string_view kPrefix = "MAINSTAY_";

std::string EnvironmentName(std::string_view key) {
  return StrCat(kPrefix, absl::AsciiStrToUpper(ToAbsl(key)));
}

// A list becomes "a,b", a nested map the keys "outer_inner" (which Map fields gather again).
void Flatten(const YAML::Node& node, const std::string& prefix, std::map<std::string, std::string>& out) {
  for (const auto& entry : node) {
    const auto key =
        prefix.empty() ? entry.first.as<std::string>() : StrCat(prefix, "_", entry.first.as<std::string>());
    const YAML::Node& value = entry.second;
    if (value.IsScalar()) {
      out[key] = value.as<std::string>();
    } else if (value.IsSequence()) {
      std::vector<std::string> items;
      for (const auto& item : value) items.push_back(item.as<std::string>());
      out[key] = absl::StrJoin(items, ",");
    } else if (value.IsMap()) {
      Flatten(value, key, out);
    } else {
      out[key] = "";
    }
  }
}

}  // namespace

ConfigReader::ConfigReader(std::map<std::string, std::string> file_values,
                           std::map<std::string, std::string> environment)
    : file_(std::move(file_values)), environment_(std::move(environment)) {}

absl::StatusOr<ConfigReader> ConfigReader::Open(const std::string& file) {
  std::map<std::string, std::string> values, environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (text.substr(0, kPrefix.size()) != kPrefix) continue;
    const size_t equals = text.find('=');
    if (equals != text.npos) environment[std::string(text.substr(0, equals))] = std::string(text.substr(equals + 1));
  }
  if (!file.empty()) {
    std::ifstream in(file);
    if (!in) return absl::NotFoundError(StrCat("cannot read the configuration file ", file));
    try {
      const YAML::Node root = YAML::Load(in);
      if (!root.IsMap() && !root.IsNull())
        return absl::InvalidArgumentError(StrCat(file, ": a map of keys and values is expected"));
      Flatten(root, "", values);
    } catch (const YAML::Exception& e) {
      return absl::InvalidArgumentError(StrCat(file, ": ", e.what()));
    }
  }
  return ConfigReader(std::move(values), std::move(environment));
}

void ConfigReader::Fail(std::string_view origin, std::string_view message) {
  errors_.push_back(StrCat(origin, ": ", message));
}

bool ConfigReader::Take(std::string_view key, std::string* text, std::string* origin) {
  bool found = false;
  if (const auto it = file_.find(std::string(key)); it != file_.end()) {
    *text = it->second;
    *origin = key;
    file_.erase(it);
    found = true;
  }
  if (const auto it = environment_.find(EnvironmentName(key)); it != environment_.end()) {
    *text = it->second;
    *origin = it->first;
    found = true;
  }
  return found;
}

void ConfigReader::String(std::string_view key, std::string* out, std::string_view help) {
  fields_.push_back({std::string(key), *out, std::string(help)});
  std::string origin;
  Take(key, out, &origin);
}

void ConfigReader::Required(std::string_view key, std::string* out, std::string_view help) {
  fields_.push_back({std::string(key), "(required)", std::string(help)});
  std::string origin;
  Take(key, out, &origin);
  if (out->empty()) Fail(key, StrCat("is missing; set it in the file or as ", EnvironmentName(key)));
}

void ConfigReader::Secret(std::string_view key, std::string* out, std::string_view help) {
  fields_.push_back({std::string(key), "", std::string(help)});
  std::string text, origin;
  if (!Take(key, &text, &origin)) return;
  if (absl::StartsWith(text, "file:")) {
    std::ifstream in(text.substr(5));
    if (!in) {
      Fail(origin, StrCat("cannot read ", text.substr(5)));
      return;
    }
    text.assign(std::istreambuf_iterator<char>(in), {});
    absl::StripTrailingAsciiWhitespace(&text);
  }
  *out = text;
}

void ConfigReader::Int(std::string_view key, int64_t* out, int64_t min, int64_t max, std::string_view help) {
  fields_.push_back({std::string(key), StrCat(*out), std::string(help)});
  std::string text, origin;
  if (!Take(key, &text, &origin)) return;
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value)) {
    Fail(origin, StrCat("\"", text, "\" is not a whole number"));
  } else if (value < min || value > max) {
    Fail(origin, StrCat(value, " is not between ", min, " and ", max));
  } else {
    *out = value;
  }
}

void ConfigReader::Bool(std::string_view key, bool* out, std::string_view help) {
  fields_.push_back({std::string(key), *out ? "true" : "false", std::string(help)});
  std::string text, origin;
  if (!Take(key, &text, &origin)) return;
  if (text != "true" && text != "false") {
    Fail(origin, StrCat("\"", text, "\" is neither true nor false"));
    return;
  }
  *out = text == "true";
}

void ConfigReader::Duration(std::string_view key, absl::Duration* out, absl::Duration min, absl::Duration max,
                            std::string_view help) {
  fields_.push_back({std::string(key), absl::FormatDuration(*out), std::string(help)});
  std::string text, origin;
  if (!Take(key, &text, &origin)) return;
  const auto value = ParseDuration(text);
  if (!value.ok()) {
    Fail(origin, ToStd(value.status().message()));
  } else if (*value < min || *value > max) {
    Fail(origin, StrCat(text, " is not between ", absl::FormatDuration(min), " and ", absl::FormatDuration(max)));
  } else {
    *out = *value;
  }
}

void ConfigReader::List(std::string_view key, std::vector<std::string>* out, std::string_view help) {
  fields_.push_back({std::string(key), absl::StrJoin(*out, ","), std::string(help)});
  std::string text, origin;
  if (Take(key, &text, &origin)) *out = absl::StrSplit(text, ',', absl::SkipEmpty());
}

void ConfigReader::Map(std::string_view key, std::map<std::string, std::string>* out, std::string_view help) {
  fields_.push_back({std::string(key), "", std::string(help)});
  const std::string prefix = StrCat(key, "_");
  for (auto it = file_.lower_bound(prefix); it != file_.end() && absl::StartsWith(it->first, prefix);
       it = file_.erase(it)) {
    (*out)[it->first.substr(prefix.size())] = it->second;
  }
  std::string text, origin;
  if (!Take(key, &text, &origin)) return;
  for (const std::string& pair : std::vector<std::string>(absl::StrSplit(text, ',', absl::SkipEmpty()))) {
    const size_t equals = pair.find('=');
    if (equals == std::string::npos) {
      Fail(origin, StrCat("\"", pair, "\" is not of the form name=value"));
    } else {
      (*out)[pair.substr(0, equals)] = pair.substr(equals + 1);
    }
  }
}

void ConfigReader::Check(bool ok, std::string_view message) {
  if (!ok) errors_.emplace_back(message);
}

absl::Status ConfigReader::Finish() {
  for (const auto& [key, value] : file_) Fail(key, "is not a known key");
  file_.clear();
  if (errors_.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(errors_, "\n"));
}

std::string ConfigReader::Help() const {
  std::string out;
  for (const Field& field : fields_)
    StrAppend(&out, field.key, "  ", field.fallback.empty() ? "-" : field.fallback, "  ", field.help, "\n");
  return out;
}

}  // namespace mainstay
