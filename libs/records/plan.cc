// SPDX-License-Identifier: Apache-2.0
#include "libs/records/plan.h"

#include <algorithm>
#include <functional>

#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/records/value.h"

namespace mainstay::records {

using catalog::ColumnType;
using catalog::Field;
using catalog::Relation;
using catalog::Resource;
using catalog::TypeFamily;

std::string Quote(std::string_view identifier) {
  std::string out = "\"";
  for (char c : identifier) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

// Of the catalog's own texts only.
std::string Literal(std::string_view text) {
  std::string out = "'";
  for (char c : text) {
    if (c == '\'') out += '\'';
    out += c;
  }
  return out + "'";
}

std::string TableOf(const Resource& resource) {
  if (!resource.query.empty()) return StrCat("(\n", resource.query, "\n)");  // it may end with a comment
  return StrCat(Quote(resource.schema), ".", Quote(resource.table));
}
std::string Column(const std::string& alias, const Field& field) {
  return StrCat(alias, ".", Quote(field.column));
}

std::string SqlBuilder::Bind(std::optional<std::string> value, std::string_view cast) {
  params.push_back(std::move(value));
  return StrCat("$", params.size(), "::", cast);
}

std::string SqlBuilder::Bind(std::optional<std::string> value, std::string_view cast, Source source) {
  sources.emplace_back(static_cast<int>(params.size()), source);
  return Bind(std::move(value), cast);
}

std::string SqlBuilder::OfPrincipal(Source::Kind kind, const ColumnType* type) {
  const std::string_view cast = type == nullptr ? std::string_view("text") : CastName(*type);
  for (const auto& [param, source] : sources)
    if (source.kind == kind && (source.type == type || (source.type != nullptr && CastName(*source.type) == cast)))
      return StrCat("$", param + 1, "::", cast);
  const Principal& principal = context_.principal;
  return Bind(PrincipalValue(kind == Source::Kind::kTenant ? principal.tenant : principal.subject, type), cast,
              {.kind = kind, .type = type});
}

std::string SqlBuilder::TenantIs(const std::string& alias, const Resource& resource) {
  if (resource.tenant < 0 || all_tenants()) return "";
  const Field& field = resource.fields[resource.tenant];
  // Compared as the column's type, so that its indexes serve. A tenant that is no value of the type has no rows.
  return StrCat(Column(alias, field), " = ", Tenant(&field.type));
}

std::string SqlBuilder::Scope(const std::string& alias, const Resource& resource, const Predicate* rows,
                              Deleted deleted) {
  std::string out = TenantIs(alias, resource);
  const auto add = [&](const std::string& condition) { StrAppend(&out, out.empty() ? "" : " AND ", condition); };
  if (resource.deleted_at >= 0 && deleted != Deleted::kInclude)
    add(StrCat(Column(alias, resource.fields[resource.deleted_at]),
               deleted == Deleted::kHide ? " IS NULL" : " IS NOT NULL"));
  if (rows != nullptr) add(Where(alias, resource, *rows));
  return out.empty() ? "true" : out;
}

const std::string& SqlBuilder::TextOf(const Operand& operand) const {
  const Principal& principal = context_.principal;
  return operand.kind == Operand::Kind::kTenant    ? principal.tenant
         : operand.kind == Operand::Kind::kSubject ? principal.subject
                                                   : operand.text;
}

std::string SqlBuilder::Single(const Predicate& predicate, const ColumnType* type, const Resource& resource) {
  const Operand& operand = predicate.operands[0];
  const std::string_view cast = type == nullptr ? std::string_view("text") : CastName(*type);
  switch (operand.kind) {
    case Operand::Kind::kTenant:
    case Operand::Kind::kSubject: {
      const bool lasting = type == nullptr || type == &resource.fields[static_cast<size_t>(predicate.field)].type;
      if (lasting) return operand.kind == Operand::Kind::kTenant ? Tenant(type) : Subject(type);
      reusable = false;
      return Bind(PrincipalValue(TextOf(operand), type), cast);
    }
    case Operand::Kind::kField:
      return Column(row, resource.fields[static_cast<size_t>(operand.field)]);
    case Operand::Kind::kText:
      break;
  }
  if (predicate.argument < 0) return Bind(operand.text, cast);
  return Bind(operand.text, cast, {.index = predicate.argument});
}

std::string SqlBuilder::List(const Predicate& predicate, const ColumnType* type) {
  PgArray array;
  for (const Operand& operand : predicate.operands) {
    if (operand.kind == Operand::Kind::kText) {
      array.Add(operand.text);
      continue;
    }
    // {tenant} and {subject} inside a list: their values are known here.
    reusable = false;
    if (const auto value = PrincipalValue(TextOf(operand), type); value.has_value()) array.Add(*value);
  }
  const std::string cast = StrCat(type == nullptr ? std::string_view("text") : CastName(*type), "[]");
  if (predicate.argument < 0) return Bind(std::move(array).Finish(), cast);
  return Bind(std::move(array).Finish(), cast, {.index = predicate.argument});
}

std::string SqlBuilder::Condition(const std::string& alias, const Resource& resource, const Predicate& predicate) {
  const Field& field = resource.fields[predicate.field];
  std::string column = Column(alias, field);
  const ColumnType* type = &field.type;  // null: text
  if (!predicate.json_path.empty()) {
    PgArray path;
    for (const std::string& step : predicate.json_path) path.Add(step);
    column = StrCat("(", column, " #>> ", Bind(std::move(path).Finish(), "text[]"), ")");
    type = nullptr;
  }
  const auto single = [&](const ColumnType* of) { return Single(predicate, of, resource); };
  const std::optional<ColumnType> element = field.type.array ? std::optional(ElementType(field.type)) : std::nullopt;
  const ColumnType* const each = element.has_value() ? &*element : type;
  switch (predicate.op) {
    case Op::kEq:
      return StrCat(column, " = ", single(type));
    case Op::kNe:
      return StrCat(column, " <> ", single(type));
    case Op::kGt:
      return StrCat(column, " > ", single(type));
    case Op::kGte:
      return StrCat(column, " >= ", single(type));
    case Op::kLt:
      return StrCat(column, " < ", single(type));
    case Op::kLte:
      return StrCat(column, " <= ", single(type));
    case Op::kIn:
      return StrCat(column, " = ANY(", List(predicate, each), ")");
    case Op::kNin:
      return StrCat(column, " <> ALL(", List(predicate, each), ")");
    case Op::kIsNull:
      return StrCat(column, " IS NULL");
    case Op::kIsNotNull:
      return StrCat(column, " IS NOT NULL");
    case Op::kDistinctFrom:
      return StrCat(column, " IS DISTINCT FROM ", single(type));
    case Op::kLike:
      return StrCat(column, " LIKE ", single(nullptr));
    case Op::kIlike:
      return StrCat(column, " ILIKE ", single(nullptr));
    case Op::kHas:
      return StrCat(single(each), " = ANY(", column, ")");
    case Op::kHasAny:
      return StrCat(column, " && ", List(predicate, each));
    case Op::kHasAll:
      return StrCat(column, " @> ", List(predicate, each));
    case Op::kSearch: {
      // The configuration as a constant, as it stands in the index; the words are read so that none is an error.
      const std::string configuration = StrCat(Literal(field.search), "::regconfig");
      const std::string vector = field.type.family == catalog::TypeFamily::kText
                                     ? StrCat("to_tsvector(", configuration, ", ", column, ")")
                                     : column;
      return StrCat(vector, " @@ websearch_to_tsquery(", configuration, ", ", single(nullptr), ")");
    }
    case Op::kOverlaps:
      return StrCat(column, " && ", field.type.array ? List(predicate, each) : single(type));
  }
  return "false";
}

std::string SqlBuilder::Related(const std::string& alias, const Resource& resource, const Predicate& predicate) {
  (void)resource;
  const Relation& relation = *predicate.relation;
  const Resource& target = *predicate.target;
  const std::string inner = NewAlias();
  std::string from = StrCat(TableOf(target), " ", inner);
  std::string join;
  if (relation.kind == Relation::Kind::kManyToMany) {
    const std::string through = NewAlias();
    StrAppend(&from, " JOIN ", relation.through, " ", through, " ON true");
    for (size_t i = 0; i < relation.through_target_columns.size(); ++i)
      StrAppend(&from, " AND ", through, ".", Quote(relation.through_target_columns[i]), " = ", inner, ".",
                Quote(relation.target_columns[i]));
    for (size_t i = 0; i < relation.through_columns.size(); ++i)
      StrAppend(&join, i > 0 ? " AND " : "", through, ".", Quote(relation.through_columns[i]), " = ", alias, ".",
                Quote(relation.columns[i]));
  } else {
    for (size_t i = 0; i < relation.columns.size(); ++i)
      StrAppend(&join, i > 0 ? " AND " : "", inner, ".", Quote(relation.target_columns[i]), " = ", alias, ".",
                Quote(relation.columns[i]));
  }
  const Predicate* rows = predicate.target_access == nullptr ? nullptr : predicate.target_access->where(Action::kRead);
  const std::string scope = Scope(inner, target, rows, Deleted::kHide);
  std::string condition = predicate.children.empty() ? "true" : Where(inner, target, predicate.children[0]);
  // "every" of rows that do not answer the question (NULL) is not every.
  if (predicate.quantifier == Quantifier::kEvery) condition = StrCat("(", condition, ") IS NOT TRUE");
  return StrCat(predicate.quantifier == Quantifier::kSome ? "EXISTS" : "NOT EXISTS", " (SELECT FROM ", from, " WHERE ",
                join, " AND ", scope, " AND (", condition, "))");
}

std::string SqlBuilder::Where(const std::string& alias, const Resource& resource, const Predicate& predicate) {
  switch (predicate.kind) {
    case Predicate::Kind::kAnd:
    case Predicate::Kind::kOr: {
      const bool all = predicate.kind == Predicate::Kind::kAnd;
      if (predicate.children.empty()) return all ? "true" : "false";
      if (predicate.children.size() == 1) return Where(alias, resource, predicate.children[0]);
      std::string out = "(";
      for (size_t i = 0; i < predicate.children.size(); ++i)
        StrAppend(&out, i > 0 ? (all ? " AND " : " OR ") : "", Where(alias, resource, predicate.children[i]));
      return out + ")";
    }
    case Predicate::Kind::kNot:
      return StrCat("NOT (", Where(alias, resource, predicate.children[0]), ")");
    case Predicate::Kind::kCondition:
      return Condition(alias, resource, predicate);
    case Predicate::Kind::kRelated:
      return Related(alias, resource, predicate);
  }
  return "false";
}

std::vector<int> FieldsOfColumns(const Resource& resource, const std::vector<std::string>& columns) {
  std::vector<int> out;
  for (const std::string& column : columns) {
    const auto it = std::find_if(resource.fields.begin(), resource.fields.end(),
                                 [&](const Field& field) { return field.column == column; });
    if (it == resource.fields.end()) return {};
    out.push_back(it->position);
  }
  return out;
}

Columns ColumnsOf(const ListQuery& query, bool version) {
  const Resource& resource = *query.resource;
  Columns columns(resource);
  for (int position : query.output) columns.Add(position);
  for (int position : resource.key) columns.Add(position);
  for (const SortKey& key : query.sort) columns.Add(key.field);
  for (const Expansion& expansion : query.expansions)
    for (int position : FieldsOfColumns(resource, expansion.relation->columns)) columns.Add(position);
  if (version && resource.version >= 0) {
    columns.Add(resource.version);
    columns.version = columns.at[resource.version];
  }
  if (version && columns.version < 0 && !resource.view) columns.version = columns.count++;
  return columns;
}

std::string SelectList(const std::string& alias, const Resource& resource, const Columns& columns) {
  std::string out;
  for (size_t i = 0; i < columns.fields.size(); ++i)
    StrAppend(&out, i > 0 ? ", " : "", Column(alias, resource.fields[columns.fields[i]]));
  if (columns.version >= static_cast<int>(columns.fields.size()))
    StrAppend(&out, out.empty() ? "" : ", ", alias, ".xmin");
  return out;
}

namespace {

// The same as c0, c1 …, for an outer query.
std::string NamedCells(const std::string& alias, const Resource& resource, const Columns& columns) {
  std::string out;
  for (size_t i = 0; i < columns.fields.size(); ++i)
    StrAppend(&out, i > 0 ? ", " : "", Column(alias, resource.fields[columns.fields[i]]), " AS c", i);
  if (columns.count > static_cast<int>(columns.fields.size()))
    StrAppend(&out, out.empty() ? "" : ", ", alias, ".xmin AS c", columns.count - 1);
  return out;
}
std::string OuterCells(const Columns& columns) {
  std::string out;
  for (int i = 0; i < columns.count; ++i) StrAppend(&out, i > 0 ? ", " : "", "c", i);
  return out;
}

std::string Order(const std::vector<SortKey>& sort, bool reverse,
                  const std::function<std::string(const SortKey&)>& name) {
  std::string out;
  for (const SortKey& key : sort) {
    const bool descending = key.descending != reverse;
    StrAppend(&out, out.empty() ? "" : ", ", name(key), descending ? " DESC" : "");
    const bool nulls_first = key.nulls_first != reverse;
    if (key.nullable && nulls_first != descending) out += nulls_first ? " NULLS FIRST" : " NULLS LAST";
  }
  return out;
}

}  // namespace

std::string OrderBy(const std::string& alias, const Resource& resource, const std::vector<SortKey>& sort,
                    bool reverse) {
  return Order(sort, reverse, [&](const SortKey& key) { return Column(alias, resource.fields[key.field]); });
}

namespace {

// One key of a position as SQL sees it.
struct KeyAt {
  std::string column, value;  // value: "$n::type"; empty: NULL
  bool descending, nulls_last, nullable;
};

// The rows behind a position in these keys; "false" where there are no more keys. `some`: the first key is known not to
// be NULL.
std::string Behind(const std::vector<KeyAt>& keys, size_t first, bool some) {
  if (first == keys.size()) return "false";
  // One direction, nothing null: a row comparison, which an index answers at once.
  const bool plain = std::all_of(keys.begin() + static_cast<std::ptrdiff_t>(first), keys.end(), [&](const KeyAt& key) {
    return !key.value.empty() && (!key.nullable || (some && &key == &keys[first])) &&
           key.descending == keys[first].descending;
  });
  if (plain) {
    std::string left, right;
    for (size_t i = first; i < keys.size(); ++i) {
      StrAppend(&left, left.empty() ? "" : ", ", keys[i].column);
      StrAppend(&right, right.empty() ? "" : ", ", keys[i].value);
    }
    return StrCat("(", left, ") ", keys[first].descending ? "<" : ">", " (", right, ")");
  }
  std::string out, equal;
  for (size_t i = first; i < keys.size(); ++i) {
    const KeyAt& key = keys[i];
    std::string behind;
    if (key.value.empty()) {
      behind = key.nulls_last ? "false" : StrCat(key.column, " IS NOT NULL");
    } else {
      behind = StrCat(key.column, key.descending ? " < " : " > ", key.value);
      if (key.nullable && key.nulls_last && !(some && i == first))
        behind = StrCat("(", behind, " OR ", key.column, " IS NULL)");
    }
    StrAppend(&out, out.empty() ? "" : " OR ", equal.empty() ? behind : StrCat("(", equal, " AND ", behind, ")"));
    StrAppend(&equal, equal.empty() ? "" : " AND ", key.column,
              key.value.empty() ? " IS NULL" : StrCat(" = ", key.value));
  }
  out = StrCat("(", out, ")");
  const KeyAt& key = keys[first];
  // The bound that lets an index start at the right place.
  if (!key.value.empty() && (!key.nullable || some))
    out = StrCat(key.column, key.descending ? " <= " : " >= ", key.value, " AND ", out);
  return out;
}

}  // namespace

std::vector<std::string> After(SqlBuilder& sql, const std::string& alias, const Resource& resource,
                               const std::vector<SortKey>& sort, const Position& position) {
  std::vector<KeyAt> keys;
  for (size_t i = 0; i < sort.size(); ++i) {
    const Field& field = resource.fields[sort[i].field];
    KeyAt key{.column = Column(alias, field),
              .descending = sort[i].descending != position.backward,
              .nulls_last = sort[i].nulls_first == position.backward,
              .nullable = sort[i].nullable};
    if (position.values[i].has_value())
      key.value = sql.Bind(*position.values[i], CastName(field.type),
                           {.kind = Source::Kind::kPosition, .index = static_cast<int>(i)});
    keys.push_back(std::move(key));
  }
  const KeyAt& first = keys[0];
  if (first.value.empty()) {
    std::vector<std::string> ranges = {StrCat(first.column, " IS NULL AND ", Behind(keys, 1, false))};
    if (!first.nulls_last) ranges.push_back(StrCat(first.column, " IS NOT NULL"));
    return ranges;
  }
  std::vector<std::string> ranges = {Behind(keys, 0, true)};
  if (first.nullable && first.nulls_last) ranges.push_back(StrCat(first.column, " IS NULL"));
  return ranges;
}

std::string Conditions(SqlBuilder& sql, const std::string& alias, const ListQuery& query, Action action) {
  std::string out = sql.Scope(alias, *query.resource, query.access->where(action), query.deleted);
  if (query.filter.has_value()) {
    const std::string filter = sql.Where(alias, *query.resource, *query.filter);
    if (filter != "true") StrAppend(&out, " AND ", filter);
  }
  return out;
}

void BuildPage(SqlBuilder& sql, const ListQuery& query, const Columns& columns, const Position* position,
               bool limited) {
  const Resource& resource = *query.resource;
  const std::string alias = sql.NewAlias();
  const std::string where = Conditions(sql, alias, query);
  const bool reverse = position != nullptr && position->backward;
  std::vector<std::string> ranges = {""};
  if (position != nullptr) ranges = After(sql, alias, resource, query.sort, *position);
  // As a constant: a limit that the planner can't see makes it sort the table.
  const std::string limit = limited ? StrCat(" LIMIT ", query.limit + 1) : "";
  const auto rows = [&](std::string_view what, const std::string& range) {
    return StrCat("SELECT ", what, " FROM ", TableOf(resource), " ", alias, " WHERE ", where,
                  range.empty() ? "" : " AND ", range, " ORDER BY ", OrderBy(alias, resource, query.sort, reverse),
                  limit);
  };
  if (ranges.size() == 1) {
    sql.text += rows(SelectList(alias, resource, columns), ranges[0]);
  } else {
    // Each in the order of an index; merged, the second is read no further than the first leaves room.
    const std::string cells = NamedCells(alias, resource, columns);
    StrAppend(&sql.text, "SELECT ", OuterCells(columns), " FROM ((", rows(cells, ranges[0]), ") UNION ALL (",
              rows(cells, ranges[1]), ")) s ORDER BY ",
              Order(query.sort, reverse, [&](const SortKey& key) { return StrCat("c", columns.at[key.field]); }),
              limit);
  }
  if (query.offset > 0) StrAppend(&sql.text, " OFFSET ", sql.Bind(StrCat(query.offset), "bigint"));
}

void BuildCount(SqlBuilder& sql, const ListQuery& query, int64_t cap) {
  const std::string alias = sql.NewAlias();
  const std::string where = Conditions(sql, alias, query);
  StrAppend(&sql.text, "SELECT count(*) FROM (SELECT FROM ", TableOf(*query.resource), " ", alias, " WHERE ", where,
            " LIMIT ", cap + 1, ") s");
}

void BuildMatching(SqlBuilder& sql, const ListQuery& query) {
  const std::string alias = sql.NewAlias();
  const std::string where = Conditions(sql, alias, query);
  StrAppend(&sql.text, "SELECT FROM ", TableOf(*query.resource), " ", alias, " WHERE ", where);
}

int PlainKey(const Resource& parent, const Expansion& expansion) {
  const Relation& relation = *expansion.relation;
  if (relation.kind == Relation::Kind::kManyToMany) return -1;
  const Resource& target = *expansion.query->resource;
  const std::vector<int> ours = FieldsOfColumns(parent, relation.columns),
                         theirs = FieldsOfColumns(target, relation.target_columns);
  if (ours.size() != 1 || theirs.size() != 1) return -1;
  const auto is_integer = [](TypeFamily family) {
    return family == TypeFamily::kInt16 || family == TypeFamily::kInt32 || family == TypeFamily::kInt64;
  };
  const ColumnType &a = parent.fields[ours[0]].type, &b = target.fields[theirs[0]].type;
  const bool plain = !a.array && !b.array &&
                     ((is_integer(a.family) && is_integer(b.family)) ||
                      (a.family == TypeFamily::kUuid && b.family == TypeFamily::kUuid));
  return plain ? theirs[0] : -1;
}

void BuildRelated(SqlBuilder& sql, const Resource& parent, const Expansion& expansion, const Columns& columns,
                  const RelatedPosition* from) {
  const Relation& relation = *expansion.relation;
  const ListQuery& query = *expansion.query;
  const Resource& target = *query.resource;
  const std::vector<int> ours = FieldsOfColumns(parent, relation.columns);
  const auto keys_of = [&](size_t i) {
    return sql.Bind(std::nullopt, CastName(parent.fields[ours[i]].type) + "[]",
                    {.kind = Source::Kind::kKey, .index = static_cast<int>(i)});
  };
  const int key = PlainKey(parent, expansion);
  if (key >= 0 && relation.kind == Relation::Kind::kToOne) {
    const std::string alias = sql.NewAlias();
    const std::string array = keys_of(0);
    StrAppend(&sql.text, "SELECT ", SelectList(alias, target, columns), " FROM ", TableOf(target), " ", alias,
              " WHERE ", Column(alias, target.fields[key]), " = ANY(", array, ") AND ", Conditions(sql, alias, query));
    return;
  }
  std::string arrays, names;
  for (size_t i = 0; i < ours.size(); ++i) {
    StrAppend(&arrays, i > 0 ? ", " : "", keys_of(i));
    StrAppend(&names, "k", i, ", ");
  }
  const std::string parents = StrCat("unnest(", arrays, ") WITH ORDINALITY AS p(", names, "n)");
  std::string alias, tables, join, where;
  const auto name_rows = [&] {
    alias = sql.NewAlias();
    tables = StrCat(TableOf(target), " ", alias);
    join.clear();
    if (relation.kind == Relation::Kind::kManyToMany) {
      const std::string through = sql.NewAlias();
      StrAppend(&tables, " JOIN ", relation.through, " ", through, " ON true");
      for (size_t i = 0; i < relation.through_target_columns.size(); ++i)
        StrAppend(&tables, " AND ", through, ".", Quote(relation.through_target_columns[i]), " = ", alias, ".",
                  Quote(relation.target_columns[i]));
      for (size_t i = 0; i < relation.through_columns.size(); ++i)
        StrAppend(&join, i > 0 ? " AND " : "", through, ".", Quote(relation.through_columns[i]), " = p.k", i);
    } else {
      for (size_t i = 0; i < relation.target_columns.size(); ++i)
        StrAppend(&join, i > 0 ? " AND " : "", alias, ".", Quote(relation.target_columns[i]), " = p.k", i);
    }
    where = Conditions(sql, alias, query);
  };
  if (relation.kind == Relation::Kind::kToOne) {
    name_rows();
    StrAppend(&sql.text, "SELECT p.n, ", SelectList(alias, target, columns), " FROM ", parents, " JOIN ", tables,
              " ON ", join, " WHERE ", where);
    return;
  }
  // n, r (the place in the parent's list), c0, c1 …
  const auto lists = [&](const Position* position, const std::string& which) {
    name_rows();
    if (position != nullptr) {
      const std::vector<std::string> ranges = After(sql, alias, target, query.sort, *position);
      for (size_t i = 0; i < ranges.size(); ++i) StrAppend(&where, i == 0 ? " AND ((" : ") OR (", ranges[i]);
      where += "))";
    }
    const std::string order = OrderBy(alias, target, query.sort, position != nullptr && position->backward);
    return StrCat("SELECT p.n, s.* FROM ", parents, " CROSS JOIN LATERAL (SELECT row_number() OVER (ORDER BY ", order,
                  ") AS r, ", NamedCells(alias, target, columns), " FROM ", tables, " WHERE ", join, " AND ", where,
                  " ORDER BY ", order, " LIMIT ", query.limit + 1, ") s", which);
  };
  std::string rows;
  if (from == nullptr) {
    rows = lists(nullptr, "");
  } else {
    const std::string number = sql.Bind(StrCat(from->parent), "bigint");
    if (!from->only) rows = StrCat(lists(nullptr, StrCat(" WHERE p.n <> ", number)), " UNION ALL ");
    rows += lists(&from->position, StrCat(" WHERE p.n = ", number));
  }
  StrAppend(&sql.text, "SELECT ", key >= 0 ? "" : "n, ", OuterCells(columns), " FROM (", rows, ") l ORDER BY n, r");
}

void BuildTogether(SqlBuilder& sql, const Resource& parent, const Expansion& expansion, const Columns& columns) {
  const ListQuery& query = *expansion.query;
  const Resource& target = *query.resource;
  const Field& theirs = target.fields[static_cast<size_t>(PlainKey(parent, expansion))];
  const Field& ours = parent.fields[FieldsOfColumns(parent, expansion.relation->columns)[0]];
  const auto filled = [&](std::string_view cast, int index) {
    return sql.Bind(std::nullopt, cast, {.kind = Source::Kind::kKey, .index = index});
  };
  const std::string array = filled(CastName(ours.type) + "[]", 0), most = filled("bigint", 1);
  const auto rows = [&](std::string_view where) {
    const std::string alias = sql.NewAlias();
    return std::pair(alias, StrCat("SELECT ", NamedCells(alias, target, columns), " FROM ", TableOf(target), " ", alias,
                                   " WHERE ", Column(alias, theirs), where, " AND ", Conditions(sql, alias, query)));
  };
  const std::string all = rows(StrCat(" = ANY(", array, ")")).second;
  const auto [alias, one] = rows(" = p.k0");
  const auto cell = [&](int field) { return StrCat("c", columns.at[static_cast<size_t>(field)]); };
  StrAppend(&sql.text, "WITH s AS MATERIALIZED (", all, " LIMIT ", most, " + 1), n AS MATERIALIZED (SELECT count(*) > ",
            most, " AS many FROM s) SELECT ", OuterCells(columns),
            " FROM (SELECT * FROM s WHERE NOT (SELECT many FROM n) UNION ALL SELECT l.* FROM unnest(", array,
            ") AS p(k0) CROSS JOIN LATERAL (", one, " ORDER BY ", OrderBy(alias, target, query.sort, false), " LIMIT ",
            query.limit + 1, ") l WHERE (SELECT many FROM n)) a ORDER BY ", cell(theirs.position), ", ",
            Order(query.sort, false, [&](const SortKey& sort) { return cell(sort.field); }));
}

void BuildGet(SqlBuilder& sql, const ListQuery& query, const Columns& columns) {
  const Resource& resource = *query.resource;
  const std::string alias = sql.NewAlias();
  std::string where;
  for (size_t i = 0; i < resource.key.size(); ++i) {
    const Field& field = resource.fields[resource.key[i]];
    const Source source{.kind = Source::Kind::kKey, .index = static_cast<int>(i)};
    StrAppend(&where, Column(alias, field), " = ", sql.Bind(std::nullopt, CastName(field.type), source), " AND ");
  }
  where += sql.Scope(alias, resource, query.access->where(Action::kRead), query.deleted);
  StrAppend(&sql.text, "SELECT ", SelectList(alias, resource, columns), " FROM ", TableOf(resource), " ", alias,
            " WHERE ", where);
}

void BuildGetMany(SqlBuilder& sql, const ListQuery& query, const Columns& columns,
                  const std::vector<std::vector<std::string>>& keys) {
  const Resource& resource = *query.resource;
  const std::string alias = sql.NewAlias();
  std::string arrays, names, where;
  for (size_t p = 0; p < resource.key.size(); ++p) {
    const Field& field = resource.fields[resource.key[p]];
    PgArray array;
    for (const std::vector<std::string>& key : keys) array.Add(key[p]);
    StrAppend(&arrays, p > 0 ? ", " : "", sql.Bind(std::move(array).Finish(), "text[]"));
    StrAppend(&names, "k", p, ", ");
    StrAppend(&where, Column(alias, field), " = v.k", p, "::", CastName(field.type), " AND ");
  }
  where += sql.Scope(alias, resource, query.access->where(Action::kRead), query.deleted);
  StrAppend(&sql.text, "SELECT v.n, ", SelectList(alias, resource, columns), " FROM unnest(", arrays,
            ") WITH ORDINALITY AS v(", names, "n) JOIN ", TableOf(resource), " ", alias, " ON ", where,
            " ORDER BY v.n");
}

}  // namespace mainstay::records
