// SPDX-License-Identifier: Apache-2.0
#include "libs/http/list_query.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "mainstay/common/v1/common.pb.h"

namespace mainstay::http {
namespace {

namespace pb = mainstay::common::v1;

constexpr size_t kMaxParameters = 500;
constexpr size_t kMaxKeys = 16;  // brackets of one name
constexpr size_t kMaxFields = 200;

constexpr std::string_view kOperators[] = {
    "eq",   "ne",    "gt",          "gte",      "lt",        "lte", "in",      "nin",     "is_null",  "distinct_from",
    "like", "ilike", "starts_with", "contains", "icontains", "has", "has_any", "has_all", "overlaps", "search"};
constexpr std::string_view kQuantifiers[] = {"some", "none", "every"};

template <typename List>
bool Contains(const List& list, std::string_view word) {
  return std::find(std::begin(list), std::end(list), word) != std::end(list);
}
bool TakesMany(std::string_view op) {
  return op == "in" || op == "nin" || op == "has_any" || op == "has_all" || op == "overlaps";
}

// Where something stood, in the terms of its input.
struct Place {
  FieldError::Place kind = FieldError::Place::kParameter;
  std::string name;
};

absl::Status Refuse(std::string_view slug, const Place& place, std::string_view code, std::string_view detail) {
  return MakeProblem(slug, detail, {{place.kind, place.name, std::string(code), std::string(detail)}});
}

// "author.country": words of lower-case letters, digits and underscores.
bool IsName(std::string_view name, bool dotted) {
  size_t length = 0;
  for (const char c : name) {
    if (c == '.' && dotted && length > 0) {
      length = 0;
      continue;
    }
    const bool first = c >= 'a' && c <= 'z';
    if (!(first || (length > 0 && ((c >= '0' && c <= '9') || c == '_'))) || ++length > 63) return false;
  }
  return length > 0;
}

// One form for both inputs: a value, a list of values, or named parts in the order sent.
struct Node {
  Place place;
  bool is_leaf = false, is_list = false, is_null = false;
  std::vector<std::string> values;  // of a leaf; several only from a JSON list of scalars
  std::vector<std::pair<std::string, std::unique_ptr<Node>>> parts;  // of a list: "0", "1" …

  Node* Find(std::string_view key) {
    for (auto& [name, node] : parts)
      if (name == key) return node.get();
    return nullptr;
  }
};

// ---- the filter tree ----

class FilterBuilder {
 public:
  explicit FilterBuilder(const ListQueryLimits& limits) : limits_(limits) {}

  // All parts ANDed.
  absl::Status Build(Node& node, int depth, pb::Filter* out) {
    if (node.is_leaf || node.is_list) return Invalid(node.place, "conditions by field are expected here");
    if (depth > limits_.depth) return Invalid(node.place, StrCat("the filter is nested deeper than ", limits_.depth));
    std::vector<pb::Filter> all;
    for (auto& [key, part] : node.parts) RETURN_IF_ERROR(Part(key, *part, depth, all));
    if (all.empty()) return Invalid(node.place, "the filter is empty");
    if (all.size() == 1) {
      *out = std::move(all[0]);
    } else {
      for (pb::Filter& filter : all) *out->mutable_and_()->add_filters() = std::move(filter);
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Invalid(const Place& place, std::string_view detail) {
    return Refuse("filter-invalid", place, "filter_invalid", detail);
  }

  absl::Status Part(const std::string& key, Node& part, int depth, std::vector<pb::Filter>& all) {
    if (key == "and" || key == "or") {
      RETURN_IF_ERROR(DenseList(part));
      pb::Filter filter;
      pb::Filter::Group* group = key == "and" ? filter.mutable_and_() : filter.mutable_or_();
      for (size_t i = 0; i < part.parts.size(); ++i)
        RETURN_IF_ERROR(Build(*part.Find(StrCat(i)), depth + 1, group->add_filters()));
      all.push_back(std::move(filter));
      return absl::OkStatus();
    }
    if (key == "not") {
      pb::Filter filter;
      RETURN_IF_ERROR(Build(part, depth + 1, filter.mutable_not_()));
      all.push_back(std::move(filter));
      return absl::OkStatus();
    }
    if (!IsName(key, true) || Contains(kQuantifiers, key))
      return Refuse("unknown-field", part.place, "unknown_field", "there is no such field");
    if (part.is_leaf) return Condition(key, "eq", part, all);
    if (part.is_list) return Invalid(part.place, "a list needs an operator, as in {\"in\": […]}");
    if (part.parts.empty()) return Invalid(part.place, "an operator is expected");
    for (auto& [word, inner] : part.parts) {
      if (Contains(kQuantifiers, word)) {
        pb::Filter filter;
        pb::Filter::Related* related = filter.mutable_related();
        related->set_relation(key);
        related->set_quantifier(word);
        related->set_place(inner->place.name);
        RETURN_IF_ERROR(Build(*inner, depth + 1, related->mutable_filter()));
        all.push_back(std::move(filter));
      } else {
        RETURN_IF_ERROR(Condition(key, word, *inner, all));
      }
    }
    return absl::OkStatus();
  }

  absl::Status Condition(const std::string& field, const std::string& op, Node& node, std::vector<pb::Filter>& all) {
    if (!Contains(kOperators, op)) return Invalid(node.place, "there is no such operator");
    if (++leaves_ > limits_.leaves)
      return Invalid(node.place, StrCat("the filter has more than ", limits_.leaves, " conditions"));
    pb::Filter filter;
    pb::Filter::Condition* condition = filter.mutable_condition();
    condition->set_field(field);
    condition->set_op(op);
    condition->set_place(node.place.name);
    if (TakesMany(op)) {
      RETURN_IF_ERROR(Many(node, condition));
    } else {
      if (node.is_null) return Invalid(node.place, "null is not a value here; use is_null");
      if (!node.is_leaf || node.values.size() != 1) return Invalid(node.place, "one value is expected");
      if (op == "is_null" && node.values[0] != "true" && node.values[0] != "false")
        return Invalid(node.place, "true or false is expected");
      condition->add_values(std::move(node.values[0]));
    }
    all.push_back(std::move(filter));
    return absl::OkStatus();
  }

  // "a,b" with "\," for a comma, or a list.
  absl::Status Many(Node& node, pb::Filter::Condition* condition) {
    if (node.is_null) return Invalid(node.place, "a list of values is expected");
    if (node.is_leaf) {
      if (node.place.kind == FieldError::Place::kPointer) return Invalid(node.place, "a list of values is expected");
      for (std::string& value : SplitValues(node.values[0])) condition->add_values(std::move(value));
    } else {
      RETURN_IF_ERROR(DenseList(node));
      for (size_t i = 0; i < node.parts.size(); ++i) {
        Node& item = *node.Find(StrCat(i));
        if (!item.is_leaf || item.is_null) return Invalid(item.place, "a value is expected");
        condition->add_values(std::move(item.values[0]));
      }
    }
    if (condition->values_size() > limits_.values)
      return Invalid(node.place, StrCat("at most ", limits_.values, " values are allowed"));
    return absl::OkStatus();
  }

  // Parts named 0, 1, 2 … without a hole, in any order.
  absl::Status DenseList(Node& node) {
    if (node.is_leaf || node.parts.empty()) return Invalid(node.place, "a list is expected");
    for (size_t i = 0; i < node.parts.size(); ++i) {
      if (node.Find(StrCat(i)) == nullptr)
        return Invalid(node.place, "list indexes must count up from 0 without a hole");
    }
    return absl::OkStatus();
  }

  const ListQueryLimits& limits_;
  int leaves_ = 0;
};

// ---- the other parts, from their text ----

absl::Status Invalid(const Place& place, std::string_view detail) {
  return Refuse("invalid-parameter", place, "invalid_value", detail);
}

std::vector<std::string_view> Split(std::string_view text) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t comma = text.find(',');
    parts.push_back(text.substr(0, comma));
    if (comma == std::string_view::npos) return parts;
    text.remove_prefix(comma + 1);
  }
}

absl::StatusOr<int64_t> Number(const Place& place, std::string_view text, int64_t min, int64_t max) {
  int64_t value = 0;
  const bool digits = !text.empty() && text.size() <= 18 &&
                      std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!digits || !absl::SimpleAtoi(ToAbsl(text), &value) || value < min || value > max)
    return Invalid(place, StrCat("a number from ", min, " to ", max, " is expected"));
  return value;
}

absl::Status Sort(const Place& place, const std::vector<std::string_view>& keys, const ListQueryLimits& limits,
                  pb::ListQuery* out) {
  if (int(keys.size()) > limits.sort_keys)
    return Invalid(place, StrCat("at most ", limits.sort_keys, " sort keys are allowed"));
  std::set<std::string_view> seen;
  for (std::string_view key : keys) {
    pb::SortKey* sort = out->add_sort();
    if (!key.empty() && key[0] == '-') {
      sort->set_descending(true);
      key.remove_prefix(1);
    }
    if (const size_t colon = key.find(':'); colon != std::string_view::npos) {
      const std::string_view nulls = key.substr(colon + 1);
      if (nulls == "nulls_first") {
        sort->set_nulls(pb::NULLS_ORDER_FIRST);
      } else if (nulls == "nulls_last") {
        sort->set_nulls(pb::NULLS_ORDER_LAST);
      } else {
        return Invalid(place, "after the colon nulls_first or nulls_last is expected");
      }
      key = key.substr(0, colon);
    }
    if (key.empty()) return Invalid(place, "a field to sort by is missing");
    if (!IsName(key, true)) return Refuse("unknown-field", place, "unknown_field", "there is no such field");
    if (!seen.insert(key).second) return Invalid(place, "a field stands twice");
    sort->set_field(std::string(key));
  }
  return absl::OkStatus();
}

absl::Status Fields(const Place& place, const std::vector<std::string_view>& names, pb::ListQuery* out) {
  if (names.size() > kMaxFields) return Invalid(place, "too many fields");
  std::set<std::string_view> seen;
  for (const std::string_view name : names) {
    if (name.empty()) return Invalid(place, "a field is missing");
    // "*" is all that may be read, as when nothing is said.
    if (name == "*" && names.size() == 1) return absl::OkStatus();
    if (!IsName(name, true)) return Refuse("unknown-field", place, "unknown_field", "there is no such field");
    if (!seen.insert(name).second) return Invalid(place, "a field stands twice");
    out->add_fields(std::string(name));
  }
  return absl::OkStatus();
}

absl::StatusOr<pb::Expand*> FindExpand(const Place& place, std::string_view path, const ListQueryLimits& limits,
                                       pb::ListQuery* out) {
  if (!IsName(path, true)) return Refuse("unknown-field", place, "unknown_field", "there is no such relation");
  if (std::count(path.begin(), path.end(), '.') + 1 > limits.expand_depth)
    return Refuse("expand-too-deep", place, "expand_too_deep",
                  StrCat("at most ", limits.expand_depth, " relations deep"));
  for (pb::Expand& expand : *out->mutable_expand())
    if (expand.path() == path) return &expand;
  if (out->expand_size() >= limits.expands)
    return Refuse("expand-too-deep", place, "expand_too_many",
                  StrCat("at most ", limits.expands, " relations in a request"));
  pb::Expand* expand = out->add_expand();
  expand->set_path(std::string(path));
  return expand;
}

absl::Status Expands(const Place& place, const std::vector<std::string_view>& paths, const ListQueryLimits& limits,
                     pb::ListQuery* out) {
  std::set<std::string_view> seen;
  for (const std::string_view path : paths) {
    if (path.empty()) return Invalid(place, "a relation is missing");
    if (!seen.insert(path).second) return Invalid(place, "a relation stands twice");
    RETURN_IF_ERROR(FindExpand(place, path, limits, out).status());
  }
  return absl::OkStatus();
}

// A single-valued part by its name; false when it has another name. `nested`: of an expansion, which knows fewer.
absl::StatusOr<bool> Scalar(std::string_view name, const Place& place, const std::string& text,
                            const ListQueryLimits& limits, bool nested, pb::ListQuery* out) {
  if (name == "limit") {
    ASSIGN_OR_RETURN(const int64_t limit, Number(place, text, 1, limits.max_limit));
    out->set_limit(int32_t(limit));
  } else if (name == "cursor") {
    if (text.empty() || text.size() > limits.max_cursor)
      return Refuse("cursor-invalid", place, "cursor_invalid", "the cursor is not valid");
    out->set_cursor(text);
  } else if (nested) {
    return false;
  } else if (name == "offset") {
    ASSIGN_OR_RETURN(const int64_t offset, Number(place, text, 0, 999'999'999'999'999'999));
    if (offset > limits.max_offset)
      return Refuse("offset-too-deep", place, "offset_too_deep", StrCat("at most ", limits.max_offset));
    out->set_offset(offset);
  } else if (name == "count") {
    if (text == "none") {
      out->set_count(pb::COUNT_MODE_NONE);
    } else if (text == "exact") {
      out->set_count(pb::COUNT_MODE_EXACT);
    } else if (text == "estimated") {
      out->set_count(pb::COUNT_MODE_ESTIMATED);
    } else {
      return Invalid(place, "none, exact or estimated is expected");
    }
  } else if (name == "deleted") {
    if (text == "include") {
      out->set_deleted(pb::DELETED_MODE_INCLUDE);
    } else if (text == "only") {
      out->set_deleted(pb::DELETED_MODE_ONLY);
    } else {
      return Invalid(place, "include or only is expected");
    }
  } else if (name == "view") {
    if (!IsName(text, false)) return Invalid(place, "the name of a view is expected");
    out->set_view(text);
  } else {
    return false;
  }
  return true;
}

// ---- from the URL ----

// "filter[a.b][gte]" → {"filter","a.b","gte"}; nullopt when the brackets do not match.
std::optional<std::vector<std::string_view>> SplitName(std::string_view name) {
  std::vector<std::string_view> keys;
  const size_t open = std::min(name.find('['), name.size());
  keys.push_back(name.substr(0, open));
  name.remove_prefix(open);
  while (!name.empty()) {
    const size_t close = name.find(']');
    if (name[0] != '[' || close == std::string_view::npos || keys.size() > kMaxKeys) return std::nullopt;
    const std::string_view key = name.substr(1, close - 1);
    if (key.empty() || key.find('[') != std::string_view::npos) return std::nullopt;
    keys.push_back(key);
    name.remove_prefix(close + 1);
  }
  if (keys[0].find(']') != std::string_view::npos) return std::nullopt;
  return keys;
}

// Adds one bracket parameter to a tree, from keys[from] on.
absl::Status Graft(const std::vector<std::string_view>& keys, size_t from, const std::string& name, std::string value,
                   Node& root) {
  Node* node = &root;
  for (size_t i = from; i < keys.size(); ++i) {
    if (node->is_leaf)
      return Refuse("filter-invalid", {{}, name}, "filter_invalid", "a value and parts of it exclude each other");
    Node* next = node->Find(keys[i]);
    if (next == nullptr) {
      node->parts.emplace_back(std::string(keys[i]), std::make_unique<Node>());
      next = node->parts.back().second.get();
      next->place = {FieldError::Place::kParameter, name};
      // A group's place is its own name, not that of its first condition.
      if (i + 1 < keys.size())
        next->place.name = name.substr(0, size_t(keys[i].data() + keys[i].size() + 1 - keys[0].data()));
    }
    node = next;
  }
  if (node->is_leaf) return Invalid({{}, name}, "the parameter stands twice");
  if (!node->parts.empty())
    return Refuse("filter-invalid", {{}, name}, "filter_invalid", "a value and parts of it exclude each other");
  node->is_leaf = true;
  node->values.push_back(std::move(value));
  return absl::OkStatus();
}

}  // namespace

std::optional<std::string> DecodeParameter(std::string_view sent) {
  std::optional<std::string> text = PercentDecode(sent, /*plus_is_space=*/true);
  if (text.has_value() && (!IsValidUtf8(*text) || text->find('\0') != std::string::npos)) text.reset();
  return text;
}

std::vector<std::string> SplitValues(std::string_view text) {
  std::vector<std::string> values(1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size() && (text[i + 1] == ',' || text[i + 1] == '\\')) {
      values.back() += text[++i];
    } else if (text[i] == ',') {
      values.emplace_back();
    } else {
      values.back() += text[i];
    }
  }
  return values;
}

QueryForm FormOf(std::string_view query) {
  QueryForm form;
  form.text.reserve(query.size());
  for (const absl::string_view part : absl::StrSplit(ToAbsl(query), '&')) {
    const std::string_view pair = ToStd(part);
    const size_t equals = std::min(pair.find('='), pair.size());
    const std::string_view name = pair.substr(0, equals), value = pair.substr(std::min(equals + 1, pair.size()));
    // true and false decide on the statement itself (is_null).
    const bool varies = (name == "cursor" || absl::StrContains(ToAbsl(name), "filter")) && !value.empty() &&
                        value != "true" && value != "false";
    StrAppend(&form.text, varies ? name : pair, varies ? "=?&" : "&");
    if (varies) form.values.emplace_back(name, value);
  }
  return form;
}

absl::StatusOr<Parameters> ParseQueryString(std::string_view query) {
  Parameters parameters;
  if (query.empty()) return parameters;
  while (true) {
    const size_t end = std::min(query.find('&'), query.size());
    const std::string_view pair = query.substr(0, end);
    if (parameters.size() >= kMaxParameters) return MakeProblem("invalid-parameter", "there are too many parameters");
    const size_t equals = pair.find('=');
    auto name = DecodeParameter(pair.substr(0, equals));
    auto value = DecodeParameter(equals == std::string_view::npos ? std::string_view() : pair.substr(equals + 1));
    if (!name.has_value() || name->empty())
      return MakeProblem("invalid-parameter", "a parameter's name is missing or not percent-encoded UTF-8");
    if (!value.has_value())
      return Invalid({FieldError::Place::kParameter, *name}, "the value is not percent-encoded UTF-8");
    parameters.emplace_back(*std::move(name), *std::move(value));
    if (end == query.size()) return parameters;
    query.remove_prefix(end + 1);
  }
}

absl::Status ParseListQuery(const Parameters& parameters, const std::vector<std::string_view>& others,
                            std::map<std::string, std::string>* taken, pb::ListQuery* out,
                            const ListQueryLimits& limits) {
  Node filter{.place = {FieldError::Place::kParameter, "filter"}};
  std::map<std::string, Node> expand_filters;
  std::set<std::string_view> seen;
  // Expansions first: options may stand before the list that names their relation.
  for (const auto& [name, value] : parameters) {
    if (name == "expand") RETURN_IF_ERROR(Expands({FieldError::Place::kParameter, name}, Split(value), limits, out));
  }
  for (const auto& [name, value] : parameters) {
    const Place place{FieldError::Place::kParameter, name};
    if (!seen.insert(name).second) return Invalid(place, "the parameter stands twice");
    const auto keys = SplitName(name);
    if (!keys) return Invalid(place, "the brackets do not match");
    const std::string_view head = (*keys)[0];
    if (head == "filter") {
      if (keys->size() == 1)
        return Refuse("filter-invalid", place, "filter_invalid", "conditions are written filter[field]=value");
      RETURN_IF_ERROR(Graft(*keys, 1, name, value, filter));
      continue;
    }
    if (head == "expand" && keys->size() >= 3) {
      ASSIGN_OR_RETURN(pb::Expand * expand, FindExpand(place, (*keys)[1], limits, out));
      const std::string_view option = (*keys)[2];
      if (option == "filter" && keys->size() > 3) {
        Node& node = expand_filters[std::string((*keys)[1])];
        node.place = place;
        RETURN_IF_ERROR(Graft(*keys, 3, name, value, node));
        continue;
      }
      if (keys->size() == 3) {
        if (option == "sort") {
          RETURN_IF_ERROR(Sort(place, Split(value), limits, expand->mutable_query()));
          continue;
        }
        if (option == "fields") {
          RETURN_IF_ERROR(Fields(place, Split(value), expand->mutable_query()));
          continue;
        }
        ASSIGN_OR_RETURN(const bool known,
                         Scalar(option, place, value, limits, /*nested=*/true, expand->mutable_query()));
        if (known) continue;
      }
    } else if (keys->size() == 1) {
      if (head == "expand") continue;
      if (head == "sort") {
        RETURN_IF_ERROR(Sort(place, Split(value), limits, out));
        continue;
      }
      if (head == "fields") {
        RETURN_IF_ERROR(Fields(place, Split(value), out));
        continue;
      }
      ASSIGN_OR_RETURN(const bool known, Scalar(head, place, value, limits, /*nested=*/false, out));
      if (known) continue;
    }
    if (Contains(others, name)) {
      if (taken != nullptr) (*taken)[name] = value;
      continue;
    }
    return Refuse("invalid-parameter", place, "unknown_parameter", "there is no such parameter");
  }
  if (!out->cursor().empty() && seen.count("offset") != 0)
    return Invalid({FieldError::Place::kParameter, "offset"}, "cursor and offset exclude each other");
  FilterBuilder builder(limits);
  if (!filter.parts.empty()) RETURN_IF_ERROR(builder.Build(filter, 0, out->mutable_filter()));
  for (auto& [path, node] : expand_filters) {
    ASSIGN_OR_RETURN(pb::Expand * expand, FindExpand(node.place, path, limits, out));
    RETURN_IF_ERROR(builder.Build(node, 0, expand->mutable_query()->mutable_filter()));
  }
  return absl::OkStatus();
}

absl::StatusOr<pb::ListQuery> ParseListQuery(std::string_view query, const ListQueryLimits& limits) {
  ASSIGN_OR_RETURN(const Parameters parameters, ParseQueryString(query));
  pb::ListQuery out;
  RETURN_IF_ERROR(ParseListQuery(parameters, {}, nullptr, &out, limits));
  return out;
}

// ---- from JSON ----

namespace {

std::string Below(std::string_view pointer, std::string_view key) {
  std::string out = StrCat(pointer, "/");
  for (const char c : key) {
    if (c == '~') {
      out += "~0";
    } else if (c == '/') {
      out += "~1";
    } else {
      out += c;
    }
  }
  return out;
}

void FromJson(const JsonValue& value, const std::string& pointer, Node& node) {
  node.place = {FieldError::Place::kPointer, pointer};
  switch (value.kind()) {
    case JsonValue::Kind::kObject:
      for (const JsonValue::Member& member : value.members()) {
        node.parts.emplace_back(std::string(member.key), std::make_unique<Node>());
        FromJson(member.value, Below(pointer, member.key), *node.parts.back().second);
      }
      return;
    case JsonValue::Kind::kArray:
      node.is_list = true;
      for (size_t i = 0; i < value.items().size(); ++i) {
        node.parts.emplace_back(StrCat(i), std::make_unique<Node>());
        FromJson(value.items()[i], StrCat(pointer, "/", i), *node.parts.back().second);
      }
      return;
    case JsonValue::Kind::kNull:
      node.is_leaf = node.is_null = true;
      node.values.emplace_back();
      return;
    case JsonValue::Kind::kBool:
      node.is_leaf = true;
      node.values.emplace_back(value.boolean() ? "true" : "false");
      return;
    default:
      node.is_leaf = true;
      node.values.emplace_back(value.text());
  }
}

// "a,b" or ["a","b"].
absl::StatusOr<std::vector<std::string_view>> Words(const JsonValue& value, const Place& place) {
  if (value.is_string()) return Split(value.text());
  if (!value.is_array()) return Invalid(place, "a list of strings is expected");
  std::vector<std::string_view> words;
  for (const JsonValue& item : value.items()) {
    if (!item.is_string()) return Invalid(place, "a list of strings is expected");
    words.push_back(item.text());
  }
  return words;
}

absl::Status QueryFromJson(const JsonValue& root, const std::string& pointer, const ListQueryLimits& limits,
                           bool nested, FilterBuilder& builder, pb::ListQuery* out) {
  if (!root.is_object()) return Invalid({FieldError::Place::kPointer, pointer}, "an object is expected");
  for (const JsonValue::Member& member : root.members()) {
    const Place place{FieldError::Place::kPointer, Below(pointer, member.key)};
    const JsonValue& value = member.value;
    if (member.key == "filter") {
      if (value.is_object() && value.members().empty()) continue;
      Node node;
      FromJson(value, place.name, node);
      RETURN_IF_ERROR(builder.Build(node, 0, out->mutable_filter()));
    } else if (member.key == "sort") {
      ASSIGN_OR_RETURN(const auto words, Words(value, place));
      RETURN_IF_ERROR(Sort(place, words, limits, out));
    } else if (member.key == "fields") {
      ASSIGN_OR_RETURN(const auto words, Words(value, place));
      RETURN_IF_ERROR(Fields(place, words, out));
    } else if (member.key == "expand" && !nested) {
      if (value.is_object()) {
        for (const JsonValue::Member& relation : value.members()) {
          const std::string below = Below(place.name, relation.key);
          ASSIGN_OR_RETURN(pb::Expand * expand,
                           FindExpand({FieldError::Place::kPointer, below}, relation.key, limits, out));
          RETURN_IF_ERROR(QueryFromJson(relation.value, below, limits, true, builder, expand->mutable_query()));
        }
      } else {
        ASSIGN_OR_RETURN(const auto words, Words(value, place));
        RETURN_IF_ERROR(Expands(place, words, limits, out));
      }
    } else {
      if (!value.is_string() && !value.is_number()) return Invalid(place, "a string or a number is expected");
      ASSIGN_OR_RETURN(const bool known, Scalar(member.key, place, std::string(value.text()), limits, nested, out));
      if (!known) return Refuse("invalid-parameter", place, "unknown_parameter", "there is no such member");
    }
  }
  if (!out->cursor().empty() && root.Find("offset") != nullptr)
    return Invalid({FieldError::Place::kPointer, Below(pointer, "offset")}, "cursor and offset exclude each other");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<pb::ListQuery> ParseListQueryJson(const JsonValue& root, const ListQueryLimits& limits) {
  pb::ListQuery out;
  FilterBuilder builder(limits);
  RETURN_IF_ERROR(QueryFromJson(root, "", limits, /*nested=*/false, builder, &out));
  return out;
}

absl::StatusOr<pb::Filter> ParseFilterJson(const JsonValue& value, std::string_view pointer,
                                           const ListQueryLimits& limits) {
  Node node;
  FromJson(value, std::string(pointer), node);
  pb::Filter filter;
  FilterBuilder builder(limits);
  RETURN_IF_ERROR(builder.Build(node, 0, &filter));
  return filter;
}

}  // namespace mainstay::http
