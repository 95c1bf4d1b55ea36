// SPDX-License-Identifier: Apache-2.0
// The grammar. Each Read… below is one kind of map of the reference in README.md and one definition of
// catalog.schema.json; a test keeps the three in step.
#include "libs/catalog/parse.h"

#include <re2/re2.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "libs/base/clock.h"
#include "libs/base/cron.h"
#include "libs/base/crypto.h"
#include "libs/base/json.h"
#include "libs/base/principal.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/catalog/build.h"
#include "libs/catalog/declarations.h"
#include "libs/catalog/introspect.h"
#include "libs/catalog/yaml.h"

namespace mainstay::catalog {
namespace {

constexpr size_t kMaxReported = 100;

bool MatchesName(std::string_view name, std::string_view more) {
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
// Names in libs/secrets may be grouped: "payments/api-key".
bool IsSecretName(std::string_view name) {
  return MatchesName(name, "_-./");
}

constexpr std::string_view kPlainNameRule = "a name is [a-z][a-z0-9_-]*, at most 63 characters";

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

// One kind of map while it is read: each accessor takes a key, remembers its place, checks its form. Done() refuses the
// keys that nobody took.
class Reader {
 public:
  struct Context {
    Declarations& out;
    std::vector<Mistake>& mistakes;
  };

  Reader(Context& context, const Yaml& node, std::string path, std::string_view kind)
      : context_(context), node_(node), path_(std::move(path)), kind_(kind) {
    if (node_.kind != Yaml::Kind::kMap && node_.kind != Yaml::Kind::kNull)
      Fail(node_.at, path_, StrCat("expected a map of settings, got ", KindWord(node_)));
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  const std::string& path() const { return path_; }
  const Yaml& node() const { return node_; }
  Context& context() { return context_; }
  std::string Path(std::string_view key) const { return path_.empty() ? std::string(key) : StrCat(path_, ".", key); }
  bool Has(std::string_view key) const { return Find(key) != nullptr; }

  // The raw value, or null when absent.
  const Yaml* Take(std::string_view key) {
    context_.out.accepted[std::string(kind_)].insert(std::string(key));
    taken_.insert(std::string(key));
    const Yaml::Member* member = Find(key);
    if (member == nullptr) return nullptr;
    context_.out.places[Path(key)] = {member->value->at, member->at};
    return member->value.get();
  }

  void Fail(Spot at, const std::string& path, std::string message) {
    context_.mistakes.push_back(
        {at.file < 0 ? "" : context_.out.files[at.file].name, at.line, at.column, path, std::move(message)});
  }
  // At the value of a key (or the map itself when the key is absent).
  void Fail(std::string_view key, std::string message) {
    const Yaml::Member* member = Find(key);
    Fail(member ? member->value->at : node_.at, Path(key), std::move(message));
  }

  bool Scalar(const Yaml& value, const std::string& path, std::string* out) {
    if (value.kind != Yaml::Kind::kScalar) {
      Fail(value.at, path, StrCat("expected a text, got ", KindWord(value)));
      return false;
    }
    *out = value.text;
    return true;
  }
  void Text(std::string_view key, std::string* out, size_t max = 4096) {
    if (const Yaml* value = Take(key)) {
      if (Scalar(*value, Path(key), out) && out->size() > max)
        Fail(value->at, Path(key), StrCat("longer than ", max, " bytes"));
    }
  }
  void Required(std::string_view key, std::string* out) {
    Text(key, out);
    if (!Has(key) && IsMap()) Fail(node_.at, path_, StrCat("the key \"", key, "\" is missing"));
  }
  void Word(std::string_view key, std::string* out, const std::vector<std::string>& words) {
    const Yaml* value = Take(key);
    std::string text;
    if (value == nullptr || !Scalar(*value, Path(key), &text)) return;
    if (std::find(words.begin(), words.end(), text) == words.end()) {
      std::string near = Nearest(text, words);
      Fail(value->at, Path(key),
           StrCat("\"", text, "\" is not ", Choice(words),
                  near.empty() ? "" : StrCat("; did you mean \"", near, "\"?")));
      return;
    }
    *out = text;
  }
  void Bool(std::string_view key, bool* out) {
    if (const Yaml* value = Take(key)) {
      if (value->kind == Yaml::Kind::kScalar && (value->text == "true" || value->text == "false")) {
        *out = value->text == "true";
      } else {
        Fail(value->at, Path(key), StrCat(KindWord(*value), " is not true or false"));
      }
    }
  }
  void Bool(std::string_view key, std::optional<bool>* out) {
    bool value = false;
    size_t before = context_.mistakes.size();
    Bool(key, &value);
    if (Has(key) && context_.mistakes.size() == before) *out = value;
  }
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
  void Number(std::string_view key, double* out, double min, double max) {
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
  bool Duration(std::string_view key, absl::Duration* out, absl::Duration min, absl::Duration max) {
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
  void Duration(std::string_view key, std::optional<absl::Duration>* out, absl::Duration min, absl::Duration max) {
    absl::Duration value;
    if (Duration(key, &value, min, max)) *out = value;
  }
  // 4096, 64KiB, 1MiB
  void Bytes(std::string_view key, int64_t* out, int64_t min, int64_t max) {
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
  // A list of texts; one text may stand alone. The place of element i is "path.key[i]".
  bool List(std::string_view key, std::vector<std::string>* out, bool unique = true) {
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
  void List(std::string_view key, std::optional<std::vector<std::string>>* out) {
    std::vector<std::string> value;
    if (List(key, &value)) *out = std::move(value);
  }
  // A map of texts.
  void Map(std::string_view key, std::map<std::string, std::string>* out) {
    const Yaml* value = Take(key);
    if (value == nullptr) return;
    if (value->kind != Yaml::Kind::kMap) {
      if (value->kind != Yaml::Kind::kNull)
        Fail(value->at, Path(key), StrCat("expected a map, got ", KindWord(*value)));
      return;
    }
    for (const Yaml::Member& member : value->members) {
      std::string path = StrCat(Path(key), ".", member.key), text;
      context_.out.places[path] = {member.value->at, member.at};
      if (Scalar(*member.value, path, &text)) (*out)[member.key] = std::move(text);
    }
  }
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

  void Done() {
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

 private:
  bool IsMap() const { return node_.kind == Yaml::Kind::kMap || node_.kind == Yaml::Kind::kNull; }
  const Yaml::Member* Find(std::string_view key) const {
    for (const Yaml::Member& member : node_.members)
      if (member.key == key) return &member;
    return nullptr;
  }
  Context& context_;
  const Yaml& node_;
  const std::string path_;
  const std::string_view kind_;
  std::set<std::string> taken_;
};

constexpr absl::Duration kSecond = absl::Seconds(1), kDay = absl::Hours(24);

// ---- resources ----

FieldDeclaration ReadField(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "field");
  FieldDeclaration field;
  field.name = member.key;
  Field& s = field.settings;
  if (!IsFieldName(member.key))
    r.Fail(member.at, path,
           "a field's public name is [a-z][a-z0-9_]*, at most 63 characters; name the column by `column:`");
  if (IsReservedName(member.key))
    r.Fail(member.at, path,
           StrCat("\"", member.key,
                  "\" is a word of the filter syntax; give the field another name and its column by `column:`"));
  r.Text("column", &field.column);
  r.Text("description", &s.description);
  r.Bool("hidden", &s.hidden);
  r.Bool("sensitive", &field.sensitive);
  r.Bool("read_only", &s.read_only);
  r.Bool("write_once", &s.write_once);
  r.Bool("required", &s.required);
  r.Bool("filterable", &field.filterable);
  r.Bool("sortable", &field.sortable);
  r.Bool("identifier", &s.identifier);
  r.Bool("normalize", &s.normalize);
  int length = 0;
  if (r.Has("min_length")) {
    r.Int("min_length", &length, 0, 10'000'000);
    s.min_length = length;
  } else {
    r.Take("min_length");
  }
  if (r.Has("max_length")) {
    r.Int("max_length", &length, 1, 10'000'000);
    s.max_length = length;
  } else {
    r.Take("max_length");
  }
  if (s.min_length && s.max_length && *s.min_length > *s.max_length) r.Fail("min_length", "is greater than max_length");
  std::string bound;
  if (r.Has("minimum")) {
    r.Text("minimum", &bound);
    s.minimum = bound;
  } else {
    r.Take("minimum");
  }
  if (r.Has("maximum")) {
    r.Text("maximum", &bound);
    s.maximum = bound;
  } else {
    r.Take("maximum");
  }
  r.Text("pattern", &s.pattern, 1000);
  if (!s.pattern.empty()) {
    RE2::Options options;
    options.set_log_errors(false);
    options.set_max_mem(1 << 20);
    RE2 compiled(s.pattern, options);
    if (!compiled.ok()) r.Fail("pattern", StrCat("not a pattern in RE2's syntax: ", compiled.error()));
  }
  r.List("one_of", &s.one_of);
  r.List("aliases", &s.aliases);
  if (s.read_only && s.required) r.Fail("required", "a read_only field can't be required: clients may not send it");
  r.Done();
  return field;
}

RelationDeclaration ReadRelation(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "relation");
  RelationDeclaration relation;
  relation.name = member.key;
  if (!IsFieldName(member.key)) r.Fail(member.at, path, "a relation's name is [a-z][a-z0-9_]*, at most 63 characters");
  if (IsReservedName(member.key))
    r.Fail(member.at, path,
           StrCat("\"", member.key, "\" is a word of the filter syntax; give the relation another name"));
  r.Text("to", &relation.target);
  std::string many;
  r.Text("many", &many);
  if (r.Has("to") == r.Has("many")) {
    r.Fail(r.node().at, path, "say either `to: RESOURCE` (one row) or `many: RESOURCE` (a list)");
  }
  if (r.Has("many")) {
    relation.kind = Relation::Kind::kToMany;
    relation.target = many;
  }
  r.List("by", &relation.by);
  r.List("references", &relation.references);
  r.Text("through", &relation.through);
  r.List("other", &relation.other);
  if (!relation.through.empty()) {
    if (relation.kind == Relation::Kind::kToOne)
      r.Fail("through", "only a `many` relation goes through a joining table");
    relation.kind = Relation::Kind::kManyToMany;
  } else if (r.Has("other")) {
    r.Fail("other", "stands only beside `through`");
  }
  r.Done();
  return relation;
}

PermissionDeclaration ReadPermission(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "permission");
  PermissionDeclaration permission;
  permission.role = member.key;
  r.List("actions", &permission.actions);
  static const std::vector<std::string> kActions = {"read", "create", "update", "delete", "all"};
  for (size_t i = 0; i < permission.actions.size(); ++i)
    if (std::find(kActions.begin(), kActions.end(), permission.actions[i]) == kActions.end())
      context.mistakes.push_back(MistakeAt(context.out, StrCat(path, ".actions[", i, "]"),
                                           StrCat("\"", permission.actions[i], "\" is not ", Choice(kActions))));
  if (!r.Has("actions"))
    r.Fail(r.node().at, path, "the key \"actions\" is missing: [read, create, update, delete] or all");
  r.List("read", &permission.read);
  r.List("read_except", &permission.read_except);
  r.List("write", &permission.write);
  r.List("write_except", &permission.write_except);
  if (permission.read && permission.read_except) r.Fail("read_except", "say either `read` or `read_except`");
  if (permission.write && permission.write_except) r.Fail("write_except", "say either `write` or `write_except`");
  r.Text("where", &permission.where);
  r.Done();
  return permission;
}

ResourceDeclaration ReadResource(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "resource");
  ResourceDeclaration resource;
  resource.name = member.key;
  if (!IsResourceName(member.key))
    r.Fail(member.at, path,
           "a resource's name is its path: plural, kebab-case, [a-z][a-z0-9-]*, at most 63 characters");
  r.Required("table", &resource.table);
  if (!resource.table.empty()) {
    auto name = ParseTableName(resource.table);
    if (!name.ok()) {
      r.Fail("table", std::string(name.status().message()));
    } else if (name->first == "mainstay" || name->first == "information_schema" ||
               absl::StartsWith(name->first, "pg_")) {
      r.Fail("table", StrCat("tables of the schema ", name->first, " are not the catalog's to expose"));
    } else {
      std::tie(resource.schema_name, resource.table_name) = *name;
    }
  }
  r.Text("description", &resource.description);
  r.List("key", &resource.key);
  r.Text("tenant", &resource.tenant);
  r.Word("shared", &resource.shared, {"read", "write"});
  if (r.Has("tenant") && r.Has("shared"))
    r.Fail("shared", "a resource with a tenant column is not shared; remove one of the two");
  if (!r.Has("tenant") && !r.Has("shared"))
    r.Fail(r.node().at, path,
           "names no tenant: write `tenant: FIELD`, or `shared: read` where every tenant may see every row, or "
           "`shared: write` where every tenant may also change every row");
  r.Text("version", &resource.version);
  r.Text("deleted_at", &resource.deleted_at);
  r.Text("created_at", &resource.created_at);
  r.Text("updated_at", &resource.updated_at);
  r.List("default_sort", &resource.default_sort);
  r.Int("default_limit", &resource.default_limit, 1, 1000);
  r.Int("max_limit", &resource.max_limit, 1, 1000);
  if (resource.default_limit > resource.max_limit)
    r.Fail("default_limit",
           StrCat(resource.default_limit, " is greater than max_limit, which is ", resource.max_limit));
  r.Bool("offset", &resource.offset);
  r.Bool("require_if_match", &resource.require_if_match);
  r.Bool("client_key", &resource.client_key);
  r.Bool("read_only", &resource.read_only);
  std::string expose = "all";
  r.Word("expose", &expose, {"all", "declared"});
  resource.declared_only = expose == "declared";
  r.Duration("cache", &resource.cache, kSecond, kDay);
  r.Each("fields",
         [&](const Yaml::Member& m, const std::string& p) { resource.fields.push_back(ReadField(context, m, p)); });
  r.Each("relations", [&](const Yaml::Member& m, const std::string& p) {
    resource.relations.push_back(ReadRelation(context, m, p));
  });
  const Yaml* views = r.Take("views");
  if (views != nullptr && views->kind == Yaml::Kind::kMap) {
    Reader names(context, *views, r.Path("views"), "");
    for (const Yaml::Member& view : views->members) {
      if (!IsFieldName(view.key))
        names.Fail(view.at, names.Path(view.key), "a view's name is [a-z][a-z0-9_]*, at most 63 characters");
      names.List(view.key, &resource.views[view.key]);
    }
  } else if (views != nullptr && views->kind != Yaml::Kind::kNull) {
    r.Fail("views", StrCat("expected a map of names to lists of fields, got ", KindWord(*views)));
  }
  r.Each("permissions", [&](const Yaml::Member& m, const std::string& p) {
    resource.permissions.push_back(ReadPermission(context, m, p));
  });
  r.Done();
  return resource;
}

// ---- roles ----

Role ReadRole(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "role");
  Role role;
  role.name = member.key;
  if (!IsRoleName(member.key)) r.Fail(member.at, path, "a role's name is [a-z][a-z0-9_.:-]*, at most 63 characters");
  if (member.key == "admin")
    r.Fail(member.at, path, "the role admin is built in and may do everything; choose another name");
  if (absl::StartsWith(member.key, "source:"))
    r.Fail(member.at, path, "roles source:NAME come with their source and are not declared");
  r.Text("description", &role.description);
  r.List("scopes", &role.scopes);
  static const RE2 kScope("\\*|[a-z][a-z-]*:(read|write|\\*)");
  for (size_t i = 0; i < role.scopes.size(); ++i)
    if (!RE2::FullMatch(role.scopes[i], kScope))
      context.mistakes.push_back(MistakeAt(
          context.out, StrCat(path, ".scopes[", i, "]"),
          StrCat("\"", role.scopes[i], "\" is not a scope; write for example jobs:read, imports:write or \"*\"")));
  r.Done();
  return role;
}

// ---- sources ----

// "json:data.object.id" and its like. `words` are the allowed prefixes.
std::string ExpressionProblem(const std::string& text, const std::vector<std::string>& words) {
  size_t colon = text.find(':');
  std::string word = text.substr(0, colon);
  if (colon == std::string::npos || std::find(words.begin(), words.end(), word) == words.end()) {
    std::vector<std::string> forms;
    forms.reserve(words.size());
    for (const std::string& w : words) forms.push_back(w + ":…");
    return StrCat("\"", text, "\" is not ", Choice(forms));
  }
  std::string rest = text.substr(colon + 1);
  if (rest.empty() && word != "const") return StrCat("nothing stands after \"", word, ":\"");
  if (word == "event" && rest != "id" && rest != "type" && rest != "time" && rest != "entity")
    return StrCat("\"event:", rest, "\" is not event:id, event:type, event:time or event:entity");
  return "";
}

void ReadValueSource(Reader& r, std::string_view key, ValueSource* out) {
  r.List(key, out);
  for (size_t i = 0; i < out->size(); ++i) {
    std::string problem = ExpressionProblem((*out)[i], {"json", "header", "sig", "query", "form", "const"});
    if (!problem.empty())
      r.context().mistakes.push_back(MistakeAt(r.context().out, StrCat(r.Path(key), "[", i, "]"), problem));
  }
}

void ReadExpressions(Reader& r, std::string_view key, std::map<std::string, std::string>* out,
                     const std::vector<std::string>& words) {
  r.Map(key, out);
  for (const auto& [name, expression] : *out) {
    std::string problem = ExpressionProblem(expression, words);
    if (!problem.empty())
      r.context().mistakes.push_back(MistakeAt(r.context().out, StrCat(r.Path(key), ".", name), problem));
  }
}

void ReadScheme(Reader& parent, SignatureScheme* scheme) {
  const Yaml* value = parent.Take("scheme");
  if (value == nullptr) {
    if (parent.node().kind == Yaml::Kind::kMap)
      parent.Fail(parent.node().at, parent.path(),
                  "the key \"scheme\" is missing: a preset's name (stripe, github, standard-webhooks …) or a map");
    return;
  }
  if (value->kind == Yaml::Kind::kScalar) {
    scheme->preset = value->text;
    if (!IsPlainName(scheme->preset)) parent.Fail("scheme", StrCat("\"", scheme->preset, "\" is not a preset's name"));
    return;
  }
  Reader r(parent.context(), *value, parent.Path("scheme"), "scheme");
  r.Text("preset", &scheme->preset);
  r.Word("algorithm", &scheme->algorithm, {"hmac-sha256", "hmac-sha1", "sha256", "ed25519"});
  r.Text("signed_content", &scheme->signed_content);
  r.Text("signature_header", &scheme->signature_header);
  r.Text("header_format", &scheme->header_format);
  r.Text("signature_key", &scheme->signature_key);
  r.Word("encoding", &scheme->encoding, {"hex", "hex-any-case", "base64", "base64url"});
  r.Word("key_encoding", &scheme->key_encoding, {"text", "base64", "hex", "whsec-base64"});
  r.Text("timestamp", &scheme->timestamp);
  if (!scheme->timestamp.empty()) {
    std::string problem = ExpressionProblem(scheme->timestamp, {"json", "header", "sig"});
    if (!problem.empty()) r.Fail("timestamp", problem);
  }
  r.Word("timestamp_unit", &scheme->timestamp_unit, {"s", "ms", "iso8601"});
  r.Duration("tolerance_past", &scheme->tolerance_past, absl::ZeroDuration(), kDay);
  r.Duration("tolerance_future", &scheme->tolerance_future, absl::ZeroDuration(), kDay);
  if (value->kind == Yaml::Kind::kMap && scheme->preset.empty() && !r.Has("signature_header"))
    r.Fail(value->at, r.path(), "without a preset the key \"signature_header\" is needed");
  r.Done();
}

const std::vector<std::string> kApplyWords = {"json", "fetched", "event", "const"};
const std::vector<std::string> kParamWords = {"json", "event", "const"};

ApplyRoute ReadApply(Reader::Context& context, const Yaml& value, const std::string& path) {
  Reader r(context, value, path, "apply");
  ApplyRoute apply;
  r.Required("resource", &apply.resource);
  r.Word("mode", &apply.mode, {"create", "update", "upsert"});
  r.List("key", &apply.key);
  ReadExpressions(r, "map", &apply.map, kApplyWords);
  if (apply.map.empty())
    r.Fail(value.at, path, "the key \"map\" is missing: FIELD: EXPRESSION for each field to write");
  r.Text("stale", &apply.stale_field);
  r.Map("when", &apply.when);
  for (const auto& [expression, value] : apply.when) {
    std::string problem = ExpressionProblem(expression, kApplyWords);
    if (!problem.empty())
      context.mistakes.push_back(MistakeAt(context.out, StrCat(r.Path("when"), ".", expression), problem, true));
  }
  if (const Yaml* transitions = r.Take("transitions")) {
    Reader t(context, *transitions, r.Path("transitions"), "transitions");
    t.Required("field", &apply.status_field);
    const Yaml* allowed = t.Take("allowed");
    if (allowed == nullptr) {
      t.Fail(transitions->at, t.path(), "the key \"allowed\" is missing: FROM: [TO, …] for each status");
    } else if (allowed->kind != Yaml::Kind::kMap) {
      t.Fail("allowed", StrCat("expected a map of FROM: [TO, …], got ", KindWord(*allowed)));
    } else {
      Reader from(context, *allowed, t.Path("allowed"), "");
      for (const Yaml::Member& member : allowed->members) from.List(member.key, &apply.transitions[member.key]);
    }
    t.Done();
  }
  r.Done();
  return apply;
}

Route ReadRoute(Reader::Context& context, const Yaml& value, const std::string& path) {
  Reader r(context, value, path, "route");
  Route route;
  r.List("types", &route.types);
  if (route.types.empty())
    r.Fail(value.at, path, "the key \"types\" is missing: the event types this route takes, \"*\" for all");
  for (size_t i = 0; i < route.types.size(); ++i) {
    size_t star = route.types[i].find('*');
    if (route.types[i].empty() || (star != std::string::npos && star + 1 != route.types[i].size()))
      context.mistakes.push_back(MistakeAt(context.out, StrCat(path, ".types[", i, "]"),
                                           "a type is exact, or ends in the only \"*\" (payment.*)"));
  }
  if (const Yaml* fetch = r.Take("fetch")) {
    Reader f(context, *fetch, r.Path("fetch"), "fetch");
    route.fetch.emplace();
    f.Required("provider", &route.fetch->provider);
    f.Text("connection", &route.fetch->connection);
    f.Required("operation", &route.fetch->operation);
    ReadExpressions(f, "params", &route.fetch->params, kParamWords);
    f.Done();
  }
  r.EachItem("apply", [&](const Yaml& v, const std::string& p) { route.apply.push_back(ReadApply(context, v, p)); });
  if (const Yaml* job = r.Take("job")) {
    Reader j(context, *job, r.Path("job"), "route_job");
    route.job.emplace();
    j.Required("kind", &route.job->kind);
    route.job->queue = "default";
    j.Text("queue", &route.job->queue);
    j.Done();
  }
  if (route.apply.empty() && !route.job && value.kind == Yaml::Kind::kMap)
    r.Fail(value.at, path, "a route does something: `apply` writes to resources, `job` enqueues a job");
  if (!route.fetch) {
    for (size_t i = 0; i < route.apply.size(); ++i) {
      for (const auto& [field, expression] : route.apply[i].map)
        if (absl::StartsWith(expression, "fetched:"))
          context.mistakes.push_back(
              MistakeAt(context.out, StrCat(path, ".apply[", i, "].map.", field),
                        "nothing is fetched in this route; add `fetch`, or take the value from the event with json:…"));
    }
  }
  r.Done();
  return route;
}

Source ReadSource(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "source");
  Source source;
  source.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  r.Bool("enabled", &source.enabled);
  r.Text("tenant", &source.tenant, 63);
  ReadValueSource(r, "tenant_from", &source.tenant_from);
  if (r.Has("tenant") == r.Has("tenant_from"))
    r.Fail(r.node().at, path, "say either `tenant: NAME` or `tenant_from: [json:…]`");
  if (source.tenant == "*") r.Fail("tenant", "a source writes for one tenant, not for all");
  ReadScheme(r, &source.scheme);
  r.List("secrets", &source.secrets);
  if (source.secrets.empty())
    r.Fail(r.node().at, path, "the key \"secrets\" is missing: names of secrets set with `mainstay secrets set`");
  for (size_t i = 0; i < source.secrets.size(); ++i)
    if (!IsSecretName(source.secrets[i]))
      context.mistakes.push_back(
          MistakeAt(context.out, StrCat(path, ".secrets[", i, "]"),
                    "this is no name of a secret ([a-z][a-z0-9_./-]*); secrets themselves never stand in a catalog"));
  if (const Yaml* event = r.Take("event")) {
    Reader e(context, *event, r.Path("event"), "event");
    ReadValueSource(e, "id", &source.event_id);
    ReadValueSource(e, "type", &source.event_type);
    ReadValueSource(e, "time", &source.event_time);
    e.Word("time_unit", &source.event_time_unit, {"s", "ms", "iso8601"});
    ReadValueSource(e, "entity", &source.entity);
    e.Done();
  }
  r.List("content_types", &source.content_types);
  r.Bytes("max_body", &source.max_body, 1, 16 << 20);
  r.Duration("dedup_window", &source.dedup_window, absl::Minutes(1), kDay * 400);
  r.EachItem("routes", [&](const Yaml& v, const std::string& p) { source.routes.push_back(ReadRoute(context, v, p)); });
  r.Done();
  return source;
}

// ---- providers ----

void ReadRate(Reader& parent, std::string_view key, RateLimit* rate) {
  const Yaml* value = parent.Take(key);
  if (value == nullptr) return;
  Reader r(parent.context(), *value, parent.Path(key), "rate");
  r.Int("limit", &rate->limit, 1, 1'000'000'000);
  if (!r.Has("limit") && value->kind == Yaml::Kind::kMap) r.Fail(value->at, r.path(), "the key \"limit\" is missing");
  r.Duration("period", &rate->period, absl::Milliseconds(1), kDay * 31);
  r.Int("burst", &rate->burst, 1, 1'000'000'000);
  r.Done();
}

void AddParam(const std::string& name, bool optional, std::vector<std::string>* params) {
  for (std::string& known : *params) {
    if (known == name) return;
    if (known == name + "?") {
      if (!optional) known = name;
      return;
    }
  }
  params->push_back(optional ? name + "?" : name);
}

Operation ReadOperation(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "operation");
  Operation operation;
  operation.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  std::string where;
  for (const char* method : {"get", "head", "post", "put", "patch", "delete"}) {
    if (r.Has(method) && !operation.method.empty()) r.Fail(method, "an operation has one method");
    std::string target;
    r.Text(method, &target);
    if (r.Has(method) && operation.method.empty()) {
      operation.method = absl::AsciiStrToUpper(method);
      operation.path = target;
      where = method;
    }
  }
  if (operation.method.empty() && member.value->kind == Yaml::Kind::kMap)
    r.Fail(r.node().at, path, "names no request; write for example `get: /payments/{id}`");
  static const RE2 kPath("(/([A-Za-z0-9._~!$&'()*+,;=:@%-]|\\{[a-z][a-z0-9_]*\\})*)+");
  if (!where.empty() && !RE2::FullMatch(operation.path, kPath))
    r.Fail(where, StrCat("\"", operation.path, "\" is not a path like /payments/{id}; queries go under `query`"));
  static const RE2 kInPath("\\{([a-z][a-z0-9_]*)\\}"), kInQuery("\\{([a-z][a-z0-9_]*)(\\?)?\\}");
  re2::StringPiece rest(operation.path);
  std::string name, mark;
  while (RE2::FindAndConsume(&rest, kInPath, &name)) AddParam(name, false, &operation.params);
  r.Map("query", &operation.query);
  for (auto& [parameter, value] : operation.query) {
    if (!absl::StrContains(value, '{')) continue;
    mark.clear();
    if (!RE2::FullMatch(value, kInQuery, &name, &mark)) {
      context.mistakes.push_back(
          MistakeAt(context.out, StrCat(r.Path("query"), ".", parameter),
                    StrCat("\"", value, "\" is neither a constant nor one parameter like {status} or {status?}")));
      continue;
    }
    AddParam(name, !mark.empty(), &operation.params);
    value = StrCat("{", name, "}");
  }
  std::vector<std::string> more;
  r.List("params", &more);
  static const RE2 kParam("([a-z][a-z0-9_]*)(\\?)?");
  for (size_t i = 0; i < more.size(); ++i) {
    mark.clear();
    if (!RE2::FullMatch(more[i], kParam, &name, &mark)) {
      context.mistakes.push_back(MistakeAt(context.out, StrCat(r.Path("params"), "[", i, "]"),
                                           "a parameter is a name like status, or status? where it may be left out"));
    } else {
      AddParam(name, !mark.empty(), &operation.params);
    }
  }
  r.Bool("idempotent", &operation.idempotent);
  r.Duration("timeout", &operation.timeout, absl::Milliseconds(1), absl::Hours(1));
  if (const Yaml* pagination = r.Take("pagination")) {
    Reader p(context, *pagination, r.Path("pagination"), "pagination");
    Pagination& out = operation.pagination;
    p.Word("style", &out.style, {"link_header", "next_url", "cursor", "offset", "page", "last_id"});
    if (!p.Has("style") && pagination->kind == Yaml::Kind::kMap)
      p.Fail(pagination->at, p.path(), "the key \"style\" is missing");
    p.Text("items", &out.items);
    p.Text("cursor", &out.cursor_path);
    p.Text("cursor_param", &out.cursor_param);
    p.Text("size_param", &out.size_param);
    p.Text("has_more", &out.has_more_path);
    p.Text("id", &out.id_path);
    p.Int("page_size", &out.page_size, 1, 100'000);
    p.Int("max_pages", &out.max_pages, 1, 1'000'000);
    p.Done();
  }
  r.Done();
  return operation;
}

Provider ReadProvider(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "provider");
  Provider provider;
  provider.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  r.Required("base_url", &provider.base_url);
  static const RE2 kUrl("https?://[^/?#@\\s\\\\{}]+(/[^?#\\s\\\\]*)?");
  if (!provider.base_url.empty() && !RE2::FullMatch(provider.base_url, kUrl))
    r.Fail("base_url", StrCat("\"", provider.base_url,
                              "\" is not https://HOST or https://HOST/PATH, without user, query and fragment"));
  while (absl::EndsWith(provider.base_url, "/")) provider.base_url.pop_back();
  provider.auth = "none";
  if (const Yaml* auth = r.Take("auth")) {
    if (auth->kind == Yaml::Kind::kScalar) {
      if (auth->text != "none") r.Fail("auth", "expected none, or a map such as {bearer: SECRET}");
    } else {
      Reader a(context, *auth, r.Path("auth"), "auth");
      a.Text("bearer", &provider.auth_secret);
      std::string basic, header, query;
      a.Text("basic", &basic);
      a.Text("header", &header);
      a.Text("query", &query);
      int ways = a.Has("bearer") + a.Has("basic") + a.Has("header") + a.Has("query");
      if (ways != 1 && auth->kind == Yaml::Kind::kMap)
        a.Fail(auth->at, a.path(),
               "say one of `bearer: SECRET`, `basic: SECRET`, `header: NAME` or `query: NAME` with `secret: SECRET`");
      if (a.Has("bearer")) provider.auth = "bearer";
      if (a.Has("basic")) provider.auth = "basic", provider.auth_secret = basic;
      if (a.Has("header")) provider.auth = "header", provider.auth_name = header;
      if (a.Has("query")) provider.auth = "query", provider.auth_name = query;
      std::string secret;
      a.Text("secret", &secret);
      bool named = a.Has("header") || a.Has("query");
      if (named) provider.auth_secret = secret;
      if (named && !a.Has("secret")) a.Fail(auth->at, a.path(), "the key \"secret\" is missing");
      if (!named && a.Has("secret")) a.Fail("secret", "stands only beside `header` or `query`");
      if (ways == 1 && !provider.auth_secret.empty() && !IsSecretName(provider.auth_secret))
        a.Fail(named ? "secret" : provider.auth,
               "this is no name of a secret ([a-z][a-z0-9_./-]*); secrets themselves never stand in a catalog");
      a.Done();
    }
  }
  r.Text("idempotency_header", &provider.idempotency_header);
  ReadRate(r, "rate", &provider.rate);
  r.Int("concurrency", &provider.concurrency, 1, 10'000);
  r.Duration("timeout", &provider.timeout, absl::Milliseconds(1), absl::Hours(1));
  r.Duration("connect_timeout", &provider.connect_timeout, absl::Milliseconds(1), absl::Minutes(5));
  r.Int("max_attempts", &provider.max_attempts, 1, 20);
  r.Map("error_map", &provider.error_map);
  static const std::vector<std::string> kClasses = {"auth",      "throttled", "transient", "permanent",
                                                    "not_found", "conflict",  "validation"};
  for (const auto& [when, cls] : provider.error_map) {
    std::string place = StrCat(r.Path("error_map"), ".", when);
    static const RE2 kWhen("[1-5][0-9][0-9](:[A-Za-z0-9_.]+=.+)?");
    if (!RE2::FullMatch(when, kWhen))
      context.mistakes.push_back(
          MistakeAt(context.out, place,
                    "a case is a status (\"402\") or a status with a body value (\"409:code=key_in_use\")", true));
    if (std::find(kClasses.begin(), kClasses.end(), cls) == kClasses.end())
      context.mistakes.push_back(MistakeAt(context.out, place, StrCat("\"", cls, "\" is not ", Choice(kClasses))));
  }
  r.Each("operations", [&](const Yaml::Member& m, const std::string& p) {
    provider.operations[m.key] = ReadOperation(context, m, p);
  });
  r.Done();
  return provider;
}

// ---- jobs, imports, exports, limits ----

Queue ReadQueue(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "queue");
  Queue queue;
  queue.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  r.Int("priority", &queue.priority, 0, 9);
  r.Int("concurrency", &queue.concurrency, 0, 100'000);
  r.Int("weight", &queue.weight, 1, 1000);
  r.Int("max_attempts", &queue.max_attempts, 1, 1000);
  r.Int("max_crashes", &queue.max_crashes, 1, 100);
  r.Duration("soft_limit", &queue.soft_limit, absl::Milliseconds(10), kDay * 7);
  bool hard = r.Duration("hard_limit", &queue.hard_limit, absl::Milliseconds(10), kDay * 7 + absl::Hours(1));
  if (!hard && r.Has("soft_limit"))
    queue.hard_limit = queue.soft_limit + std::max(absl::Seconds(10), queue.soft_limit / 6);
  if (queue.hard_limit < queue.soft_limit)
    r.Fail("hard_limit", StrCat(absl::FormatDuration(queue.hard_limit), " is shorter than the soft limit of ",
                                absl::FormatDuration(queue.soft_limit), ": no handler could end by itself"));
  if (const Yaml* backoff = r.Take("backoff")) {
    Reader b(context, *backoff, r.Path("backoff"), "backoff");
    b.Duration("base", &queue.backoff.base, absl::Milliseconds(1), kDay);
    b.Duration("cap", &queue.backoff.cap, absl::Milliseconds(1), kDay * 7);
    if (queue.backoff.base > queue.backoff.cap) b.Fail("base", "is longer than the cap");
    b.Done();
  }
  r.Duration("retention", &queue.retention, absl::Minutes(1), kDay * 3650);
  r.Done();
  return queue;
}

Schedule ReadSchedule(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "schedule");
  Schedule schedule;
  schedule.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  r.Required("cron", &schedule.cron);
  if (!schedule.cron.empty()) {
    if (const auto cron = Cron::Parse(schedule.cron); !cron.ok()) r.Fail("cron", std::string(cron.status().message()));
  }
  r.Text("zone", &schedule.zone, 64);
  if (const auto zone = LoadZone(schedule.zone); !zone.ok()) r.Fail("zone", std::string(zone.status().message()));
  r.Required("kind", &schedule.kind);
  static const RE2 kKind("[a-z][a-z0-9_]*(\\.[a-z][a-z0-9_]*)*");
  if (!schedule.kind.empty() && (schedule.kind.size() > 100 || !RE2::FullMatch(schedule.kind, kKind)))
    r.Fail("kind", "expected lower-case words joined by dots, like \"reports.build\"");
  schedule.queue = "default";
  r.Text("queue", &schedule.queue);
  if (const Yaml* args = r.Take("args")) {
    if (args->kind == Yaml::Kind::kMap) {
      schedule.args = YamlToJson(*args);
    } else if (args->kind != Yaml::Kind::kNull) {
      r.Fail("args", StrCat("expected a map, got ", KindWord(*args)));
    }
    if (schedule.args.size() > (256 << 10)) r.Fail("args", "longer than 256 KiB");
  }
  r.Word("missed", &schedule.missed, {"last", "all", "skip"});
  r.Duration("missed_window", &schedule.missed_window, absl::Minutes(1), kDay * 31);
  r.Word("overlap", &schedule.overlap, {"skip", "allow", "queue", "replace"});
  r.Required("tenant", &schedule.tenant);
  if (schedule.tenant == kAllTenants) r.Fail("tenant", "a job belongs to one tenant: name it");
  r.Text("role", &schedule.role);
  r.Bool("paused", &schedule.paused);
  r.Done();
  return schedule;
}

ImportMapping ReadImport(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "import");
  ImportMapping import;
  import.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  r.Required("resource", &import.resource);
  r.Word("mode", &import.mode, {"create", "update", "upsert", "delete", "ignore"});
  r.Word("commit", &import.commit, {"all", "chunks"});
  r.Word("on_error", &import.on_error, {"abort", "skip"});
  r.List("key", &import.key);
  r.Map("columns", &import.columns);
  r.Number("max_error_share", &import.max_error_share, 0, 1);
  r.Text("locale", &import.locale, 35);
  r.Text("zone", &import.zone, 64);
  absl::TimeZone zone;
  if (!import.zone.empty() && !absl::LoadTimeZone(import.zone, &zone))
    r.Fail("zone", StrCat("the time zone \"", import.zone, "\" is not known; write for example UTC or Europe/Berlin"));
  r.Done();
  return import;
}

ExportMapping ReadExport(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "export");
  ExportMapping mapping;
  mapping.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  r.Required("resource", &mapping.resource);
  r.Word("format", &mapping.format, {"csv", "tsv", "xlsx", "jsonl"});
  r.Text("query", &mapping.query);
  r.List("fields", &mapping.fields);
  r.Done();
  return mapping;
}

TrafficLimit ReadLimit(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "limit");
  TrafficLimit limit;
  limit.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  limit.by = "key";
  r.Word("by", &limit.by, {"key", "tenant", "ip", "route"});
  r.Int("limit", &limit.rate.limit, 1, 1'000'000'000);
  if (!r.Has("limit") && r.node().kind == Yaml::Kind::kMap) r.Fail(r.node().at, path, "the key \"limit\" is missing");
  limit.rate.period = absl::Minutes(1);
  r.Duration("period", &limit.rate.period, absl::Milliseconds(1), kDay * 31);
  r.Int("burst", &limit.rate.burst, 1, 1'000'000'000);
  r.Done();
  return limit;
}

}  // namespace

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

Parsed ParseAll(const std::vector<File>& given, const Variables& variables, const ParseLimits& limits) {
  auto out = std::make_shared<Declarations>();
  out->files = given;
  std::sort(out->files.begin(), out->files.end(), [](const File& a, const File& b) { return a.name < b.name; });
  YamlInput input{out->files, variables, limits, {}, {}, 0};
  Parsed parsed{Document(out), {}, true};

  size_t total = 0;
  for (const File& file : out->files) total += file.text.size();
  if (out->files.empty())
    parsed.mistakes.push_back({"", 0, 0, "", "the catalog has no files; put at least one *.yaml file into its folder"});
  if (static_cast<int>(out->files.size()) > limits.files)
    parsed.mistakes.push_back({"", 0, 0, "", StrCat("the catalog has more than ", limits.files, " files")});
  if (total > limits.total_bytes)
    parsed.mistakes.push_back({"", 0, 0, "", StrCat("the catalog is larger than ", limits.total_bytes, " bytes")});
  for (size_t i = 1; i < out->files.size(); ++i)
    if (out->files[i].name == out->files[i - 1].name)
      parsed.mistakes.push_back({out->files[i].name, 0, 0, "", "two files have this name"});
  if (!parsed.mistakes.empty()) {
    parsed.readable = false;
    return parsed;
  }

  Reader::Context context{*out, input.mistakes};
  std::map<std::string, Spot> declared;  // "resources.orders" → where first
  std::vector<YamlPtr> roots;            // keep what the readers point into
  for (size_t i = 0; i < out->files.size(); ++i) {
    size_t before = input.mistakes.size();
    YamlPtr root = ReadYaml(input, static_cast<int>(i));
    if (root == nullptr) {
      if (input.mistakes.size() > before) parsed.readable = false;
      continue;
    }
    if (root->kind == Yaml::Kind::kNull) continue;
    roots.push_back(root);
    Reader top(context, *root, "", "catalog");
    // Each section may be spread over files; a name stands once.
    auto section = [&](std::string_view name, auto read) {
      const Yaml* value = top.Take(name);
      if (value == nullptr) return;
      top.EachOf(*value, std::string(name), [&](const Yaml::Member& member, const std::string& path) {
        auto [it, fresh] = declared.try_emplace(path, member.at);
        if (!fresh) {
          top.Fail(member.at, path,
                   StrCat("is declared already at ", out->files[it->second.file].name, ":", it->second.line, ":",
                          it->second.column));
          return;
        }
        read(member, path);
      });
    };
    Model& m = out->model;
    section("resources",
            [&](const Yaml::Member& v, const std::string& p) { out->resources[v.key] = ReadResource(context, v, p); });
    section("roles", [&](const Yaml::Member& v, const std::string& p) { m.roles[v.key] = ReadRole(context, v, p); });
    section("sources",
            [&](const Yaml::Member& v, const std::string& p) { m.sources[v.key] = ReadSource(context, v, p); });
    section("providers",
            [&](const Yaml::Member& v, const std::string& p) { m.providers[v.key] = ReadProvider(context, v, p); });
    section("queues", [&](const Yaml::Member& v, const std::string& p) { m.queues[v.key] = ReadQueue(context, v, p); });
    section("schedules",
            [&](const Yaml::Member& v, const std::string& p) { m.schedules[v.key] = ReadSchedule(context, v, p); });
    section("imports",
            [&](const Yaml::Member& v, const std::string& p) { m.imports[v.key] = ReadImport(context, v, p); });
    section("exports",
            [&](const Yaml::Member& v, const std::string& p) { m.exports[v.key] = ReadExport(context, v, p); });
    section("limits", [&](const Yaml::Member& v, const std::string& p) { m.limits[v.key] = ReadLimit(context, v, p); });
    top.Done();
  }
  for (const char* name : {"default", "mainstay"}) {
    auto [it, fresh] = out->model.queues.try_emplace(name);
    if (fresh) it->second.name = name;
  }

  out->used = input.used;
  // The identity: every length in front of what it counts, so that no two catalogs share a text.
  std::string canonical = "mainstay catalog 1\n";
  for (const File& file : out->files)
    StrAppend(&canonical, "file ", file.name.size(), " ", file.name, " ", file.text.size(), "\n", file.text, "\n");
  for (const auto& [name, value] : out->used)
    StrAppend(&canonical, "variable ", name, " ", value.size(), "\n", value, "\n");
  out->hash = HexEncode(Sha256(canonical));
  parsed.mistakes = std::move(input.mistakes);
  return parsed;
}

const std::string& Document::hash() const {
  return declarations_->hash;
}
const std::map<std::string, std::set<std::string>>& Document::accepted_keys() const {
  return declarations_->accepted;
}
std::vector<std::string> Document::Tables() const {
  std::vector<std::string> tables;
  for (const auto& [name, resource] : declarations_->resources) {
    if (!resource.table_name.empty()) tables.push_back(resource.table);
    for (const RelationDeclaration& relation : resource.relations)
      if (!relation.through.empty() && ParseTableName(relation.through).ok()) tables.push_back(relation.through);
  }
  return tables;
}

absl::StatusOr<Document> ParseFiles(const std::vector<File>& files, const Variables& variables,
                                    const ParseLimits& limits) {
  Parsed parsed = ParseAll(files, variables, limits);
  if (absl::Status status = MistakesToStatus(std::move(parsed.mistakes)); !status.ok()) return status;
  return parsed.document;
}

absl::StatusOr<std::vector<File>> ReadFolder(const std::string& folder) {
  namespace fs = std::filesystem;
  std::error_code error;
  std::vector<File> files;
  ParseLimits limits;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::string name = it->path().filename().string();
    if (absl::StartsWith(name, ".") || !(absl::EndsWith(name, ".yaml") || absl::EndsWith(name, ".yml")) ||
        !it->is_regular_file())
      continue;
    if (it->file_size() > limits.file_bytes)
      return absl::InvalidArgumentError(StrCat(name, ": the file is larger than ", limits.file_bytes, " bytes"));
    std::ifstream stream(it->path(), std::ios::binary);
    std::ostringstream text;
    text << stream.rdbuf();
    if (!stream) return absl::InvalidArgumentError(StrCat(it->path().string(), ": cannot be read"));
    files.push_back({name, text.str()});
  }
  if (error) return absl::NotFoundError(StrCat("the catalog folder ", folder, " cannot be read: ", error.message()));
  if (files.empty()) return absl::NotFoundError(StrCat("the catalog folder ", folder, " holds no *.yaml files"));
  std::sort(files.begin(), files.end(), [](const File& a, const File& b) { return a.name < b.name; });
  return files;
}

}  // namespace mainstay::catalog
