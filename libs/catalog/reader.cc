// SPDX-License-Identifier: Apache-2.0
#include "libs/catalog/reader.h"

#include <re2/re2.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "libs/base/clock.h"
#include "libs/base/text.h"

namespace mainstay::catalog {

static bool MatchesName(std::string_view name, std::string_view more) {
  if (name.empty() || name.size() > 63 || !absl::ascii_islower(static_cast<unsigned char>(name[0]))) return false;
  for (char c : name)
    if (!absl::ascii_islower(static_cast<unsigned char>(c)) && !absl::ascii_isdigit(static_cast<unsigned char>(c)) &&
        more.find(c) == std::string_view::npos)
      return false;
  return true;
}
bool IsResourceName(std::string_view name) {
  return MatchesName(name, "-") && name.back() != '-' && name.find("--") == std::string_view::npos;
}
bool IsPlainName(std::string_view name) {
  return MatchesName(name, "_-");
}
bool IsRoleName(std::string_view name) {
  return MatchesName(name, "_-.:");
}
bool IsSecretName(std::string_view name) {
  return MatchesName(name, "_-./");
}
bool IsJobKind(std::string_view name) {
  static const RE2 form("[a-z][a-z0-9_]*(\\.[a-z][a-z0-9_]*)*");
  return name.size() <= 100 && RE2::FullMatch(re2::StringPiece(name.data(), name.size()), form);
}
bool IsFieldName(std::string_view name) {
  return MatchesName(name, "_");
}
bool IsReservedName(std::string_view name) {
  return name == "and" || name == "or" || name == "not" || name == "some" || name == "none" || name == "every";
}
std::string JoinNames(const std::vector<std::string>& names) {
  if (names.size() <= 30) return absl::StrJoin(names, ", ");
  return StrCat(absl::StrJoin(std::vector<std::string>(names.begin(), names.begin() + 30), ", "), " …");
}

std::string KindWord(const Yaml& value) {
  switch (value.kind) {
    case Yaml::Kind::kNull:
      return "nothing";
    case Yaml::Kind::kScalar:
      return StrCat("\"", TruncateUtf8(value.text, 80), "\"");
    case Yaml::Kind::kList:
      return "a list";
    case Yaml::Kind::kMap:
      return "a map";
  }
  return "";
}

std::string Choice(const std::vector<std::string>& words) {
  if (words.size() == 1) return words[0];
  std::vector<std::string> head(words.begin(), words.end() - 1);
  return StrCat(absl::StrJoin(head, ", "), " or ", words.back());
}

Reader::Reader(Context& context, const Yaml& node, std::string path, std::string_view kind)
    : context_(context), node_(node), path_(std::move(path)), kind_(kind) {
  if (node_.kind != Yaml::Kind::kMap && node_.kind != Yaml::Kind::kNull)
    Fail(node_.at, path_, StrCat("expected a map of settings, got ", KindWord(node_)));
}

const Yaml* Reader::Take(std::string_view key) {
  context_.out.accepted[std::string(kind_)].insert(std::string(key));
  taken_.insert(std::string(key));
  const Yaml::Member* member = Find(key);
  if (member == nullptr) return nullptr;
  context_.out.places[Path(key)] = {member->value->at, member->at};
  return member->value.get();
}

void Reader::Fail(Spot at, const std::string& path, std::string message) {
  context_.mistakes.push_back(
      {at.file < 0 ? "" : context_.out.files[at.file].name, at.line, at.column, path, std::move(message)});
}

void Reader::Fail(std::string_view key, std::string message) {
  const Yaml::Member* member = Find(key);
  Fail(member ? member->value->at : node_.at, Path(key), std::move(message));
}

bool Reader::Scalar(const Yaml& value, const std::string& path, std::string* out) {
  if (value.kind != Yaml::Kind::kScalar) {
    Fail(value.at, path, StrCat("expected a text, got ", KindWord(value)));
    return false;
  }
  *out = value.text;
  return true;
}

void Reader::Text(std::string_view key, std::string* out, size_t max) {
  if (const Yaml* value = Take(key)) {
    if (Scalar(*value, Path(key), out) && out->size() > max)
      Fail(value->at, Path(key), StrCat("longer than ", max, " bytes"));
  }
}

void Reader::Required(std::string_view key, std::string* out) {
  Text(key, out);
  if (!Has(key) && IsMap()) Fail(node_.at, path_, StrCat("the key \"", key, "\" is missing"));
}

void Reader::Word(std::string_view key, std::string* out, const std::vector<std::string>& words) {
  const Yaml* value = Take(key);
  std::string text;
  if (value == nullptr || !Scalar(*value, Path(key), &text)) return;
  if (std::find(words.begin(), words.end(), text) == words.end()) {
    std::string near = Nearest(text, words);
    Fail(value->at, Path(key),
         StrCat("\"", text, "\" is not ", Choice(words), near.empty() ? "" : StrCat("; did you mean \"", near, "\"?")));
    return;
  }
  *out = text;
}

void Reader::Bool(std::string_view key, bool* out) {
  if (const Yaml* value = Take(key)) {
    if (value->kind == Yaml::Kind::kScalar && (value->text == "true" || value->text == "false")) {
      *out = value->text == "true";
    } else {
      Fail(value->at, Path(key), StrCat(KindWord(*value), " is not true or false"));
    }
  }
}

void Reader::Bool(std::string_view key, std::optional<bool>* out) {
  bool value = false;
  size_t before = context_.mistakes.size();
  Bool(key, &value);
  if (Has(key) && context_.mistakes.size() == before) *out = value;
}

void Reader::Number(std::string_view key, double* out, double min, double max) {
  if (const Yaml* value = Take(key)) {
    double number = 0;
    if (value->kind != Yaml::Kind::kScalar || !absl::SimpleAtod(value->text, &number) ||
        !(number >= min && number <= max)) {
      Fail(value->at, Path(key), StrCat(KindWord(*value), " is not a number between ", min, " and ", max));
    } else {
      *out = number;
    }
  }
}

bool Reader::Duration(std::string_view key, absl::Duration* out, absl::Duration min, absl::Duration max) {
  const Yaml* value = Take(key);
  if (value == nullptr) return false;
  if (value->kind == Yaml::Kind::kScalar) {
    absl::StatusOr<absl::Duration> duration = ParseDuration(value->text);
    if (duration.ok() && *duration >= min && *duration <= max) {
      *out = *duration;
      return true;
    }
    if (duration.ok()) {
      Fail(value->at, Path(key),
           StrCat(value->text, " is not between ", absl::FormatDuration(min), " and ", absl::FormatDuration(max)));
      return false;
    }
  }
  Fail(value->at, Path(key),
       StrCat(KindWord(*value), " is not a duration; write for example 250ms, 30s, 5m, 1h30m or 7d"));
  return false;
}

void Reader::Duration(std::string_view key, std::optional<absl::Duration>* out, absl::Duration min,
                      absl::Duration max) {
  absl::Duration value;
  if (Duration(key, &value, min, max)) *out = value;
}

void Reader::Bytes(std::string_view key, int64_t* out, int64_t min, int64_t max) {
  const Yaml* value = Take(key);
  if (value == nullptr) return;
  absl::string_view text = value->text;
  int64_t unit = absl::ConsumeSuffix(&text, "KiB")   ? 1 << 10
                 : absl::ConsumeSuffix(&text, "MiB") ? 1 << 20
                                                     : 1,
          number = 0;
  if (value->kind != Yaml::Kind::kScalar || !absl::SimpleAtoi(text, &number) || number < 0 ||
      number > (int64_t{1} << 40)) {
    Fail(value->at, Path(key), StrCat(KindWord(*value), " is not a size; write for example 4096, 64KiB or 1MiB"));
  } else if (number * unit < min || number * unit > max) {
    Fail(value->at, Path(key), StrCat(value->text, " is not between ", min, " and ", max, " bytes"));
  } else {
    *out = number * unit;
  }
}

bool Reader::List(std::string_view key, std::vector<std::string>* out, bool unique) {
  const Yaml* value = Take(key);
  if (value == nullptr) return false;
  out->clear();
  if (value->kind == Yaml::Kind::kScalar) {
    out->push_back(value->text);
    context_.out.places[StrCat(Path(key), "[0]")] = {value->at, value->at};
    return true;
  }
  if (value->kind != Yaml::Kind::kList) {
    Fail(value->at, Path(key), StrCat("expected a list, got ", KindWord(*value)));
    return false;
  }
  for (size_t i = 0; i < value->items.size(); ++i) {
    std::string path = StrCat(Path(key), "[", i, "]"), text;
    context_.out.places[path] = {value->items[i]->at, value->items[i]->at};
    if (!Scalar(*value->items[i], path, &text)) continue;
    if (unique && std::find(out->begin(), out->end(), text) != out->end()) {
      Fail(value->items[i]->at, path, StrCat("\"", text, "\" stands twice in the list"));
      continue;
    }
    out->push_back(std::move(text));
  }
  return true;
}

void Reader::List(std::string_view key, std::optional<std::vector<std::string>>* out) {
  std::vector<std::string> value;
  if (List(key, &value)) *out = std::move(value);
}

void Reader::Map(std::string_view key, std::map<std::string, std::string>* out) {
  const Yaml* value = Take(key);
  if (value == nullptr) return;
  if (value->kind != Yaml::Kind::kMap) {
    if (value->kind != Yaml::Kind::kNull) Fail(value->at, Path(key), StrCat("expected a map, got ", KindWord(*value)));
    return;
  }
  for (const Yaml::Member& member : value->members) {
    std::string path = StrCat(Path(key), ".", member.key), text;
    context_.out.places[path] = {member.value->at, member.at};
    if (Scalar(*member.value, path, &text)) (*out)[member.key] = std::move(text);
  }
}

void Reader::Done() {
  if (node_.kind != Yaml::Kind::kMap) return;
  std::vector<std::string> known(taken_.begin(), taken_.end());
  for (const Yaml::Member& member : node_.members) {
    if (taken_.contains(member.key)) continue;
    std::string near = Nearest(member.key, known);
    Fail(member.at, Path(member.key),
         StrCat("the key \"", member.key, "\" is not known here; ",
                near.empty() ? StrCat("known are ", JoinNames(known)) : StrCat("did you mean \"", near, "\"?")));
  }
}

const Yaml::Member* Reader::Find(std::string_view key) const {
  for (const Yaml::Member& member : node_.members)
    if (member.key == key) return &member;
  return nullptr;
}

}  // namespace mainstay::catalog
