// SPDX-License-Identifier: Apache-2.0
// One resource by itself: its table, fields, key, columns with a part to play, indexes and sorts.
#include <algorithm>
#include <optional>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "libs/base/clock.h"
#include "libs/base/strings.h"
#include "libs/catalog/builder.h"
#include "libs/catalog/sensitive.h"

namespace mainstay::catalog {
namespace {

constexpr int kMaxSortableText = 256;

bool IsInteger(const Field& field) {
  return !field.type.array && (field.type.family == TypeFamily::kInt16 || field.type.family == TypeFamily::kInt32 ||
                               field.type.family == TypeFamily::kInt64);
}
bool IsTime(const Field& field) {
  return !field.type.array &&
         (field.type.family == TypeFamily::kTimestamp || field.type.family == TypeFamily::kTimestampTz);
}
bool IsFilterable(const ColumnType& type) {
  return type.family != TypeFamily::kOther;
}
bool IsTsVector(const ColumnType& type) {
  return type.name == "tsvector" && !type.array;
}
bool IsNumber(TypeFamily family) {
  return family == TypeFamily::kInt16 || family == TypeFamily::kInt32 || family == TypeFamily::kInt64 ||
         family == TypeFamily::kDecimal || family == TypeFamily::kFloat32 || family == TypeFamily::kFloat64;
}

}  // namespace

std::vector<std::string> Builder::FieldNames(const Resource& resource, bool hidden) {
  std::vector<std::string> names;
  for (const Field& field : resource.fields)
    if (hidden || !field.hidden) names.push_back(field.name);
  return names;
}

int Builder::FindPosition(const Resource& resource, const std::string& name) {
  for (const Field& field : resource.fields)
    if (field.name == name) return field.position;
  for (const Field& field : resource.fields)
    if (field.column == name) return field.position;
  return -1;
}

int Builder::Position(const std::string& path, const Resource& resource, const std::string& name) {
  int position = FindPosition(resource, name);
  if (position < 0)
    Fail(path, StrCat(resource.query.empty() ? "the table " : "", TableText(resource), " has no column \"", name, "\"",
                      Hint(name, FieldNames(resource, true))));
  return position;
}

void Builder::BuildResource(const ResourceDeclaration& declaration, Resource& resource) {
  const std::string path = StrCat("resources.", declaration.name);
  resource.name = declaration.name;
  resource.schema = declaration.schema_name;
  resource.table = declaration.table_name;
  resource.query = declaration.query;
  resource.description = declaration.description;
  resource.default_limit = declaration.default_limit;
  resource.max_limit = declaration.max_limit;
  resource.offset_allowed = declaration.offset;
  resource.if_match_required = declaration.require_if_match;
  resource.cache = declaration.cache;
  resource.by_filter = declaration.by_filter;
  resource.changes = declaration.changes;
  resource.history = declaration.history;
  if (declaration.table_name.empty()) {  // said already by the parser
    broken_[declaration.name].push_back("names no table");
    return;
  }
  const Table* table = database_.Find(declaration.schema_name, declaration.table_name);
  if (table == nullptr && !declaration.query.empty()) {
    const auto reason = database_.broken_queries.find(declaration.name);
    Fail(path + ".query",
         StrCat("PostgreSQL refuses it: ", reason == database_.broken_queries.end() ? "no answer" : reason->second));
    return;
  }
  if (table == nullptr) {
    std::vector<std::string> names;
    for (const auto& [schema, name] : database_.names) names.push_back(StrCat(schema, ".", name));
    const std::string full = TableText(resource);
    std::string hint = Hint(full, names);
    for (const std::string& name : names)
      if (hint.empty() && absl::EndsWith(name, "." + declaration.table_name))
        hint = StrCat("; did you mean \"", name, "\"?");
    Fail(path + ".table", StrCat("the database has no table ", full, hint));
    return;
  }
  resource.view = table->kind == 'v' || table->kind == 'm';
  resource.read_only =
      declaration.read_only.value_or(resource.view || table->kind == 'f') || declaration.shared == "read";
  if (!resource.read_only && !table->writable)
    Fail(
        path + ".read_only",
        StrCat(TableText(resource), resource.query.empty() ? " is a view that PostgreSQL cannot write through; it" : "",
               " can only be read_only"));
  if (resource.description.empty()) resource.description = table->comment;
  resource.row_security = declaration.row_security;
  model_->row_security |= resource.row_security;
  if (resource.row_security && !table->row_security && !resource.view)
    Fail(path + ".row_security", StrCat("row security is not on for ", TableText(resource),
                                        "; ALTER TABLE … ENABLE ROW LEVEL SECURITY, and give it policies"));
  if (resource.row_security && resource.keeps_images())
    Fail(path + ".row_security",
         "`changes` and `history` show images of rows, which no policy covers; remove one of the two");
  BuildFields(declaration, *table, resource);
  BuildKey(declaration, *table, resource);
  BuildRoles(declaration, resource);
  BuildIndexes(declaration, *table, resource);
  BuildSorts(declaration, resource);
  for (const auto& [name, fields] : declaration.views) {
    std::vector<std::string>& out = resource.views[name];
    for (size_t i = 0; i < fields.size(); ++i) {
      const Field* field = VisibleField(StrCat(path, ".views.", name, "[", i, "]"), resource, fields[i]);
      if (field != nullptr) out.push_back(field->name);
    }
    if (fields.empty()) Fail(StrCat(path, ".views.", name), "a view shows at least one field", true);
  }
}

const Field* Builder::VisibleField(const std::string& path, const Resource& resource, const std::string& name) {
  const Field* field = resource.FindField(name);
  if (field == nullptr) {
    Fail(path,
         StrCat("the resource ", resource.name, " has no field \"", name, "\"", Hint(name, FieldNames(resource))));
  } else if (field->hidden) {
    Fail(path, StrCat("the field \"", name, "\" is hidden"));
    return nullptr;
  }
  return field;
}

void Builder::BuildFields(const ResourceDeclaration& declaration, const Table& table, Resource& resource) {
  const std::string path = StrCat("resources.", declaration.name, ".fields");
  std::set<const FieldDeclaration*> used;
  std::map<std::string, std::string> column_of;  // public name → column
  for (const Column& column : table.columns) {
    const std::string public_name = PublicName(column.name);
    const FieldDeclaration* chosen = nullptr;
    for (const FieldDeclaration& field : declaration.fields)
      if (!field.column.empty() ? field.column == column.name
                                : field.name == column.name || field.name == public_name) {
        if (chosen != nullptr) {
          Fail(StrCat(path, ".", field.name),
               StrCat("the column \"", column.name, "\" is the field \"", chosen->name, "\" already"), true);
          continue;
        }
        chosen = &field;
      }
    Field field;
    if (chosen != nullptr) {
      field = chosen->settings;
      used.insert(chosen);
    }
    field.name = chosen != nullptr ? chosen->name : public_name;
    field.column = column.name;
    field.type = column.type;
    field.position = static_cast<int>(resource.fields.size());
    field.nullable = column.nullable;
    field.has_default = column.has_default;
    field.generated = column.generated;
    field.hidden = field.hidden || (declaration.declared_only && chosen == nullptr);
    field.sensitive = chosen != nullptr && chosen->sensitive ? *chosen->sensitive : LooksSensitive(column.name);
    if (field.description.empty()) field.description = column.comment;
    if (field.generated) field.read_only = true;
    if (column.type.max_length > 0 && (!field.max_length || *field.max_length > column.type.max_length))
      field.max_length = column.type.max_length;
    auto [it, fresh] = column_of.try_emplace(field.name, column.name);
    if (!fresh) {
      Fail(chosen != nullptr ? StrCat(path, ".", field.name) : path,
           StrCat("the columns \"", it->second, "\" and \"", column.name, "\" would both be the field \"", field.name,
                  "\"; give one another name: `other_name: {column: ", QuoteName(column.name), "}`"),
           true);
    }
    if (chosen != nullptr) CheckField(StrCat(path, ".", field.name), field);
    resource.fields.push_back(std::move(field));
  }
  std::vector<std::string> columns;
  for (const Column& column : table.columns) columns.push_back(column.name);
  for (const FieldDeclaration& field : declaration.fields) {
    if (used.contains(&field)) continue;
    const std::string& wanted = field.column.empty() ? field.name : field.column;
    if (!field.column.empty() && table.FindColumn(field.column) != nullptr) continue;  // said above
    Fail(field.column.empty() ? StrCat(path, ".", field.name) : StrCat(path, ".", field.name, ".column"),
         StrCat("the table ", TableText(resource), " has no column \"", wanted, "\"", Hint(wanted, columns)),
         field.column.empty());
  }
}

void Builder::CheckField(const std::string& path, const Field& field) {
  const TypeFamily family = field.type.family;
  const bool text = family == TypeFamily::kText;
  auto only_text = [&](std::string_view key) {
    Fail(StrCat(path, ".", key), StrCat("is for text; the column \"", field.column, "\" is ", field.type.name));
  };
  if (!field.search.empty() && !(text && !field.type.array) && !IsTsVector(field.type))
    Fail(path + ".search", StrCat("is for text and tsvector; the column \"", field.column, "\" is ", field.type.name));
  if (field.min_length && !text && !field.type.array && family != TypeFamily::kBytes) only_text("min_length");
  if (declared_.places.contains(path + ".max_length") && !text && !field.type.array && family != TypeFamily::kBytes)
    only_text("max_length");
  if (!field.pattern.empty() && !text) only_text("pattern");
  if (field.normalize && !text) only_text("normalize");
  if (field.identifier && !text) only_text("identifier");
  if (field.required && (field.generated || field.hidden))
    Fail(path + ".required", "a field that clients can't write can't be required");
  for (const auto& [key, bound] : {std::pair("minimum", field.minimum), std::pair("maximum", field.maximum)}) {
    if (!bound) continue;
    double number = 0;
    const std::string place = StrCat(path, ".", key);
    if (field.type.array) {
      Fail(place, "is not for arrays");
    } else if (IsNumber(family)) {
      if (!absl::SimpleAtod(*bound, &number)) Fail(place, StrCat("\"", *bound, "\" is not a number"));
    } else if (family == TypeFamily::kTimestampTz) {
      if (!ParseTimestamp(*bound).ok()) Fail(place, StrCat("\"", *bound, "\" is not a time like 2026-01-31T00:00:00Z"));
    } else if (family != TypeFamily::kDate && family != TypeFamily::kTimestamp && family != TypeFamily::kTime &&
               family != TypeFamily::kInterval) {
      Fail(place, StrCat("is for numbers and times; the column \"", field.column, "\" is ", field.type.name));
    }
  }
  if (family == TypeFamily::kEnum) {
    for (size_t i = 0; i < field.one_of.size(); ++i)
      if (!Contains(field.type.enum_values, field.one_of[i]))
        Fail(StrCat(path, ".one_of[", i, "]"), StrCat("the type ", field.type.name, " has no value \"", field.one_of[i],
                                                      "\"", Hint(field.one_of[i], field.type.enum_values)));
  }
}

void Builder::BuildKey(const ResourceDeclaration& declaration, const Table& table, Resource& resource) {
  const std::string path = StrCat("resources.", declaration.name);
  if (!declaration.key.empty()) {
    for (size_t i = 0; i < declaration.key.size(); ++i) {
      int position = Position(StrCat(path, ".key[", i, "]"), resource, declaration.key[i]);
      if (position >= 0) resource.key.push_back(position);
    }
    if (!resource.view && table.kind != 'f') {
      std::set<std::string> key;
      for (int position : resource.key) key.insert(resource.fields[position].column);
      bool unique = std::any_of(table.indexes.begin(), table.indexes.end(), [&](const Index& index) {
        return index.unique && index.whole && !index.partial &&
               std::set<std::string>(index.columns.begin(), index.columns.end()) == key;
      });
      if (!unique && resource.key.size() == declaration.key.size())
        Fail(path + ".key", StrCat("no unique index of ", TableText(resource), " holds exactly these columns"));
    }
  } else if (!table.primary_key.empty()) {
    for (const std::string& column : table.primary_key) resource.key.push_back(FindPosition(resource, column));
  } else {
    Fail(path + (resource.query.empty() ? ".table" : ".query"),
         StrCat(TableText(resource),
                !resource.query.empty() ? " has no key"
                : resource.view         ? " is a view"
                                        : " has no primary key",
                "; name the columns that identify a row: `key: [COLUMN, …]`"));
    return;
  }
  bool chosen = true;
  for (int position : resource.key) {
    Field& field = resource.fields[position];
    if (field.hidden)
      Fail(path + ".fields." + field.name,
           StrCat("the field \"", field.name, "\" is part of the key and can't be hidden"), true);
    if (field.type.array || field.type.family == TypeFamily::kJson || field.type.family == TypeFamily::kOther ||
        field.type.family == TypeFamily::kRange)
      Fail(path + ".key",
           StrCat("the column \"", field.column, "\" of type ", field.type.name, " can't be part of a key"));
    if (field.has_default || field.generated) chosen = false;
    field.write_once = true;
  }
  resource.client_chooses_key = declaration.client_key || (chosen && !resource.read_only);
  if (declaration.client_key &&
      std::any_of(resource.key.begin(), resource.key.end(), [&](int p) { return resource.fields[p].generated; }))
    Fail(path + ".client_key", "PostgreSQL generates the key always; clients can't choose it");
  if (!resource.client_chooses_key) {
    for (int position : resource.key)
      if (resource.fields[position].has_default) resource.fields[position].read_only = true;
  }
}

void Builder::BuildRoles(const ResourceDeclaration& declaration, Resource& resource) {
  const std::string path = StrCat("resources.", declaration.name);
  auto take = [&](std::string_view key, const std::string& name, int* out) -> Field* {
    if (name.empty()) return nullptr;
    *out = Position(StrCat(path, ".", key), resource, name);
    return *out < 0 ? nullptr : &resource.fields[*out];
  };
  if (const Field* field = take("tenant", declaration.tenant, &resource.tenant)) {
    const TypeFamily family = field->type.family;
    if (field->type.array || (family != TypeFamily::kText && family != TypeFamily::kUuid &&
                              family != TypeFamily::kEnum && !IsInteger(*field)))
      Fail(path + ".tenant",
           StrCat("a tenant column is text, uuid or a whole number; \"", field->column, "\" is ", field->type.name));
  }
  if (Field* field = take("version", declaration.version, &resource.version)) {
    if (!IsInteger(*field))
      Fail(path + ".version",
           StrCat("a version column is a whole number; \"", field->column, "\" is ", field->type.name));
    if (field->nullable) Fail(path + ".version", StrCat("the version column \"", field->column, "\" must be NOT NULL"));
    field->read_only = true;
  }
  if (Field* field = take("deleted_at", declaration.deleted_at, &resource.deleted_at)) {
    if (!IsTime(*field))
      Fail(path + ".deleted_at", StrCat("is a timestamp; \"", field->column, "\" is ", field->type.name));
    if (!field->nullable)
      Fail(path + ".deleted_at",
           StrCat("the column \"", field->column, "\" must allow NULL: a row that is not deleted has none"));
    field->read_only = true;
  }
  for (auto [key, name, out] : {std::tuple("created_at", &declaration.created_at, &resource.created_at),
                                std::tuple("updated_at", &declaration.updated_at, &resource.updated_at)}) {
    if (Field* field = take(key, *name, out)) {
      if (!IsTime(*field))
        Fail(StrCat(path, ".", key), StrCat("is a timestamp; \"", field->column, "\" is ", field->type.name));
      field->read_only = true;
    }
  }
  if (resource.if_match_required && resource.version < 0)
    Fail(path + ".require_if_match", "needs a version column: `version: COLUMN`");
}

void Builder::BuildIndexes(const ResourceDeclaration& declaration, const Table& table, Resource& resource) {
  const std::string path = StrCat("resources.", declaration.name, ".fields");
  std::vector<bool> ordered(resource.fields.size(), false);
  auto position_of = [&](const std::string& column) {
    for (const Field& field : resource.fields)
      if (field.column == column) return field.position;
    return -1;
  };
  for (const Index& index : table.indexes) {
    std::vector<int> positions;
    for (const std::string& column : index.columns) positions.push_back(position_of(column));
    if (index.unique) resource.constraints[index.name] = positions;
    if (index.partial || positions.empty()) continue;
    std::vector<IndexPart> parts;
    for (size_t i = 0; i < index.order.size() && positions[i] >= 0; ++i)
      parts.push_back({positions[i], index.order[i].descending, index.order[i].nulls_first});
    if (!parts.empty()) resource.ordered_indexes.push_back(std::move(parts));
    if (index.unique && index.whole) {
      if (positions.size() == 1) resource.fields[positions[0]].unique = true;
      if (positions != resource.key) resource.unique_keys.push_back(positions);
    }
    // The tenant is always given, so what stands behind it in an index is found as cheaply as what leads.
    for (size_t i = 0; i < positions.size(); ++i) {
      Field& field = resource.fields[positions[i]];
      if (index.method == "btree" || (index.method == "hash" && i == 0)) {
        field.indexed = true;
        if (index.method == "btree") ordered[field.position] = true;
      }
      if (field.position != resource.tenant) break;
    }
  }
  for (const Constraint& constraint : table.constraints) {
    std::vector<int> positions;
    for (const std::string& column : constraint.columns) positions.push_back(position_of(column));
    resource.constraints[constraint.name] = positions;
  }
  for (Field& field : resource.fields) BuildSearch(StrCat(path, ".", field.name, ".search"), table, field);
  for (Field& field : resource.fields) {
    const FieldDeclaration* chosen = nullptr;
    for (const FieldDeclaration& f : declaration.fields)
      if (f.name == field.name) chosen = &f;
    const bool key = std::find(resource.key.begin(), resource.key.end(), field.position) != resource.key.end();
    const bool sized =
        field.type.family != TypeFamily::kText || (field.max_length && *field.max_length <= kMaxSortableText);
    field.filterable = !field.hidden && IsFilterable(field.type) &&
                       (chosen && chosen->filterable ? *chosen->filterable : field.indexed || key);
    // A key may be unbounded text: its sort is needed for every page; cursors stay within their size by its own
    // check.
    field.sortable = !field.hidden && IsOrdered(field.type) &&
                     (chosen && chosen->sortable ? *chosen->sortable : (ordered[field.position] && sized) || key);
    const std::string place = StrCat(path, ".", field.name);
    if (chosen && chosen->filterable.value_or(false)) {
      if (field.hidden) Fail(place + ".filterable", "a hidden field can't be filtered");
      if (!IsFilterable(field.type))
        Fail(place + ".filterable", StrCat("values of type ", field.type.name, " can't be compared"));
    }
    if (chosen && chosen->sortable.value_or(false)) {
      if (field.hidden) Fail(place + ".sortable", "a hidden field can't be sorted");
      if (!IsOrdered(field.type))
        Fail(place + ".sortable", StrCat("values of type ", field.type.name, " have no order"));
      if (!sized)
        Fail(place + ".sortable", StrCat("text to sort by needs a maximum length of at most ", kMaxSortableText,
                                         ", for it stands in cursors; say `max_length: ", kMaxSortableText, "`"));
    }
  }
}

// The configuration's name becomes its qualified one; unqualified names are PostgreSQL's own or of the schema public.
void Builder::BuildSearch(const std::string& path, const Table& table, Field& field) {
  if (field.search.empty()) return;
  const auto known = [&](std::string_view schema, std::string_view name) {
    return Contains(database_.search_configurations, QuoteName(schema, name));
  };
  const auto named = ParseTableName(field.search);
  std::string found;
  if (named.ok()) {
    if (!absl::StrContains(field.search, ".") && known("pg_catalog", named->second)) {
      found = QuoteName("pg_catalog", named->second);
    } else if (known(named->first, named->second)) {
      found = QuoteName(named->first, named->second);
    }
  }
  if (found.empty())
    Fail(path, StrCat("the database has no text search configuration \"", field.search, "\"; \\dF in psql lists them"));
  field.search = found;
  const bool indexed = std::any_of(table.indexes.begin(), table.indexes.end(), [&](const Index& index) {
    return (index.method == "gin" || index.method == "gist") &&
           (!index.whole || (!index.columns.empty() && index.columns[0] == field.column));
  });
  if (!indexed)
    Warn(path, StrCat("no GIN index serves this search, so it reads every row; for example: CREATE INDEX ON ",
                      QuoteName(table.schema, table.name), " USING gin (",
                      IsTsVector(field.type) ? QuoteName(field.column)
                                             : StrCat("to_tsvector('", found, "', ", QuoteName(field.column), ")"),
                      ")"));
}

void Builder::BuildSorts(const ResourceDeclaration& declaration, Resource& resource) {
  for (size_t i = 0; i < declaration.default_sort.size(); ++i) {
    const std::string path = StrCat("resources.", declaration.name, ".default_sort[", i, "]");
    std::string name = declaration.default_sort[i];
    const bool descending = !name.empty() && name[0] == '-';
    if (descending) name.erase(0, 1);
    const Field* field = VisibleField(path, resource, name);
    if (field == nullptr) continue;
    if (!field->sortable) {
      Fail(path, StrCat("the field \"", name,
                        "\" is not sortable; no index leads with it. Say `sortable: true` at the field if it should "
                        "be all the same"));
      continue;
    }
    resource.default_sort.emplace_back(field->position, descending);
  }
}

}  // namespace mainstay::catalog
