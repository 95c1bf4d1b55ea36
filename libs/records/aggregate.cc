// SPDX-License-Identifier: Apache-2.0
#include "libs/records/aggregate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/records/cost.h"
#include "libs/records/list.h"
#include "libs/records/read.h"
#include "libs/records/value.h"
#include "mainstay/common/v1/common.pb.h"

namespace mainstay::records {
namespace {

using boost::asio::awaitable;
using catalog::ColumnType;
using catalog::Field;
using catalog::Resource;
using catalog::TypeFamily;
using Function = AggregateQuery::Function;

constexpr int kMaxGroups = 8, kMaxMeasures = 20, kMaxConditions = 20, kMaxRows = 1000;

constexpr std::pair<std::string_view, Function> kFunctions[] = {{"count", Function::kCount},
                                                                {"sum", Function::kSum},
                                                                {"avg", Function::kAvg},
                                                                {"min", Function::kMin},
                                                                {"max", Function::kMax}};
constexpr std::string_view kUnits[] = {"minute", "hour", "day", "week", "month", "quarter", "year"};
constexpr std::pair<std::string_view, Op> kComparisons[] = {{"eq", Op::kEq},   {"ne", Op::kNe}, {"gt", Op::kGt},
                                                            {"gte", Op::kGte}, {"lt", Op::kLt}, {"lte", Op::kLte}};

absl::Status Refuse(std::string_view slug, std::string_view parameter, std::string_view code, std::string_view detail) {
  return MakeProblem(slug, detail,
                     {{.place = FieldError::Place::kParameter,
                       .name = std::string(parameter),
                       .code = std::string(code),
                       .detail = std::string(detail)}});
}
absl::Status Invalid(std::string_view parameter, std::string_view detail) {
  return Refuse("invalid-parameter", parameter, "invalid_value", detail);
}

bool IsNumber(TypeFamily family) {
  return family == TypeFamily::kInt16 || family == TypeFamily::kInt32 || family == TypeFamily::kInt64 ||
         family == TypeFamily::kDecimal || family == TypeFamily::kFloat32 || family == TypeFamily::kFloat64;
}
bool IsFloat(TypeFamily family) {
  return family == TypeFamily::kFloat32 || family == TypeFamily::kFloat64;
}
// What PostgreSQL has min and max for.
bool HasBounds(TypeFamily family) {
  return IsNumber(family) || family == TypeFamily::kText || family == TypeFamily::kDate ||
         family == TypeFamily::kTime || family == TypeFamily::kTimestamp || family == TypeFamily::kTimestampTz ||
         family == TypeFamily::kInterval || family == TypeFamily::kEnum || family == TypeFamily::kInet;
}
bool IsGroupable(const ColumnType& type) {
  return !type.array && type.family != TypeFamily::kJson && type.family != TypeFamily::kOther;
}
bool IsTime(TypeFamily family) {
  return family == TypeFamily::kDate || family == TypeFamily::kTimestamp || family == TypeFamily::kTimestampTz;
}

ColumnType TypeOf(TypeFamily family, std::string_view name) {
  ColumnType type;
  type.family = family;
  type.name = std::string(name);
  return type;
}
// The type PostgreSQL answers with.
ColumnType ResultType(Function function, const ColumnType& argument) {
  switch (function) {
    case Function::kCount:
      return TypeOf(TypeFamily::kInt64, "bigint");
    case Function::kSum:
      if (argument.family == TypeFamily::kFloat32) return TypeOf(TypeFamily::kFloat32, "real");
      if (argument.family == TypeFamily::kFloat64) return TypeOf(TypeFamily::kFloat64, "double precision");
      if (argument.family == TypeFamily::kInt16 || argument.family == TypeFamily::kInt32)
        return TypeOf(TypeFamily::kInt64, "bigint");
      return TypeOf(TypeFamily::kDecimal, "numeric");
    case Function::kAvg:
      return IsFloat(argument.family) ? TypeOf(TypeFamily::kFloat64, "double precision")
                                      : TypeOf(TypeFamily::kDecimal, "numeric");
    case Function::kMin:
    case Function::kMax: {
      ColumnType type = argument;
      type.precision = type.scale = type.max_length = 0;  // compared with anything
      return type;
    }
  }
  return {};
}

std::string_view NameOf(Function function) {
  for (const auto& [name, each] : kFunctions)
    if (each == function) return name;
  return {};
}

class AggregateResolver {
 public:
  AggregateResolver(const Resource& resource, AggregateQuery& out) : resource_(resource), out_(out) {}

  absl::Status Groups(std::string_view text) {
    for (const absl::string_view part : absl::StrSplit(ToAbsl(text), ',')) {
      const std::string_view whole = ToStd(part);
      const size_t colon = whole.find(':');
      ASSIGN_OR_RETURN(const Field* field, Find("group_by", whole.substr(0, colon)));
      if (!IsGroupable(field->type)) return Invalid("group_by", "fields of this type can't be grouped by");
      AggregateQuery::Group group{.field = field->position};
      if (colon != std::string_view::npos) {
        group.unit = whole.substr(colon + 1);
        if (std::find(std::begin(kUnits), std::end(kUnits), group.unit) == std::end(kUnits))
          return Invalid("group_by", "minute, hour, day, week, month, quarter or year is expected behind the colon");
        if (!IsTime(field->type.family)) return Invalid("group_by", "only times are cut down to a unit");
        if (field->type.family == TypeFamily::kDate && (group.unit == "minute" || group.unit == "hour"))
          return Invalid("group_by", "a date has no hours");
      }
      for (const AggregateQuery::Group& other : out_.groups)
        if (other.field == group.field) return Invalid("group_by", "a field stands twice");
      out_.groups.push_back(std::move(group));
    }
    if (out_.groups.size() > kMaxGroups) return Invalid("group_by", StrCat("at most ", kMaxGroups, " fields"));
    return absl::OkStatus();
  }

  absl::Status Measures(std::string_view text) {
    for (const absl::string_view part : absl::StrSplit(ToAbsl(text), ',')) {
      const size_t before = out_.measures.size();
      ASSIGN_OR_RETURN(const size_t at, Measure("aggregate", ToStd(part)));
      if (at != before) return Invalid("aggregate", "a figure stands twice");
      if (out_.measures.size() > kMaxMeasures)
        return Invalid("aggregate", StrCat("at most ", kMaxMeasures, " figures"));
    }
    return absl::OkStatus();
  }

  // "having[sum(total)][gt]"
  absl::Status Having(const std::string& name, std::string_view value) {
    std::string_view rest = name;
    rest.remove_prefix(std::string_view("having").size());
    std::array<std::string_view, 2> parts;
    for (std::string_view& part : parts) {
      const size_t end = rest.find(']');
      if (!rest.starts_with('[') || end == std::string_view::npos)
        return Refuse("filter-invalid", name, "filter_invalid", "conditions are written having[sum(field)][gt]=value");
      part = rest.substr(1, end - 1);
      rest.remove_prefix(end + 1);
    }
    if (!rest.empty()) return Refuse("filter-invalid", name, "filter_invalid", "the brackets do not match");
    if (out_.having.size() >= kMaxConditions)
      return Refuse("filter-invalid", name, "too_many", StrCat("at most ", kMaxConditions, " conditions"));
    AggregateQuery::Condition condition;
    ASSIGN_OR_RETURN(condition.measure, Hidden(name, parts[0]));
    const auto* op = std::find_if(std::begin(kComparisons), std::end(kComparisons),
                                  [&](const auto& each) { return each.first == parts[1]; });
    if (op == std::end(kComparisons))
      return Refuse("filter-invalid", name, "operator_unknown", "eq, ne, gt, gte, lt or lte is expected");
    condition.op = op->second;
    const ValueError error = ConvertText(out_.measures[condition.measure].type, value, condition.value);
    if (!error.ok()) return Refuse("filter-invalid", name, error.code, error.detail);
    out_.having.push_back(std::move(condition));
    return absl::OkStatus();
  }

  absl::Status Sort(std::string_view text) {
    for (const absl::string_view part : absl::StrSplit(ToAbsl(text), ',')) {
      std::string_view key = ToStd(part);
      AggregateQuery::Order order;
      if (key.starts_with('-')) {
        order.descending = true;
        key.remove_prefix(1);
      }
      if (key.find('(') != std::string_view::npos) {
        ASSIGN_OR_RETURN(order.at, Hidden("sort", key));
      } else {
        ASSIGN_OR_RETURN(const Field* field, Find("sort", key));
        const auto it = std::find_if(out_.groups.begin(), out_.groups.end(),
                                     [&](const AggregateQuery::Group& g) { return g.field == field->position; });
        if (it == out_.groups.end())
          return Refuse("field-not-sortable", "sort", "not_sortable", "groups are sorted by their fields or figures");
        order.group = true;
        order.at = static_cast<size_t>(it - out_.groups.begin());
      }
      for (const AggregateQuery::Order& other : out_.order)
        if (other.group == order.group && other.at == order.at) return Invalid("sort", "a key stands twice");
      out_.order.push_back(order);
    }
    return absl::OkStatus();
  }

  // So that the order is total.
  void EndOrder() {
    for (size_t at = 0; at < out_.groups.size(); ++at) {
      const bool sorted = std::any_of(out_.order.begin(), out_.order.end(),
                                      [&](const AggregateQuery::Order& o) { return o.group && o.at == at; });
      if (!sorted) out_.order.push_back({.group = true, .at = at});
    }
  }

 private:
  absl::StatusOr<const Field*> Find(std::string_view parameter, std::string_view name) {
    const Field* field = resource_.FindField(name);
    if (field == nullptr || !out_.rows->access->readable[field->position])
      return Refuse("unknown-field", parameter, "unknown_field", "no such field");
    return field;
  }

  // The figure "sum(total)", added when it is new.
  absl::StatusOr<size_t> Measure(std::string_view parameter, std::string_view text) {
    const size_t open = text.find('(');
    const auto* function = std::find_if(std::begin(kFunctions), std::end(kFunctions),
                                        [&](const auto& each) { return each.first == text.substr(0, open); });
    if (open == std::string_view::npos || !text.ends_with(')') || function == std::end(kFunctions))
      return Invalid(parameter, "count(), sum(field), avg(field), min(field) or max(field) is expected");
    AggregateQuery::Measure measure{.function = function->second};
    const std::string_view argument = text.substr(open + 1, text.size() - open - 2);
    if (measure.function == Function::kCount) {
      if (!argument.empty()) return Invalid(parameter, "count() counts rows and takes no field");
    } else {
      ASSIGN_OR_RETURN(const Field* field, Find(parameter, argument));
      const TypeFamily family = field->type.family;
      const bool fits = measure.function == Function::kSum || measure.function == Function::kAvg ? IsNumber(family)
                                                                                                 : HasBounds(family);
      if (!fits || field->type.array)
        return Invalid(parameter, StrCat(NameOf(measure.function), " is not for fields of this type"));
      measure.field = field->position;
    }
    for (size_t at = 0; at < out_.measures.size(); ++at)
      if (out_.measures[at].function == measure.function && out_.measures[at].field == measure.field) return at;
    measure.type =
        ResultType(measure.function, measure.field < 0 ? ColumnType() : resource_.fields[measure.field].type);
    out_.measures.push_back(std::move(measure));
    return out_.measures.size() - 1;
  }
  absl::StatusOr<size_t> Hidden(std::string_view parameter, std::string_view text) {
    const size_t before = out_.measures.size();
    ASSIGN_OR_RETURN(const size_t at, Measure(parameter, text));
    if (at == before) out_.measures[at].shown = false;
    return at;
  }

  const Resource& resource_;
  AggregateQuery& out_;
};

std::string GroupExpression(SqlBuilder& sql, const std::string& alias, const AggregateQuery& query,
                            const AggregateQuery::Group& group) {
  const Field& field = query.rows->resource->fields[group.field];
  std::string column = Column(alias, field);
  if (group.unit.empty()) return column;
  const std::string cut = StrCat("date_trunc(", Literal(group.unit), ", ");
  if (field.type.family == TypeFamily::kDate) return StrCat(cut, column, "::timestamp)::date");
  // A time without zone holds UTC.
  const std::string time = field.type.family == TypeFamily::kTimestamp ? StrCat(column, " AT TIME ZONE 'UTC'") : column;
  return StrCat(cut, time, ", ", sql.Bind(query.zone, "text"), ")");
}

std::string MeasureExpression(const std::string& alias, const Resource& resource,
                              const AggregateQuery::Measure& measure) {
  if (measure.field < 0) return "count(*)";
  return StrCat(NameOf(measure.function), "(", Column(alias, resource.fields[measure.field]), ")");
}

std::string_view Comparison(Op op) {
  switch (op) {
    case Op::kNe:
      return " <> ";
    case Op::kGt:
      return " > ";
    case Op::kGte:
      return " >= ";
    case Op::kLt:
      return " < ";
    case Op::kLte:
      return " <= ";
    default:
      return " = ";
  }
}

// {"group":{"status":"open"},"count":12,"sum":{"total":"1.50"}}
void RenderGroup(const AggregateQuery& query, const Rows& rows, int row, std::string& out) {
  const Resource& resource = *query.rows->resource;
  const auto value = [&](int column, const ColumnType& type) {
    if (rows.IsNull(row, column)) {
      out += "null";
    } else {
      AppendJsonValue(type, rows.Get(row, column), out);
    }
  };
  out += '{';
  int column = 0;
  if (!query.groups.empty()) {
    out += "\"group\":{";
    for (const AggregateQuery::Group& group : query.groups) {
      const Field& field = resource.fields[group.field];
      StrAppend(&out, column > 0 ? "," : "", "\"", field.name, "\":");
      value(column++, field.type);
    }
    out += '}';
  }
  bool first = query.groups.empty();
  for (const auto& [name, function] : kFunctions) {
    bool opened = false;
    for (size_t i = 0; i < query.measures.size(); ++i) {
      const AggregateQuery::Measure& measure = query.measures[i];
      if (!measure.shown || measure.function != function) continue;
      const int at = column + static_cast<int>(i);
      if (!opened) StrAppend(&out, first ? "" : ",", "\"", name, "\":");
      first = false;
      if (function == Function::kCount) {
        out.append(rows.Get(row, at));
        continue;
      }
      StrAppend(&out, opened ? "," : "{", "\"", resource.fields[measure.field].name, "\":");
      value(at, measure.type);
      opened = true;
    }
    if (opened) out += '}';
  }
  out += '}';
}

}  // namespace

absl::StatusOr<AggregateQuery> ResolveAggregate(Resolver& resolver, const Resource& resource,
                                                const http::Parameters& parameters) {
  // What is written as for a list is read by the same parser.
  http::Parameters shared, having;
  std::optional<std::string> group_by, aggregate, sort, zone;
  std::set<std::string_view> seen;
  for (const auto& [name, value] : parameters) {
    if (!seen.insert(name).second) return Invalid(name, "the parameter stands twice");
    if (name == "limit" || name == "deleted" || name == "filter" || name.starts_with("filter[")) {
      shared.emplace_back(name, value);
    } else if (name.starts_with("having")) {
      having.emplace_back(name, value);
    } else if (name == "group_by") {
      group_by = value;
    } else if (name == "aggregate") {
      aggregate = value;
    } else if (name == "sort") {
      sort = value;
    } else if (name == "zone") {
      zone = value;
    } else {
      return Refuse("invalid-parameter", name, "unknown_parameter", "there is no such parameter");
    }
  }
  common::v1::ListQuery list;
  RETURN_IF_ERROR(http::ParseListQuery(shared, {}, nullptr, &list, http::ListQueryLimits{.max_limit = kMaxRows}));
  AggregateQuery out;
  if (list.limit() != 0) out.limit = list.limit();
  list.set_limit(0);
  if (!resolver.AccessOf(resource)->can(Action::kAggregate))
    return MakeProblem("forbidden", "aggregating this resource is not allowed");
  ASSIGN_OR_RETURN(out.rows, resolver.Resolve(resource, list));
  AggregateResolver resolve(resource, out);
  if (group_by.has_value()) RETURN_IF_ERROR(resolve.Groups(*group_by));
  RETURN_IF_ERROR(resolve.Measures(aggregate.value_or("count()")));
  for (const auto& [name, value] : having) RETURN_IF_ERROR(resolve.Having(name, value));
  if (sort.has_value()) RETURN_IF_ERROR(resolve.Sort(*sort));
  resolve.EndOrder();
  if (zone.has_value()) {
    absl::TimeZone known;
    const bool fine = zone->size() <= 64 && zone->find_first_not_of(
                                                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                                "0123456789_+-/") == std::string::npos;
    if (!fine || !absl::LoadTimeZone(*zone, &known))
      return Invalid("zone", "the IANA name of a time zone is expected, such as Europe/Berlin");
    out.zone = *zone;
  }
  return out;
}

void BuildAggregate(SqlBuilder& sql, const AggregateQuery& query) {
  const Resource& resource = *query.rows->resource;
  const std::string alias = sql.NewAlias();
  std::string select, groups;
  for (size_t i = 0; i < query.groups.size(); ++i) {
    StrAppend(&select, i > 0 ? ", " : "", GroupExpression(sql, alias, query, query.groups[i]));
    StrAppend(&groups, i > 0 ? ", " : " GROUP BY ", i + 1);
  }
  for (const AggregateQuery::Measure& measure : query.measures)
    StrAppend(&select, select.empty() ? "" : ", ", MeasureExpression(alias, resource, measure));
  StrAppend(&sql.text, "SELECT ", select, " FROM ", TableOf(resource), " ", alias, " WHERE ",
            Conditions(sql, alias, *query.rows, Action::kAggregate), groups);
  for (size_t i = 0; i < query.having.size(); ++i) {
    const AggregateQuery::Condition& condition = query.having[i];
    const AggregateQuery::Measure& measure = query.measures[condition.measure];
    StrAppend(&sql.text, i > 0 ? " AND " : " HAVING ", MeasureExpression(alias, resource, measure),
              Comparison(condition.op), sql.Bind(condition.value, CastName(measure.type)));
  }
  for (size_t i = 0; i < query.order.size(); ++i) {
    const AggregateQuery::Order& order = query.order[i];
    StrAppend(&sql.text, i > 0 ? ", " : " ORDER BY ", order.at + 1 + (order.group ? 0 : query.groups.size()),
              order.descending ? " DESC" : "");
  }
  StrAppend(&sql.text, " LIMIT ", query.limit + 1);
}

awaitable<absl::StatusOr<AggregateAnswer>> RunAggregate(Runner& runner, const CallContext& context,
                                                        const AggregateQuery& query, int64_t cost_limit) {
  SqlBuilder sql(context);
  BuildAggregate(sql, query);
  AggregateAnswer out;
  CO_ASSIGN_OR_RETURN(const double cost, co_await Explain(runner, sql.text, sql.params, "Total Cost"));
  out.cost = static_cast<int64_t>(std::ceil(std::min(cost, 1e15)));
  CO_RETURN_IF_ERROR(CheckScore(out.cost, cost_limit));
  absl::StatusOr<RowsPtr> rows = co_await runner.RunAnew(std::move(sql.text), std::move(sql.params));
  if (!rows.ok()) co_return ReadFailure(rows.status());
  const Rows& found = **rows;
  common::v1::Page page;
  page.set_limit(query.limit);
  page.set_has_more(found.rows() > query.limit);
  out.json = "{\"data\":[";
  for (int row = 0; row < std::min(found.rows(), query.limit); ++row) {
    if (row > 0) out.json += ',';
    RenderGroup(query, found, row, out.json);
  }
  out.json += "],\"page\":";
  RenderPage(page, false, out.json);
  out.json += '}';
  co_return out;
}

}  // namespace mainstay::records
