// SPDX-License-Identifier: Apache-2.0
#include "libs/records/query.h"

#include <algorithm>

#include "absl/strings/str_split.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/records/list.h"
#include "libs/records/value.h"

namespace mainstay::records {
namespace {

using catalog::ColumnType;
using catalog::Field;
using catalog::Model;
using catalog::Relation;
using catalog::Resource;
using catalog::TypeFamily;

FieldError At(std::string_view place, std::string_view code, std::string_view detail) {
  return {.place = place.starts_with('/') ? FieldError::Place::kPointer : FieldError::Place::kParameter,
          .name = std::string(place),
          .code = std::string(code),
          .detail = std::string(detail)};
}
absl::Status Unknown(std::string_view place) {
  return MakeProblem("unknown-field", "a field or relation of the query does not exist",
                     {At(place, "unknown_field", "no such field")});
}
absl::Status Invalid(std::string_view place, std::string_view code, std::string_view detail) {
  return MakeProblem("filter-invalid", detail, {At(place, code, detail)});
}
absl::Status BadParameter(std::string_view place, std::string_view detail) {
  return MakeProblem("invalid-parameter", detail, {At(place, "invalid", detail)});
}

struct OpName {
  std::string_view name;
  Op op;
};
constexpr OpName kOps[] = {
    {"eq", Op::kEq},
    {"ne", Op::kNe},
    {"gt", Op::kGt},
    {"gte", Op::kGte},
    {"lt", Op::kLt},
    {"lte", Op::kLte},
    {"in", Op::kIn},
    {"nin", Op::kNin},
    {"is_null", Op::kIsNull},
    {"distinct_from", Op::kDistinctFrom},
    {"like", Op::kLike},
    {"ilike", Op::kIlike},
    {"starts_with", Op::kLike},
    {"contains", Op::kLike},
    {"icontains", Op::kIlike},
    {"has", Op::kHas},
    {"has_any", Op::kHasAny},
    {"has_all", Op::kHasAll},
    {"overlaps", Op::kOverlaps},
    {"search", Op::kSearch},
};

bool IsComparable(TypeFamily family) {
  return family != TypeFamily::kJson && family != TypeFamily::kOther;
}
bool IsOrdered(TypeFamily family) {
  return IsComparable(family) && family != TypeFamily::kBool && family != TypeFamily::kBytes &&
         family != TypeFamily::kRange;
}

bool Allowed(const ColumnType& type, Op op) {
  if (op == Op::kIsNull) return true;
  if (type.array) {
    return IsComparable(type.family) && (op == Op::kEq || op == Op::kNe || op == Op::kDistinctFrom || op == Op::kHas ||
                                         op == Op::kHasAny || op == Op::kHasAll || op == Op::kOverlaps);
  }
  switch (op) {
    case Op::kEq:
    case Op::kNe:
    case Op::kIn:
    case Op::kNin:
    case Op::kDistinctFrom:
      return IsComparable(type.family);
    case Op::kGt:
    case Op::kGte:
    case Op::kLt:
    case Op::kLte:
      return IsOrdered(type.family);
    case Op::kLike:
    case Op::kIlike:
      return type.family == TypeFamily::kText;
    case Op::kOverlaps:
      return type.family == TypeFamily::kRange;
    default:
      return false;
  }
}

constexpr size_t kMaxSearchText = 1024;

ColumnType PlainTextType() {
  ColumnType type;
  type.family = TypeFamily::kText;
  type.name = "text";
  return type;
}

// Of LIKE: what the client means literally.
std::string EscapeLike(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '%' || c == '_' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

// More than three % make a pattern's cost explode on long texts.
std::string_view PatternProblem(std::string_view pattern) {
  if (pattern.size() > 256) return "a pattern has at most 256 characters";
  int wild = 0;
  for (size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '\\') {
      if (++i == pattern.size()) return "the pattern ends with an escape";
    } else if (pattern[i] == '%') {
      ++wild;
    }
  }
  return wild > 3 ? "at most three % in a pattern" : std::string_view();
}

// One value as it is compared with.
ValueError ConvertOperand(const Argument& argument, std::string_view value, std::string& out) {
  if (ValueError error = ConvertText(argument.type, value, out); !error.ok()) return error;
  const std::string_view op = argument.op;
  if (op == "search" && out.size() > kMaxSearchText) return {"too_long", StrCat("at most ", kMaxSearchText, " bytes")};
  if (op == "starts_with") out = EscapeLike(out) + "%";
  if (op == "contains" || op == "icontains") out = "%" + EscapeLike(out) + "%";
  if (op == "like" || op == "ilike" || op == "starts_with" || op == "contains" || op == "icontains")
    if (const std::string_view problem = PatternProblem(out); !problem.empty())
      return {"pattern", std::string(problem)};
  return {};
}

class FilterResolver {
 public:
  FilterResolver(const Model& model, const std::function<AccessPtr(const Resource&)>& access_of, int* leaves,
                 FilterForm* form)
      : model_(model), access_of_(access_of), leaves_(leaves), form_(form) {}

  absl::StatusOr<Predicate> Resolve(const Resource& resource, const Access* access, const common::v1::Filter& filter,
                                    int depth) {
    if (depth > 12) return MakeProblem("filter-invalid", "the filter is nested too deep");
    Predicate out;
    switch (filter.kind_case()) {
      case common::v1::Filter::kCondition:
        return Condition(resource, access, filter.condition());
      case common::v1::Filter::kAnd:
      case common::v1::Filter::kOr: {
        const bool all = filter.kind_case() == common::v1::Filter::kAnd;
        out.kind = all ? Predicate::Kind::kAnd : Predicate::Kind::kOr;
        Shape(all ? "and(" : "or(");
        for (const auto& child : (all ? filter.and_() : filter.or_()).filters()) {
          ASSIGN_OR_RETURN(Predicate resolved, Resolve(resource, access, child, depth + 1));
          out.children.push_back(std::move(resolved));
        }
        Shape(")");
        return out;
      }
      case common::v1::Filter::kNot: {
        out.kind = Predicate::Kind::kNot;
        Shape("not(");
        ASSIGN_OR_RETURN(Predicate resolved, Resolve(resource, access, filter.not_(), depth + 1));
        out.children.push_back(std::move(resolved));
        Shape(")");
        return out;
      }
      case common::v1::Filter::kRelated: {
        const auto& related = filter.related();
        ASSIGN_OR_RETURN(out, Related(resource, access, related.relation(), related.place()));
        if (out.relation->kind == Relation::Kind::kToOne)
          return Invalid(related.place(), "operator_not_allowed", "some, none and every are for lists");
        out.quantifier = related.quantifier() == "none"    ? Quantifier::kNone
                         : related.quantifier() == "every" ? Quantifier::kEvery
                                                           : Quantifier::kSome;
        if (out.quantifier == Quantifier::kSome && related.quantifier() != "some")
          return Invalid(related.place(), "operator_unknown", "some, none or every expected");
        Shape(StrCat(related.quantifier(), ":", related.relation(), "("));
        if (related.has_filter()) {
          ASSIGN_OR_RETURN(Predicate resolved,
                           Resolve(*out.target, out.target_access.get(), related.filter(), depth + 1));
          out.children.push_back(std::move(resolved));
        }
        Shape(")");
        return out;
      }
      case common::v1::Filter::KIND_NOT_SET:
        break;
    }
    return out;  // an empty AND
  }

 private:
  void Shape(std::string_view text) {
    if (form_ != nullptr) form_->shape.append(text);
  }

  // A relation the caller may follow: the target must be readable, and so must our columns; else it does not exist for
  // them.
  absl::StatusOr<Predicate> Related(const Resource& resource, const Access* access, std::string_view name,
                                    std::string_view place) {
    const auto it = resource.relations.find(std::string(name));
    if (it == resource.relations.end()) return Unknown(place);
    Predicate out;
    out.kind = Predicate::Kind::kRelated;
    out.relation = &it->second;
    out.target = model_.FindResource(it->second.target);
    if (out.target == nullptr) return Unknown(place);
    if (access != nullptr) {
      out.target_access = access_of_(*out.target);
      if (!out.target_access->can(Action::kRead)) return Unknown(place);
    }
    return out;
  }

  absl::StatusOr<Predicate> Condition(const Resource& resource, const Access* access,
                                      const common::v1::Filter::Condition& condition) {
    if (--*leaves_ < 0) return Invalid(condition.place(), "too_many", "too many conditions");
    std::string_view path = condition.field();
    const size_t dot = path.find('.');
    const std::string_view head = path.substr(0, dot);
    if (dot != std::string_view::npos && resource.FindField(head) == nullptr) {
      ASSIGN_OR_RETURN(Predicate out, Related(resource, access, head, condition.place()));
      if (out.relation->kind != Relation::Kind::kToOne)
        return Invalid(condition.place(), "quantifier_required", "a list needs some, none or every");
      Shape(StrCat(head, "."));
      common::v1::Filter::Condition rest = condition;
      rest.set_field(std::string(path.substr(dot + 1)));
      ASSIGN_OR_RETURN(Predicate inner, Condition(*out.target, out.target_access.get(), rest));
      out.children.push_back(std::move(inner));
      return out;
    }
    const Field* field = resource.FindField(head);
    if (field == nullptr || (access != nullptr && !access->readable[field->position]))
      return Unknown(condition.place());
    Predicate out;
    out.kind = Predicate::Kind::kCondition;
    out.field = field->position;
    ColumnType type = field->type;
    if (dot != std::string_view::npos) {
      if (type.family != TypeFamily::kJson || type.array) return Unknown(condition.place());
      for (absl::string_view step : absl::StrSplit(ToAbsl(path.substr(dot + 1)), '.'))
        out.json_path.emplace_back(ToStd(step));
      type = PlainTextType();
    }
    const OpName* op =
        std::find_if(std::begin(kOps), std::end(kOps), [&](const OpName& o) { return o.name == condition.op(); });
    if (op == std::end(kOps)) return Invalid(condition.place(), "operator_unknown", "no such operator");
    out.op = op->op;
    const bool searched = out.op == Op::kSearch && out.json_path.empty() && !field->search.empty();
    if (access != nullptr && !field->filterable && !searched)
      return Invalid(condition.place(), "not_filterable", "this field can't be filtered by");
    if (out.op == Op::kSearch ? !searched : !Allowed(type, out.op))
      return Invalid(condition.place(), "operator_not_allowed", "this operator is not for fields of this type");
    Shape(StrCat(path, " ", condition.op(), "="));
    std::vector<std::string> values(condition.values().begin(), condition.values().end());
    if (out.op == Op::kOverlaps && !type.array && values.size() == 2)
      values = {StrCat(values[0], ",", values[1])};  // a range has a comma of its own
    const bool many = out.op == Op::kIn || out.op == Op::kNin || out.op == Op::kHasAny || out.op == Op::kHasAll ||
                      (out.op == Op::kOverlaps && type.array);
    if (!many && values.size() != 1) return Invalid(condition.place(), "invalid_type", "one value expected");
    if (out.op == Op::kIsNull) {
      if (values[0] != "true" && values[0] != "false")
        return Invalid(condition.place(), "invalid_type", "true or false expected");
      out.op = values[0] == "true" ? Op::kIsNull : Op::kIsNotNull;
      Shape(values[0]);
      return out;
    }
    const bool elements = type.array && out.op != Op::kEq && out.op != Op::kNe && out.op != Op::kDistinctFrom;
    ColumnType wanted = elements ? ElementType(type) : type;
    if (wanted.family == TypeFamily::kDecimal)
      wanted.precision = wanted.scale = 0;                // comparing with more digits is fine
    if (out.op == Op::kSearch) wanted = PlainTextType();  // words, whatever the column is
    Argument argument{.place = condition.place(), .op = condition.op(), .type = std::move(wanted), .many = many};
    if (form_ != nullptr) {
      if (out.op == Op::kOverlaps && !type.array) argument.place.clear();
      std::string& sent = form_->given.sent.emplace_back();
      if (ValueError error = GiveValues(argument, values, sent, form_->given.bound.emplace_back(), &out.operands);
          !error.ok())
        return Invalid(condition.place(), error.code, error.detail);
      out.argument = static_cast<int>(form_->arguments.size());
      form_->arguments.push_back(std::move(argument));
      return out;
    }
    for (const std::string& value : values) {
      Operand operand;
      if (value == "{tenant}" || value == "{subject}") {
        operand.kind = value == "{tenant}" ? Operand::Kind::kTenant : Operand::Kind::kSubject;
        out.operands.push_back(std::move(operand));
        continue;
      }
      if (value.size() > 2 && value.front() == '{' && value.back() == '}') {
        const Field* other = resource.FindField(std::string_view(value).substr(1, value.size() - 2));
        if (other == nullptr) return Unknown(condition.place());
        operand.kind = Operand::Kind::kField;
        operand.field = other->position;
        out.operands.push_back(std::move(operand));
        continue;
      }
      if (ValueError error = ConvertOperand(argument, value, operand.text); !error.ok())
        return Invalid(condition.place(), error.code, error.detail);
      out.operands.push_back(std::move(operand));
    }
    return out;
  }

  const Model& model_;
  const std::function<AccessPtr(const Resource&)>& access_of_;
  int* leaves_;
  FilterForm* form_;
};

}  // namespace

ValueError GiveValues(const Argument& argument, const std::vector<std::string>& values, std::string& sent,
                      std::string& bound, std::vector<Operand>* operands) {
  sent.clear();
  std::string one;
  PgArray all;
  for (const std::string& value : values) {
    StrAppend(&sent, value.size(), ":", value);
    one.clear();
    if (ValueError error = ConvertOperand(argument, value, one); !error.ok()) return error;
    if (argument.many) all.Add(one);
    if (operands != nullptr) operands->push_back({.text = one});
  }
  bound = argument.many ? std::move(all).Finish() : std::move(one);
  return {};
}

absl::StatusOr<Predicate> ResolveFilter(const Model& model, const Resource& resource, const Access* access,
                                        const std::function<AccessPtr(const Resource&)>& access_of,
                                        const common::v1::Filter& filter, int* leaves_left, FilterForm* form) {
  return FilterResolver(model, access_of, leaves_left, form).Resolve(resource, access, filter, 0);
}

AccessPtr Resolver::AccessOf(const Resource& resource) {
  if (source_ != nullptr) return source_(resource);
  AccessPtr& access = access_[&resource];
  if (access == nullptr) access = MakeAccess(model_, resource, context_.principal.roles);
  return access;
}

absl::StatusOr<std::unique_ptr<ListQuery>> Resolver::Resolve(const Resource& resource,
                                                             const common::v1::ListQuery& query) {
  relations_ = 0;
  arguments_.clear();
  given_ = Given{.cursor = query.cursor()};
  ASSIGN_OR_RETURN(std::unique_ptr<ListQuery> out, ResolveLevel(resource, query, 0, false));
  out->arguments = std::move(arguments_);
  out->given = std::move(given_);
  return out;
}

absl::Status Resolver::Fields(ListQuery& out, const common::v1::ListQuery& query, int depth,
                              std::map<std::string, std::vector<std::string>>& nested_fields) {
  const Resource& resource = *out.resource;
  const Access& access = *out.access;
  const auto all = [&] {
    for (const Field& field : resource.fields)
      if (access.readable[field.position] &&
          std::find(out.output.begin(), out.output.end(), field.position) == out.output.end())
        out.output.push_back(field.position);
  };
  std::vector<std::string> names(query.fields().begin(), query.fields().end());
  if (!query.view().empty()) {
    if (!names.empty()) return BadParameter("view", "view and fields exclude each other");
    const auto it = resource.views.find(query.view());
    if (it == resource.views.end()) return BadParameter("view", "there is no such view");
    for (const std::string& name : it->second) {
      const Field* field = resource.FindField(name);
      if (field != nullptr && access.readable[field->position]) out.output.push_back(field->position);
    }
    return absl::OkStatus();
  }
  if (names.empty()) all();
  for (const std::string& name : names) {
    if (name == "*") {
      all();
      continue;
    }
    const size_t dot = name.find('.');
    if (dot != std::string::npos) {
      if (depth >= 3)
        return MakeProblem("expand-too-deep", "at most three levels of relations", {At("fields", "too_deep", name)});
      nested_fields[name.substr(0, dot)].push_back(name.substr(dot + 1));
      continue;
    }
    const Field* field = resource.FindField(name);
    if (field == nullptr || !access.readable[field->position]) return Unknown("fields");
    if (std::find(out.output.begin(), out.output.end(), field->position) == out.output.end())
      out.output.push_back(field->position);
  }
  return absl::OkStatus();
}

bool Resolver::CanFollow(const Resource& resource, const std::string& relation) {
  const auto it = resource.relations.find(relation);
  const Resource* target = it == resource.relations.end() ? nullptr : model_.FindResource(it->second.target);
  return target != nullptr && AccessOf(*target)->can(Action::kRead);
}

absl::StatusOr<std::unique_ptr<ListQuery>> Resolver::ResolveLevel(const Resource& resource,
                                                                  const common::v1::ListQuery& query, int depth,
                                                                  bool nested) {
  auto out = std::make_unique<ListQuery>();
  out->resource = &resource;
  out->access = AccessOf(resource);
  const Access& access = *out->access;
  if (!access.can(Action::kRead)) return MakeProblem("forbidden", "reading this resource is not allowed");

  // Limit, offset, count, deleted.
  const int most = nested ? options_.nested_max_limit : resource.max_limit;
  out->limit = query.limit() != 0 ? query.limit() : nested ? options_.nested_default_limit : resource.default_limit;
  if (options_.unlimited && !nested) {
    out->limit = query.limit();
  } else if (out->limit < 1 || out->limit > most) {
    return BadParameter("limit", StrCat("limit must be between 1 and ", most));
  }
  out->offset = query.offset();
  out->cursor = query.cursor();
  if (out->offset != 0) {
    if (!resource.offset_allowed || nested)
      return BadParameter("offset", "offset is not available here; follow next_cursor");
    if (!out->cursor.empty()) return BadParameter("offset", "cursor and offset exclude each other");
    if (out->offset < 0) return BadParameter("offset", "offset must not be negative");
    if (out->offset > 10000)
      return MakeProblem("offset-too-deep", "offset is at most 10000", {At("offset", "out_of_range", "at most 10000")});
  }
  switch (query.count()) {
    case common::v1::COUNT_MODE_EXACT:
      out->count = Count::kExact;
      break;
    case common::v1::COUNT_MODE_ESTIMATED:
      out->count = Count::kEstimated;
      break;
    default:
      break;
  }
  if (query.deleted() == common::v1::DELETED_MODE_INCLUDE || query.deleted() == common::v1::DELETED_MODE_ONLY) {
    if (resource.deleted_at < 0) return BadParameter("deleted", "nothing is ever kept as deleted here");
    if (!model_.HasScope(context_.principal.roles, "deleted-records:read"))
      return MakeProblem("forbidden", "deleted records need the scope deleted-records:read");
    out->deleted = query.deleted() == common::v1::DELETED_MODE_ONLY ? Deleted::kOnly : Deleted::kInclude;
  }

  // Filter.
  out->shape = StrCat(resource.name, "|");
  if (query.has_filter()) {
    int leaves = options_.max_leaves;
    const std::function<AccessPtr(const Resource&)> access_of = [this](const Resource& target) {
      return AccessOf(target);
    };
    out->first_argument = static_cast<int>(arguments_.size());
    FilterForm form{.shape = out->shape, .arguments = arguments_, .given = given_};
    ASSIGN_OR_RETURN(Predicate filter,
                     ResolveFilter(model_, resource, &access, access_of, query.filter(), &leaves, &form));
    out->filter = std::move(filter);
    out->end_argument = static_cast<int>(arguments_.size());
  }

  // Sort: what was asked or declared, then the key, so that the order is total.
  const auto add = [&](int position, bool descending, common::v1::NullsOrder nulls) {
    const Field& field = resource.fields[position];
    SortKey key{.field = position, .descending = descending, .nulls_first = descending, .nullable = field.nullable};
    if (nulls == common::v1::NULLS_ORDER_FIRST) key.nulls_first = true;
    if (nulls == common::v1::NULLS_ORDER_LAST) key.nulls_first = false;
    for (int part : resource.key)
      if (part == position && !resource.view) key.nullable = false;
    out->sort.push_back(key);
  };
  const auto sorted_by = [&](int position) {
    return std::any_of(out->sort.begin(), out->sort.end(), [&](const SortKey& key) { return key.field == position; });
  };
  if (query.sort().empty()) {
    for (const auto& [position, descending] : resource.default_sort)
      add(position, descending, common::v1::NULLS_ORDER_UNSPECIFIED);
  }
  for (const auto& key : query.sort()) {
    const Field* field = resource.FindField(key.field());
    // Only what stands in the row itself gives an order.
    const std::string head = key.field().substr(0, key.field().find('.'));
    if (field == nullptr && CanFollow(resource, head))
      return MakeProblem("field-not-sortable", "relations can't be sorted by", {At("sort", "not_sortable", head)});
    if (field == nullptr || !access.readable[field->position]) return Unknown("sort");
    if (!field->sortable)
      return MakeProblem("field-not-sortable", "this field can't be sorted by",
                         {At("sort", "not_sortable", field->name)});
    if (sorted_by(field->position)) return BadParameter("sort", "a field stands twice");
    add(field->position, key.descending(), key.nulls());
  }
  const bool down = !out->sort.empty() &&
                    out->sort.back().descending;  // the same way as what is before it, so that one index serves both
  for (int position : resource.key)
    if (!sorted_by(position)) add(position, down, common::v1::NULLS_ORDER_UNSPECIFIED);
  for (const SortKey& key : out->sort)
    StrAppend(&out->shape, "|", key.descending ? "-" : "+", resource.fields[key.field].name,
              key.nulls_first ? "f" : "l");
  StrAppend(&out->shape, "|", static_cast<int>(out->deleted));
  // Fields and expansions.
  std::map<std::string, std::vector<std::string>> nested_fields;
  RETURN_IF_ERROR(Fields(*out, query, depth, nested_fields));
  std::map<std::string, common::v1::ListQuery> children;
  std::vector<std::string> order;
  const auto child = [&](const std::string& name) -> common::v1::ListQuery& {
    const auto [it, fresh] = children.try_emplace(name);
    if (fresh) order.push_back(name);
    return it->second;
  };
  for (const auto& expand : query.expand()) {
    const std::string& path = expand.path();
    const size_t dot = path.find('.');
    if (dot == std::string::npos) {
      common::v1::ListQuery& target = child(path);
      const auto deeper = target.expand();
      target = expand.query();
      target.mutable_expand()->MergeFrom(deeper);
    } else {
      auto* deeper = child(path.substr(0, dot)).add_expand();
      deeper->set_path(path.substr(dot + 1));
      *deeper->mutable_query() = expand.query();
    }
  }
  for (auto& [name, fields] : nested_fields) {
    const bool expanded = children.contains(name);
    common::v1::ListQuery& target = child(name);
    if (expanded && target.fields().empty()) continue;  // all of them already
    for (const std::string& field : fields) target.add_fields(field);
  }
  for (const std::string& name : order) {
    if (!options_.expansions) return BadParameter("expand", "this list has no relations");
    if (!CanFollow(resource, name)) return Unknown(nested_fields.contains(name) ? "fields" : "expand");
    const auto it = resource.relations.find(name);
    const Resource* target = model_.FindResource(it->second.target);
    if (depth >= 3)
      return MakeProblem("expand-too-deep", "at most three levels of relations", {At("expand", "too_deep", name)});
    if (++relations_ > 10)
      return MakeProblem("expand-too-deep", "at most ten relations in a request", {At("expand", "too_many", name)});
    Expansion expansion;
    expansion.name = name;
    expansion.relation = &it->second;
    const common::v1::ListQuery& wanted = children[name];
    if (it->second.kind == Relation::Kind::kToOne &&
        (wanted.has_filter() || !wanted.sort().empty() || wanted.limit() != 0 || !wanted.cursor().empty()))
      return BadParameter("expand", "limit, sort, filter and cursor are for lists");
    ASSIGN_OR_RETURN(expansion.query, ResolveLevel(*target, wanted, depth + 1, true));
    expansion.query->shape = StrCat(resource.name, ".", name, "|", expansion.query->shape);
    out->expansions.push_back(std::move(expansion));
  }
  return out;
}

absl::StatusOr<std::vector<std::string>> ParseKey(const Resource& resource, std::string_view id) {
  const auto absent = [] { return MakeProblem("not-found", ""); };
  std::vector<std::string> parts;
  const std::vector<absl::string_view> pieces = absl::StrSplit(ToAbsl(id), ',');
  if (pieces.size() != resource.key.size()) {
    // A comma in a single key is its own.
    if (resource.key.size() != 1) return absent();
  }
  for (size_t i = 0; i < resource.key.size(); ++i) {
    std::optional<std::string> decoded = PercentDecode(resource.key.size() == 1 ? id : ToStd(pieces[i]), false);
    if (!decoded.has_value()) return absent();
    const std::string part = *std::move(decoded);
    std::string converted;
    if (part.size() > 1024 || !ConvertText(resource.fields[resource.key[i]].type, part, converted).ok())
      return absent();
    parts.push_back(std::move(converted));
  }
  return parts;
}

std::string FormatKey(const Resource& resource, const std::vector<std::string_view>& parts) {
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) out += ',';
    out += PercentEncode(PlainText(resource.fields[resource.key[i]].type, parts[i]));
  }
  return out;
}

}  // namespace mainstay::records
