// SPDX-License-Identifier: Apache-2.0
// Internal: one map of the catalog while it is read: each accessor takes a key, remembers its place and checks its
// form; what is wrong becomes a mistake with its place, and reading goes on. The grammar (parse_*.cc) is written with
// it. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/time.h"
#include "libs/base/strings.h"
#include "libs/catalog/build.h"
#include "libs/catalog/declarations.h"
#include "libs/catalog/yaml.h"

namespace mainstay::catalog {

// Names as the grammar allows them; IsFieldName stands in declarations.h.
bool IsResourceName(std::string_view name);
bool IsPlainName(std::string_view name);
bool IsRoleName(std::string_view name);
bool IsSecretName(std::string_view name);  // names in libs/secrets may be grouped: "payments/api-key"
inline constexpr std::string_view kPlainNameRule = "a name is [a-z][a-z0-9_-]*, at most 63 characters";
bool IsJobKind(std::string_view name);
inline constexpr std::string_view kJobKindRule = "expected lower-case words joined by dots, like \"reports.build\"";
inline constexpr absl::Duration kSecond = absl::Seconds(1), kDay = absl::Hours(24);

std::string KindWord(const Yaml& value);                    // "a list", for sentences
std::string Choice(const std::vector<std::string>& words);  // "a, b or c"

// One kind of map while it is read: each accessor takes a key, remembers its place, checks its form. Done() refuses the
// keys that nobody took.
class Reader {
 public:
  struct Context {
    Declarations& out;
    std::vector<Mistake>& mistakes;
  };

  Reader(Context& context, const Yaml& node, std::string path, std::string_view kind);
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  const std::string& path() const { return path_; }
  const Yaml& node() const { return node_; }
  Context& context() { return context_; }
  std::string Path(std::string_view key) const { return path_.empty() ? std::string(key) : StrCat(path_, ".", key); }
  bool Has(std::string_view key) const { return Find(key) != nullptr; }

  // The raw value, or null when absent.
  const Yaml* Take(std::string_view key);

  void Fail(Spot at, const std::string& path, std::string message);
  // At the value of a key (or the map itself when the key is absent).
  void Fail(std::string_view key, std::string message);

  bool Scalar(const Yaml& value, const std::string& path, std::string* out);
  void Text(std::string_view key, std::string* out, size_t max = 4096);
  void Required(std::string_view key, std::string* out);
  void Word(std::string_view key, std::string* out, const std::vector<std::string>& words);
  void Bool(std::string_view key, bool* out);
  void Bool(std::string_view key, std::optional<bool>* out);
  template <typename T>
  void Int(std::string_view key, T* out, int64_t min, int64_t max) {
    if (const Yaml* value = Take(key)) {
      int64_t number = 0;
      if (value->kind != Yaml::Kind::kScalar || !absl::SimpleAtoi(value->text, &number)) {
        Fail(value->at, Path(key), StrCat(KindWord(*value), " is not a whole number"));
      } else if (number < min || number > max) {
        Fail(value->at, Path(key), StrCat(number, " is not between ", min, " and ", max));
      } else {
        *out = static_cast<T>(number);
      }
    }
  }
  void Number(std::string_view key, double* out, double min, double max);
  bool Duration(std::string_view key, absl::Duration* out, absl::Duration min, absl::Duration max);
  void Duration(std::string_view key, std::optional<absl::Duration>* out, absl::Duration min, absl::Duration max);
  // 4096, 64KiB, 1MiB
  void Bytes(std::string_view key, int64_t* out, int64_t min, int64_t max);
  // A list of texts; one text may stand alone. The place of element i is "path.key[i]".
  bool List(std::string_view key, std::vector<std::string>* out, bool unique = true);
  void List(std::string_view key, std::optional<std::vector<std::string>>* out);
  // A map of texts.
  void Map(std::string_view key, std::map<std::string, std::string>* out);
  // A map whose keys are names of the author's choice: calls body(name, value, path) for each.
  template <typename Body>
  void Each(std::string_view key, Body body) {
    const Yaml* value = Take(key);
    if (value != nullptr) EachOf(*value, Path(key), body);
  }
  template <typename Body>
  void EachOf(const Yaml& value, const std::string& path, Body body) {
    if (value.kind == Yaml::Kind::kNull) return;
    if (value.kind != Yaml::Kind::kMap) {
      Fail(value.at, path, StrCat("expected a map of names, got ", KindWord(value)));
      return;
    }
    for (const Yaml::Member& member : value.members) {
      std::string member_path = StrCat(path, ".", member.key);
      context_.out.places[member_path] = {member.value->at, member.at};
      body(member, member_path);
    }
  }
  // A list of maps (one map may stand alone).
  template <typename Body>
  void EachItem(std::string_view key, Body body) {
    const Yaml* value = Take(key);
    if (value == nullptr || value->kind == Yaml::Kind::kNull) return;
    if (value->kind == Yaml::Kind::kMap) {
      std::string path = StrCat(Path(key), "[0]");
      context_.out.places[path] = {value->at, value->at};
      body(*value, path);
      return;
    }
    if (value->kind != Yaml::Kind::kList) {
      Fail(value->at, Path(key), StrCat("expected a list, got ", KindWord(*value)));
      return;
    }
    for (size_t i = 0; i < value->items.size(); ++i) {
      std::string path = StrCat(Path(key), "[", i, "]");
      context_.out.places[path] = {value->items[i]->at, value->items[i]->at};
      body(*value->items[i], path);
    }
  }

  void Done();

 private:
  bool IsMap() const { return node_.kind == Yaml::Kind::kMap || node_.kind == Yaml::Kind::kNull; }
  const Yaml::Member* Find(std::string_view key) const;
  Context& context_;
  const Yaml& node_;
  const std::string path_;
  const std::string_view kind_;
  std::set<std::string> taken_;
};

}  // namespace mainstay::catalog
