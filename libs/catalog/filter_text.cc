// SPDX-License-Identifier: Apache-2.0
#include "libs/catalog/filter_text.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/catalog/build.h"

namespace mainstay::catalog {
namespace {

const std::vector<std::string>& Operators() {
  static const std::vector<std::string> operators = {
      "eq",   "ne",    "gt",          "gte",      "lt",        "lte", "in",      "nin",     "is_null",  "distinct_from",
      "like", "ilike", "starts_with", "contains", "icontains", "has", "has_any", "has_all", "overlaps", "search"};
  return operators;
}
bool IsQuantifier(const std::string& word) {
  return word == "some" || word == "none" || word == "every";
}

std::vector<std::string> VisibleNames(const Resource& resource, bool hidden) {
  std::vector<std::string> names;
  for (const Field& field : resource.fields)
    if (hidden || !field.hidden) names.push_back(field.name);
  for (const auto& [name, relation] : resource.relations) names.push_back(name);
  return names;
}

std::string Unknown(const Resource& resource, const std::string& name, bool hidden) {
  std::string near = Nearest(name, VisibleNames(resource, hidden));
  return StrCat("the resource ", resource.name, " has no field \"", name, "\"",
                near.empty() ? "" : StrCat("; did you mean \"", near, "\"?"));
}

std::string ConditionProblem(const Model& model, const Resource* resource, const std::vector<std::string>& path,
                             const std::string& value, const FilterTextOptions& options) {
  const Resource& top = *resource;
  if (path.size() > 12) return "the filter is nested too deep";
  for (size_t i = 0; i < path.size();) {
    const std::string& word = path[i];
    if (word == "and" || word == "or") {
      if (i + 1 >= path.size() || path[i + 1].empty() || path[i + 1].size() > 3 ||
          !std::all_of(path[i + 1].begin(), path[i + 1].end(), [](char c) { return c >= '0' && c <= '9'; }))
        return StrCat("after [", word, "] comes the number of the alternative: filter[", word, "][0][…]");
      i += 2;
      continue;
    }
    if (word == "not") {
      ++i;
      continue;
    }
    // field, relation.field, or a relation that a quantifier follows
    const Field* field = nullptr;
    bool json_path = false, quantified = false;
    const std::vector<std::string> steps = absl::StrSplit(word, '.');
    for (size_t s = 0; s < steps.size() && !json_path; ++s) {
      auto relation = resource->relations.find(steps[s]);
      if (relation != resource->relations.end()) {
        const Resource* target = model.FindResource(relation->second.target);
        if (target == nullptr) return StrCat("the relation \"", steps[s], "\" leads nowhere");
        bool last = s + 1 == steps.size();
        bool many = relation->second.kind != Relation::Kind::kToOne;
        if (many && !last) return StrCat("\"", steps[s], "\" is a list: say [some], [none] or [every] after it");
        if (last) {
          if (i + 1 >= path.size() || !IsQuantifier(path[i + 1]))
            return StrCat("\"", steps[s], "\" is a relation: filter one of its fields (", steps[s],
                          many ? "][some][…]" : ".field", ")");
          quantified = true;
        }
        resource = target;
        continue;
      }
      field = resource->FindField(steps[s]);
      if (field == nullptr || (field->hidden && !options.hidden)) return Unknown(*resource, steps[s], options.hidden);
      if (s + 1 < steps.size()) {
        if (field->type.family != TypeFamily::kJson)
          return StrCat("\"", steps[s], "\" is neither a relation nor JSON, nothing can follow it");
        json_path = true;
      }
    }
    if (quantified) {
      i += 2;
      continue;
    }
    std::string op = "eq";
    if (i + 1 < path.size()) op = path[i + 1];
    if (i + 2 < path.size() || std::find(Operators().begin(), Operators().end(), op) == Operators().end()) {
      std::string near = Nearest(op, Operators());
      return StrCat("\"", op, "\" is no operator",
                    near.empty() ? StrCat("; operators are ", absl::StrJoin(Operators(), ", "))
                                 : StrCat("; did you mean \"", near, "\"?"));
    }
    if (op == "is_null") return value == "true" || value == "false" ? "" : "[is_null] takes true or false";
    const std::vector<std::string> values = op == "in" || op == "nin"
                                                ? std::vector<std::string>(absl::StrSplit(value, ','))
                                                : std::vector<std::string>{value};
    for (const std::string& v : values) {
      if (!v.empty() && v.front() == '{' && v.back() == '}') {
        if (options.fields) {
          const std::string other = v.substr(1, v.size() - 2);
          const Field* named = top.FindField(other);
          if (named == nullptr) return Unknown(top, other, options.hidden);
          if (resource != &top) return StrCat("\"", v, "\" can't stand behind a relation");
          const bool same = named->type.family == field->type.family && named->type.array == field->type.array;
          const bool by_name = field->type.family == TypeFamily::kEnum || field->type.family == TypeFamily::kRange ||
                               field->type.family == TypeFamily::kOther;
          if (json_path || !same || (by_name && named->type.name != field->type.name))
            return StrCat("\"", other, "\" is ", named->type.name, " and can't be compared with \"", field->name, "\"");
          if (values.size() > 1) return StrCat("\"", v, "\" can't stand in a list");
          continue;
        }
        if (!options.placeholders)
          return StrCat("\"", v, "\" is a placeholder, which only row predicates (`where`) know");
        if (v != "{tenant}" && v != "{subject}") return StrCat("\"", v, "\" is not {tenant} or {subject}");
        continue;
      }
      if (!json_path && field->type.family == TypeFamily::kEnum && !field->type.array &&
          (op == "eq" || op == "ne" || op == "in" || op == "nin")) {
        const auto& labels = field->type.enum_values;
        if (std::find(labels.begin(), labels.end(), v) == labels.end())
          return StrCat("\"", v, "\" is no value of ", field->name, ", which has ", absl::StrJoin(labels, ", "));
      }
    }
    return "";
  }
  return "the filter names no field";
}

}  // namespace

std::string FilterTextProblem(const Model& model, const Resource& resource, std::string_view text,
                              const FilterTextOptions& options) {
  if (text.empty()) return "";
  for (absl::string_view piece : absl::StrSplit(ToAbsl(text), '&')) {
    std::string_view part = ToStd(piece);
    size_t equals = part.find('=');
    if (equals == std::string_view::npos) return StrCat("\"", part, "\" is not NAME=VALUE");
    std::optional<std::string> name = PercentDecode(part.substr(0, equals), true),
                               value = PercentDecode(part.substr(equals + 1), true);
    if (!name || !value) return StrCat("\"", part, "\" has a bad percent escape");
    if (options.sort && *name == "sort") {
      const std::vector<std::string> keys = absl::StrSplit(*value, ',');
      for (std::string key : keys) {
        if (!key.empty() && key[0] == '-') key.erase(0, 1);
        key = key.substr(0, key.find(':'));
        const Field* field = resource.FindField(key);
        if (field == nullptr || field->hidden) return Unknown(resource, key, false);
        if (!field->sortable) return StrCat("the field \"", key, "\" is not sortable");
      }
      continue;
    }
    if (name->rfind("filter[", 0) != 0 || name->back() != ']')
      return StrCat("\"", *name, "\" is not filter[FIELD]", options.sort ? " or sort" : "",
                    "; write for example filter[status]=open");
    const std::vector<std::string> path = absl::StrSplit(name->substr(7, name->size() - 8), "][");
    std::string problem = ConditionProblem(model, &resource, path, *value, options);
    if (!problem.empty()) return problem;
  }
  return "";
}

}  // namespace mainstay::catalog
