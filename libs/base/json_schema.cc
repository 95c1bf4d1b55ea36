// SPDX-License-Identifier: Apache-2.0
// A schema becomes nodes, one per subschema, which refer to each other where `$ref` says so; a value is then walked
// along them. Alternatives (anyOf, not, if …) are tried without noting what is wrong.
#include "libs/base/json_schema.h"

#include <re2/re2.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "libs/base/strings.h"

namespace mainstay {
namespace {

using Kind = JsonValue::Kind;

constexpr size_t kMaxSchema = 64 << 10;
// Subschemas applied to one value (and bytes compared for them), and to one place in it within each other: more is a
// schema that refers to itself without end, or alternatives that multiply.
constexpr int64_t kMaxSteps = 1000000;
constexpr int kMaxNesting = 400;

// A JSON number by its digits: 0.`digits` × 10^`exponent`.
struct Decimal {
  bool negative = false;
  std::string digits;  // no zeros at either end; empty is 0
  int64_t exponent = 0;

  static Decimal Parse(std::string_view text) {
    Decimal d;
    if (!text.empty() && text[0] == '-') d.negative = true, text.remove_prefix(1);
    if (const size_t e = text.find_first_of("eE"); e != std::string_view::npos) {
      const size_t start = e + (text[e + 1] == '+' ? 2 : 1);
      std::from_chars(text.data() + start, text.data() + text.size(), d.exponent);
      text = text.substr(0, e);
    }
    const size_t point = std::min(text.find('.'), text.size());
    d.exponent += static_cast<int64_t>(point);
    d.digits = text.substr(0, point);
    if (point < text.size()) d.digits += text.substr(point + 1);
    const size_t first = std::min(d.digits.find_first_not_of('0'), d.digits.size());
    d.digits.erase(0, first);
    d.exponent -= static_cast<int64_t>(first);
    d.digits.erase(d.digits.find_last_not_of('0') + 1);
    if (d.digits.empty()) return {};
    return d;
  }
  bool integer() const { return static_cast<int64_t>(digits.size()) <= exponent || digits.empty(); }
  std::string text() const { return StrCat(negative ? "-" : "", digits, "e", exponent); }

  friend int Compare(const Decimal& a, const Decimal& b) {
    const int sign_a = a.digits.empty() ? 0 : a.negative ? -1 : 1, sign_b = b.digits.empty() ? 0 : b.negative ? -1 : 1;
    if (sign_a != sign_b) return sign_a < sign_b ? -1 : 1;
    if (a.exponent != b.exponent) return a.exponent < b.exponent ? -sign_a : sign_a;
    return sign_a * a.digits.compare(b.digits);
  }
};

// The same for all texts of one value: members in order, numbers by their digits.
void AppendCanonical(const JsonValue& value, std::string& out) {
  switch (value.kind()) {
    case Kind::kNull:
    case Kind::kBool:
      out += value.raw();
      return;
    case Kind::kNumber:
      out += Decimal::Parse(value.text()).text();
      return;
    case Kind::kString:
      AppendJsonString(value.text(), out);
      return;
    case Kind::kArray:
      out += '[';
      for (const JsonValue& item : value.items()) AppendCanonical(item, out), out += ',';
      out += ']';
      return;
    case Kind::kObject: {
      std::map<std::string_view, const JsonValue*> members;
      for (const auto& member : value.members()) members[member.key] = &member.value;
      out += '{';
      for (const auto& [key, member] : members) {
        AppendJsonString(key, out);
        out += ':';
        AppendCanonical(*member, out);
        out += ',';
      }
      out += '}';
      return;
    }
  }
}
std::string Canonical(const JsonValue& value) {
  std::string out;
  AppendCanonical(value, out);
  return out;
}

enum Types : uint8_t { kNull = 1, kBoolean = 2, kInteger = 4, kNumber = 8, kString = 16, kArray = 32, kObject = 64 };
constexpr std::pair<std::string_view, Types> kTypeNames[] = {
    {"null", kNull},     {"boolean", kBoolean}, {"integer", kInteger}, {"number", kNumber},
    {"string", kString}, {"array", kArray},     {"object", kObject}};

uint8_t TypesOf(const JsonValue& value) {
  switch (value.kind()) {
    case Kind::kNull:
      return kNull;
    case Kind::kBool:
      return kBoolean;
    case Kind::kNumber:
      return Decimal::Parse(value.text()).integer() ? kInteger | kNumber : kNumber;
    case Kind::kString:
      return kString;
    case Kind::kArray:
      return kArray;
    case Kind::kObject:
      return kObject;
  }
  return 0;
}

std::string TypeNames(uint8_t types) {
  std::string names;
  for (const auto& [name, type] : kTypeNames)
    if ((types & type) != 0) StrAppend(&names, names.empty() ? "" : " or ", name);
  return names;
}

struct Range {
  uint64_t least = 0, most = UINT64_MAX;
  bool Has(uint64_t n) const { return n >= least && n <= most; }
  bool any() const { return least == 0 && most == UINT64_MAX; }
  std::string text() const {
    if (most == UINT64_MAX) return StrCat("at least ", least);
    return least == 0 ? StrCat("at most ", most) : StrCat(least, " to ", most);
  }
};

struct Bound {
  Decimal value;
  std::string text;
};

struct Node {
  bool never = false;  // the schema `false`
  uint8_t types = 0;   // 0: any
  std::optional<std::set<std::string>> values;
  std::string values_text;
  std::optional<Bound> minimum, maximum, above, below;
  Range length, items_count, members_count;
  const RE2* pattern = nullptr;
  bool unique_items = false;
  std::vector<std::string_view> required;
  std::vector<std::pair<std::string_view, std::vector<std::string_view>>> dependent;
  absl::flat_hash_map<std::string_view, const Node*> properties;
  std::vector<std::pair<const RE2*, const Node*>> patterns;
  const Node *additional = nullptr, *names = nullptr, *items = nullptr, *contains = nullptr, *ref = nullptr,
             *no = nullptr, *condition = nullptr, *then = nullptr, *otherwise = nullptr;
  std::vector<const Node*> prefix, all, any, one;
};

// RFC 6901, of a member's name.
std::string Escaped(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (c == '~' || c == '/') {
      out += c == '~' ? "~0" : "~1";
    } else {
      out += c;
    }
  }
  return out;
}
std::string Unescaped(std::string_view name) {
  std::string out;
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '~' && i + 1 < name.size() && (name[i + 1] == '0' || name[i + 1] == '1')) {
      out += name[++i] == '0' ? '~' : '/';
    } else {
      out += name[i];
    }
  }
  return out;
}

}  // namespace

struct JsonSchema::Compiled {
  JsonDocument source;  // nodes point into it
  std::deque<Node> nodes;
  std::map<std::string, std::unique_ptr<RE2>, std::less<>> patterns;
};

namespace {

class Compiler {
 public:
  Compiler(const JsonValue& root, std::deque<Node>& nodes,
           std::map<std::string, std::unique_ptr<RE2>, std::less<>>& patterns)
      : root_(root), nodes_(nodes), patterns_(patterns) {}

  // Empty when all is well.
  std::string Run() {
    Subschema(root_);
    // One after another: a chain of references is no recursion.
    while (!references_.empty() && error_.empty()) {
      const Reference reference = references_.back();
      references_.pop_back();
      path_ = reference.path;
      if (const JsonValue* target = Resolve(reference.text); target != nullptr)
        reference.from->ref = Subschema(*target);
    }
    return error_;
  }

 private:
  using Read = void (*)(Compiler&, Node&, const JsonValue&);
  struct Reference {
    Node* from;
    std::string path;
    std::string_view text;
  };

  void Wrong(std::string_view what) {
    if (error_.empty()) error_ = StrCat(path_.empty() ? "/" : path_, ": ", what);
  }

  Node* Subschema(const JsonValue& schema) {
    const auto [it, fresh] = done_.emplace(&schema, nullptr);
    if (!fresh) return it->second;
    Node& node = nodes_.emplace_back();
    it->second = &node;
    if (schema.is_bool()) {
      node.never = !schema.boolean();
      return &node;
    }
    if (!schema.is_object()) {
      Wrong("expected a schema: an object, true or false");
      return &node;
    }
    for (const auto& member : schema.members()) {
      const size_t before = path_.size();
      StrAppend(&path_, "/", Escaped(member.key));
      const auto keyword = Keywords().find(member.key);
      if (keyword == Keywords().end()) {
        Wrong("unknown keyword");
      } else if (keyword->second != nullptr) {
        keyword->second(*this, node, member.value);
      }
      path_.resize(before);
    }
    // In draft 7 `items` may be a list, and `additionalItems` is what follows it.
    if (const JsonValue* rest = schema.Find("additionalItems"); rest != nullptr) {
      if (const JsonValue* items = schema.Find("items"); items != nullptr && items->is_array())
        node.items = Below("additionalItems", *rest);
    }
    return &node;
  }

  Node* Below(std::string_view step, const JsonValue& schema) {
    const size_t before = path_.size();
    StrAppend(&path_, "/", Escaped(step));
    Node* node = Subschema(schema);
    path_.resize(before);
    return node;
  }

  std::vector<const Node*> List(const JsonValue& value) {
    std::vector<const Node*> list;
    if (!value.is_array() || value.items().empty()) Wrong("expected a list of schemas");
    if (!value.is_array()) return list;
    for (size_t i = 0; i < value.items().size(); ++i) list.push_back(Below(StrCat(i), value.items()[i]));
    return list;
  }

  std::vector<std::string_view> Strings(const JsonValue& value) {
    std::vector<std::string_view> list;
    if (!value.is_array()) Wrong("expected a list of strings");
    if (!value.is_array()) return list;
    for (const JsonValue& item : value.items()) {
      if (!item.is_string()) Wrong("expected a list of strings");
      list.push_back(item.text());
    }
    return list;
  }

  uint64_t Size(const JsonValue& value) {
    uint64_t size = 0;
    const std::string_view text = value.is_number() ? value.text() : "";
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
    if (text.empty() || error != std::errc() || end != text.data() + text.size())
      Wrong("expected a number of things, 0 or more");
    return size;
  }

  std::optional<Bound> Number(const JsonValue& value) {
    if (!value.is_number()) Wrong("expected a number");
    if (!value.is_number()) return std::nullopt;
    return Bound{Decimal::Parse(value.text()), std::string(value.text())};
  }

  const RE2* Pattern(std::string_view text) {
    auto it = patterns_.find(text);
    if (it == patterns_.end()) {
      RE2::Options options;
      options.set_log_errors(false);
      options.set_max_mem(1 << 20);
      it = patterns_.emplace(std::string(text), std::make_unique<RE2>(std::string(text), options)).first;
    }
    if (!it->second->ok()) Wrong(StrCat("not a pattern of RE2: ", it->second->error()));
    return it->second.get();
  }

  void Values(Node& node, const std::vector<const JsonValue*>& values) {
    std::set<std::string> allowed;
    std::string text;
    for (const JsonValue* value : values) {
      allowed.insert(Canonical(*value));
      if (text.size() < 200) StrAppend(&text, text.empty() ? "" : ", ", value->raw());
    }
    if (node.values.has_value()) {  // both enum and const
      std::erase_if(*node.values, [&](const std::string& value) { return !allowed.contains(value); });
    } else {
      node.values = std::move(allowed);
    }
    node.values_text = std::move(text);
  }

  const JsonValue* Resolve(std::string_view reference) {
    if (reference.empty() || reference[0] != '#' || (reference.size() > 1 && reference[1] != '/')) {
      Wrong("expected a place in this document: # or #/$defs/…");
      return nullptr;
    }
    const JsonValue* at = &root_;
    std::string_view rest = reference.substr(1);
    while (!rest.empty()) {
      rest.remove_prefix(1);
      const std::string step = Unescaped(rest.substr(0, rest.find('/')));
      rest.remove_prefix(std::min(rest.find('/'), rest.size()));
      const JsonValue* next = nullptr;
      if (at->is_array()) {
        size_t index = 0;
        const auto [end, error] = std::from_chars(step.data(), step.data() + step.size(), index);
        if (error == std::errc() && end == step.data() + step.size() && index < at->items().size())
          next = &at->items()[index];
      } else {
        next = at->Find(step);
      }
      if (next == nullptr) {
        Wrong(StrCat("there is no ", reference));
        return nullptr;
      }
      at = next;
    }
    return at;
  }

  static const absl::flat_hash_map<std::string_view, Read>& Keywords();

  const JsonValue& root_;
  std::deque<Node>& nodes_;
  std::map<std::string, std::unique_ptr<RE2>, std::less<>>& patterns_;
  absl::flat_hash_map<const JsonValue*, Node*> done_;
  std::vector<Reference> references_;
  std::string path_, error_;
};

// Null: says nothing about the value.
const absl::flat_hash_map<std::string_view, Compiler::Read>& Compiler::Keywords() {
  using Map = absl::flat_hash_map<std::string_view, Read>;
  static const Map& keywords = *new Map{
      {"$schema", nullptr},
      {"$id", nullptr},
      {"$comment", nullptr},
      {"$defs", nullptr},
      {"definitions", nullptr},
      {"title", nullptr},
      {"description", nullptr},
      {"default", nullptr},
      {"examples", nullptr},
      {"deprecated", nullptr},
      {"readOnly", nullptr},
      {"writeOnly", nullptr},
      {"format", nullptr},
      {"contentEncoding", nullptr},
      {"contentMediaType", nullptr},
      {"additionalItems", nullptr},  // read with `items`
      {"$ref",
       [](Compiler& c, Node& n, const JsonValue& v) {
         if (!v.is_string()) return c.Wrong("expected a string");
         c.references_.push_back({&n, c.path_, v.text()});
       }},
      {"type",
       [](Compiler& c, Node& n, const JsonValue& v) {
         auto add = [&](const JsonValue& name) {
           for (const auto& [known, type] : kTypeNames) {
             if (name.is_string() && name.text() == known) {
               n.types |= type;
               return;
             }
           }
           c.Wrong("expected null, boolean, integer, number, string, array or object");
         };
         if (!v.is_array()) return add(v);
         if (v.items().empty()) c.Wrong("expected a type");
         for (const JsonValue& name : v.items()) add(name);
       }},
      {"enum",
       [](Compiler& c, Node& n, const JsonValue& v) {
         if (!v.is_array() || v.items().empty()) return c.Wrong("expected a list of values");
         std::vector<const JsonValue*> values;
         for (const JsonValue& value : v.items()) values.push_back(&value);
         c.Values(n, values);
       }},
      {"const", [](Compiler& c, Node& n, const JsonValue& v) { c.Values(n, {&v}); }},
      {"minimum", [](Compiler& c, Node& n, const JsonValue& v) { n.minimum = c.Number(v); }},
      {"maximum", [](Compiler& c, Node& n, const JsonValue& v) { n.maximum = c.Number(v); }},
      {"exclusiveMinimum", [](Compiler& c, Node& n, const JsonValue& v) { n.above = c.Number(v); }},
      {"exclusiveMaximum", [](Compiler& c, Node& n, const JsonValue& v) { n.below = c.Number(v); }},
      {"minLength", [](Compiler& c, Node& n, const JsonValue& v) { n.length.least = c.Size(v); }},
      {"maxLength", [](Compiler& c, Node& n, const JsonValue& v) { n.length.most = c.Size(v); }},
      {"minItems", [](Compiler& c, Node& n, const JsonValue& v) { n.items_count.least = c.Size(v); }},
      {"maxItems", [](Compiler& c, Node& n, const JsonValue& v) { n.items_count.most = c.Size(v); }},
      {"minProperties", [](Compiler& c, Node& n, const JsonValue& v) { n.members_count.least = c.Size(v); }},
      {"maxProperties", [](Compiler& c, Node& n, const JsonValue& v) { n.members_count.most = c.Size(v); }},
      {"pattern",
       [](Compiler& c, Node& n, const JsonValue& v) {
         if (!v.is_string()) return c.Wrong("expected a pattern");
         n.pattern = c.Pattern(v.text());
       }},
      {"uniqueItems",
       [](Compiler& c, Node& n, const JsonValue& v) {
         if (!v.is_bool()) return c.Wrong("expected true or false");
         n.unique_items = v.boolean();
       }},
      {"required", [](Compiler& c, Node& n, const JsonValue& v) { n.required = c.Strings(v); }},
      {"dependentRequired",
       [](Compiler& c, Node& n, const JsonValue& v) {
         if (!v.is_object()) return c.Wrong("expected an object");
         for (const auto& member : v.members()) n.dependent.emplace_back(member.key, c.Strings(member.value));
       }},
      {"properties",
       [](Compiler& c, Node& n, const JsonValue& v) {
         if (!v.is_object()) return c.Wrong("expected an object");
         for (const auto& member : v.members()) n.properties[member.key] = c.Below(member.key, member.value);
       }},
      {"patternProperties",
       [](Compiler& c, Node& n, const JsonValue& v) {
         if (!v.is_object()) return c.Wrong("expected an object");
         for (const auto& member : v.members())
           n.patterns.emplace_back(c.Pattern(member.key), c.Below(member.key, member.value));
       }},
      {"additionalProperties", [](Compiler& c, Node& n, const JsonValue& v) { n.additional = c.Subschema(v); }},
      {"propertyNames", [](Compiler& c, Node& n, const JsonValue& v) { n.names = c.Subschema(v); }},
      {"prefixItems", [](Compiler& c, Node& n, const JsonValue& v) { n.prefix = c.List(v); }},
      {"items",
       [](Compiler& c, Node& n, const JsonValue& v) {
         if (v.is_array()) {
           n.prefix = c.List(v);
         } else {
           n.items = c.Subschema(v);
         }
       }},
      {"contains", [](Compiler& c, Node& n, const JsonValue& v) { n.contains = c.Subschema(v); }},
      {"allOf", [](Compiler& c, Node& n, const JsonValue& v) { n.all = c.List(v); }},
      {"anyOf", [](Compiler& c, Node& n, const JsonValue& v) { n.any = c.List(v); }},
      {"oneOf", [](Compiler& c, Node& n, const JsonValue& v) { n.one = c.List(v); }},
      {"not", [](Compiler& c, Node& n, const JsonValue& v) { n.no = c.Subschema(v); }},
      {"if", [](Compiler& c, Node& n, const JsonValue& v) { n.condition = c.Subschema(v); }},
      {"then", [](Compiler& c, Node& n, const JsonValue& v) { n.then = c.Subschema(v); }},
      {"else", [](Compiler& c, Node& n, const JsonValue& v) { n.otherwise = c.Subschema(v); }},
  };
  return keywords;
}

class Walk {
 public:
  Walk(std::string_view at, std::vector<FieldError>& errors, size_t limit)
      : path_(at), errors_(errors), limit_(limit) {}

  void Run(const Node& node, const JsonValue& value) {
    const std::string place = path_;
    const size_t before = errors_.size();
    Apply(node, value);
    if (!exhausted_) return;
    // What was found until then may be wrong itself: the walk was not done.
    errors_.resize(before);
    quiet_ = 0;
    path_ = place;
    Wrong("too_deep", "too much work to check against the schema");
  }

 private:
  // Whether the walk goes on after something wrong: to find more of it.
  bool Wrong(std::string_view code, std::string detail) {
    ok_ = false;
    if (quiet_ > 0) return false;
    if (errors_.size() < limit_)
      errors_.push_back({.name = path_, .code = std::string(code), .detail = std::move(detail)});
    return errors_.size() < limit_;
  }

  bool Holds(const Node& node, const JsonValue& value) {
    const bool before = std::exchange(ok_, true);
    ++quiet_;
    Apply(node, value);
    --quiet_;
    return std::exchange(ok_, before);
  }

  bool Enough() const { return exhausted_ || (!ok_ && (quiet_ > 0 || errors_.size() >= limit_)); }

  void Charge(std::string_view bytes) { steps_ += static_cast<int64_t>(bytes.size() / 16); }

  void Below(std::string_view step, const Node& node, const JsonValue& value) {
    const size_t before = path_.size();
    path_ += '/';
    path_ += Escaped(step);
    Apply(node, value);
    path_.resize(before);
  }

  void Apply(const Node& node, const JsonValue& value) {
    if (Enough()) return;
    if (++steps_ > kMaxSteps || nesting_ >= kMaxNesting) {
      exhausted_ = true;
      ok_ = false;
      return;
    }
    ++nesting_;
    One(node, value);
    --nesting_;
  }

  void One(const Node& node, const JsonValue& value) {
    if (node.never) {
      Wrong("unknown_field", "not expected");
      return;
    }
    if (node.types != 0 && (node.types & TypesOf(value)) == 0) {
      Wrong("invalid_type", StrCat("expected ", TypeNames(node.types)));
      return;
    }
    if (node.values.has_value()) {
      Charge(value.raw());
      if (!node.values->contains(Canonical(value))) Wrong("not_in_list", StrCat("expected one of ", node.values_text));
    }
    if (value.is_number()) Number(node, value);
    if (value.is_string()) String(node, value.text());
    if (value.is_array()) Array(node, value);
    if (value.is_object()) Object(node, value);
    if (node.ref != nullptr) Apply(*node.ref, value);
    for (const Node* each : node.all) Apply(*each, value);
    const auto holds = [&](const Node* each) { return Holds(*each, value); };
    if (!node.any.empty() && std::none_of(node.any.begin(), node.any.end(), holds))
      Wrong("invalid_value", StrCat("is none of the ", node.any.size(), " things it may be (anyOf)"));
    if (!node.one.empty()) {
      if (const auto n = std::count_if(node.one.begin(), node.one.end(), holds); n != 1)
        Wrong("invalid_value", StrCat("is ", n, " of the ", node.one.size(), " things of which it may be one (oneOf)"));
    }
    if (node.no != nullptr && Holds(*node.no, value)) Wrong("invalid_value", "is what it may not be (not)");
    if (node.condition != nullptr) {
      const Node* branch = Holds(*node.condition, value) ? node.then : node.otherwise;
      if (branch != nullptr) Apply(*branch, value);
    }
  }

  void Number(const Node& node, const JsonValue& value) {
    const Decimal number = Decimal::Parse(value.text());
    if (node.minimum.has_value() && Compare(number, node.minimum->value) < 0)
      Wrong("out_of_range", StrCat("expected ", node.minimum->text, " or more"));
    if (node.maximum.has_value() && Compare(number, node.maximum->value) > 0)
      Wrong("out_of_range", StrCat("expected ", node.maximum->text, " or less"));
    if (node.above.has_value() && Compare(number, node.above->value) <= 0)
      Wrong("out_of_range", StrCat("expected more than ", node.above->text));
    if (node.below.has_value() && Compare(number, node.below->value) >= 0)
      Wrong("out_of_range", StrCat("expected less than ", node.below->text));
  }

  void String(const Node& node, std::string_view text) {
    if (node.pattern != nullptr || !node.length.any()) Charge(text);
    if (!node.length.any()) {
      const auto characters =
          static_cast<uint64_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
      if (!node.length.Has(characters))
        Wrong(characters > node.length.most ? "too_long" : "too_short",
              StrCat("has ", characters, " characters, expected ", node.length.text()));
    }
    if (node.pattern != nullptr && !RE2::PartialMatch({text.data(), text.size()}, *node.pattern))
      Wrong("invalid_format", StrCat("does not match ", node.pattern->pattern()));
  }

  void Array(const Node& node, const JsonValue& value) {
    const auto& items = value.items();
    if (!node.items_count.Has(items.size())) {
      Wrong(items.size() > node.items_count.most ? "too_many" : "too_short",
            StrCat("has ", items.size(), " items, expected ", node.items_count.text()));
    }
    for (size_t i = 0; i < items.size() && !Enough(); ++i) {
      const Node* each = i < node.prefix.size() ? node.prefix[i] : node.items;
      if (each == nullptr) break;
      Below(StrCat(i), *each, items[i]);
    }
    if (node.contains != nullptr &&
        std::none_of(items.begin(), items.end(), [&](const JsonValue& item) { return Holds(*node.contains, item); }))
      Wrong("invalid_value", "holds no item of the expected kind (contains)");
    if (node.unique_items) {
      Charge(value.raw());
      absl::flat_hash_set<std::string> seen;
      for (const JsonValue& item : items) {
        if (seen.insert(Canonical(item)).second) continue;
        Wrong("duplicate", StrCat("holds ", std::string(item.raw().substr(0, 100)), " twice"));
        break;
      }
    }
  }

  void Object(const Node& node, const JsonValue& value) {
    const auto& members = value.members();
    if (!node.members_count.Has(members.size())) {
      Wrong(members.size() > node.members_count.most ? "too_many" : "too_short",
            StrCat("has ", members.size(), " members, expected ", node.members_count.text()));
    }
    auto require = [&](std::string_view name, std::string detail) {
      if (value.Find(name) != nullptr) return;
      const size_t before = path_.size();
      path_ += '/';
      path_ += Escaped(name);
      Wrong("required", std::move(detail));
      path_.resize(before);
    };
    for (const std::string_view name : node.required) require(name, "is missing");
    for (const auto& [name, others] : node.dependent) {
      if (value.Find(name) == nullptr) continue;
      for (const std::string_view other : others) require(other, StrCat("is missing; ", name, " needs it"));
    }
    if (node.properties.empty() && node.patterns.empty() && node.additional == nullptr && node.names == nullptr) return;
    for (const auto& member : members) {
      if (Enough()) return;
      bool known = false;
      if (const auto it = node.properties.find(member.key); it != node.properties.end()) {
        known = true;
        Below(member.key, *it->second, member.value);
      }
      for (const auto& [pattern, each] : node.patterns) {
        if (!RE2::PartialMatch({member.key.data(), member.key.size()}, *pattern)) continue;
        known = true;
        Below(member.key, *each, member.value);
      }
      if (!known && node.additional != nullptr) Below(member.key, *node.additional, member.value);
      if (node.names != nullptr) Name(*node.names, member.key);
    }
  }

  void Name(const Node& node, std::string_view name) {
    const auto document = JsonDocument::Parse(JsonQuote(name));
    if (document.ok()) Below(name, node, document->root());
  }

  std::string path_;
  std::vector<FieldError>& errors_;
  const size_t limit_;
  int quiet_ = 0, nesting_ = 0;
  int64_t steps_ = 0;
  bool ok_ = true, exhausted_ = false;
};

}  // namespace

absl::StatusOr<JsonSchema> JsonSchema::Compile(std::string json) {
  if (json.size() > kMaxSchema)
    return absl::InvalidArgumentError(StrCat("/: has ", json.size(), " bytes, the limit is ", kMaxSchema));
  absl::StatusOr<JsonDocument> source = JsonDocument::Parse(std::move(json));
  if (!source.ok()) return absl::InvalidArgumentError(StrCat("/: ", source.status().message()));
  auto compiled = std::make_shared<Compiled>(Compiled{.source = *std::move(source), .nodes = {}, .patterns = {}});
  Compiler compiler(compiled->source.root(), compiled->nodes, compiled->patterns);
  if (const std::string error = compiler.Run(); !error.empty()) return absl::InvalidArgumentError(error);
  return JsonSchema(std::move(compiled));
}

void JsonSchema::Check(const JsonValue& value, std::string_view at, std::vector<FieldError>& errors,
                       size_t limit) const {
  if (errors.size() < limit) Walk(at, errors, limit).Run(compiled_->nodes.front(), value);
}

}  // namespace mainstay
