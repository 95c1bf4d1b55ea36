// SPDX-License-Identifier: Apache-2.0
// Two passes: each resource by itself (fields, key, sorts), then what names another (relations, permissions, routes,
// imports), because those need both sides.
#include "libs/catalog/build.h"

#include <algorithm>
#include <functional>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "libs/base/clock.h"
#include "libs/base/crypto.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/catalog/declarations.h"
#include "libs/catalog/filter_text.h"
#include "libs/catalog/sensitive.h"

namespace mainstay::catalog {
namespace {

constexpr int kMaxSortableText = 256;

bool Contains(const std::vector<std::string>& list, std::string_view name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

bool IsInteger(const Field& field) {
  return !field.type.array && (field.type.family == TypeFamily::kInt16 || field.type.family == TypeFamily::kInt32 ||
                               field.type.family == TypeFamily::kInt64);
}
bool IsTime(const Field& field) {
  return !field.type.array &&
         (field.type.family == TypeFamily::kTimestamp || field.type.family == TypeFamily::kTimestampTz);
}
bool IsOrdered(const ColumnType& type) {
  if (type.array) return false;
  switch (type.family) {
    case TypeFamily::kJson:
    case TypeFamily::kOther:
    case TypeFamily::kBytes:
    case TypeFamily::kRange:
      return false;
    default:
      return true;
  }
}
bool IsFilterable(const ColumnType& type) {
  return type.family != TypeFamily::kOther;
}
bool IsNumber(TypeFamily family) {
  return family == TypeFamily::kInt16 || family == TypeFamily::kInt32 || family == TypeFamily::kInt64 ||
         family == TypeFamily::kDecimal || family == TypeFamily::kFloat32 || family == TypeFamily::kFloat64;
}
// Columns that can be compared: the same family, or both whole numbers.
bool Comparable(const ColumnType& a, const ColumnType& b) {
  auto whole = [](const ColumnType& t) {
    return t.family == TypeFamily::kInt16 || t.family == TypeFamily::kInt32 || t.family == TypeFamily::kInt64;
  };
  return a.array == b.array && (a.family == b.family || (whole(a) && whole(b)));
}

std::string Hint(std::string_view name, const std::vector<std::string>& candidates) {
  std::string near = Nearest(name, candidates);
  return near.empty() ? "" : StrCat("; did you mean \"", near, "\"?");
}

class Builder {
 public:
  Builder(const Declarations& declared, const Database& database)
      : declared_(declared), database_(database), model_(std::make_shared<Model>(declared.model)) {}

  Built Run() {
    model_->hash = declared_.hash;
    model_->schema_hash = SchemaHash();
    for (const auto& [name, declaration] : declared_.resources) {
      Resource& resource = model_->resources[name];
      resource_ = name;
      BuildResource(declaration, resource);
    }
    for (const auto& [name, declaration] : declared_.resources)
      if (!broken_.contains(name)) BuildReferences(model_->resources[name]);
    // From here on a mistake in one resource must not turn into mistakes of those that name it.
    const std::set<std::string> broken = Broken();
    for (const auto& [name, declaration] : declared_.resources) {
      resource_ = name;
      if (!broken.contains(name)) BuildRelations(declaration, model_->resources[name], broken);
    }
    for (const auto& [name, declaration] : declared_.resources) {
      resource_ = name;
      if (!broken.contains(name)) BuildPermissions(declaration, model_->resources[name], broken);
    }
    for (const auto& [name, declaration] : declared_.resources)
      if (!broken.contains(name)) Warnings(declaration, model_->resources[name]);
    resource_.clear();
    CheckSources(broken);
    CheckSchedules();
    CheckImports(broken);
    CheckExports(broken);
    for (auto& [name, problems] : broken_) model_->resources[name].problem = absl::StrJoin(problems, "; ");
    return {model_, std::move(mistakes_), std::move(warnings_)};
  }

 private:
  // ---- mistakes ----

  void Fail(const std::string& path, std::string message, bool at_key = false) {
    if (!resource_.empty()) {
      std::vector<std::string>& problems = broken_[resource_];
      if (problems.size() < 3) problems.push_back(StrCat(path, ": ", message));
    }
    mistakes_.push_back(MistakeAt(declared_, path, std::move(message), at_key));
  }
  void Warn(const std::string& path, std::string message) {
    warnings_.push_back(MistakeAt(declared_, path, std::move(message), true));
  }
  std::set<std::string> Broken() const {
    std::set<std::string> names;
    for (const auto& [name, problems] : broken_) names.insert(name);
    return names;
  }

  // Everything that was read, without oids: the same after a dump and restore.
  std::string SchemaHash() const {
    std::string text = StrCat("database ", database_.default_collation, "\n");
    for (const auto& [name, table] : database_.tables) {
      StrAppend(&text, "table ", QuoteName(table.schema, table.name), " ", std::string(1, table.kind), " ",
                absl::StrJoin(table.primary_key, "\x01"), "\n");
      for (const Column& c : table.columns) {
        StrAppend(&text, c.name, "\x01", c.type.name, "\x01", c.type.max_length, " ", c.type.precision, " ",
                  c.type.scale, " ", c.nullable ? 1 : 0, c.has_default ? 1 : 0, c.generated ? 1 : 0, " ",
                  c.type.collation, " ", c.collation_version, " ", absl::StrJoin(c.type.enum_values, "\x01"), "\n");
      }
      for (const Index& i : table.indexes)
        StrAppend(&text, "index ", i.name, " ", absl::StrJoin(i.columns, "\x01"), " ", i.unique ? 1 : 0,
                  i.partial ? 1 : 0, i.whole ? 1 : 0, "\n");
      for (const Constraint& c : table.constraints)
        StrAppend(&text, "constraint ", c.name, " ", absl::StrJoin(c.columns, "\x01"), "\n");
      for (const ForeignKey& k : table.foreign_keys)
        StrAppend(&text, "key ", k.name, " ", k.target_schema, ".", k.target_table, " ",
                  absl::StrJoin(k.target_columns, "\x01"), "\n");
    }
    return HexEncode(Sha256(text));
  }

  // ---- one resource by itself ----

  static std::vector<std::string> FieldNames(const Resource& resource, bool hidden = false) {
    std::vector<std::string> names;
    for (const Field& field : resource.fields)
      if (hidden || !field.hidden) names.push_back(field.name);
    return names;
  }
  // By public name first, then by column.
  static int FindPosition(const Resource& resource, const std::string& name) {
    for (const Field& field : resource.fields)
      if (field.name == name) return field.position;
    for (const Field& field : resource.fields)
      if (field.column == name) return field.position;
    return -1;
  }
  int Position(const std::string& path, const Resource& resource, const std::string& name) {
    int position = FindPosition(resource, name);
    if (position < 0)
      Fail(path, StrCat("the table ", TableText(resource), " has no column \"", name, "\"",
                        Hint(name, FieldNames(resource, true))));
    return position;
  }
  static std::string TableText(const Resource& resource) { return StrCat(resource.schema, ".", resource.table); }

  void BuildResource(const ResourceDeclaration& declaration, Resource& resource) {
    const std::string path = StrCat("resources.", declaration.name);
    resource.name = declaration.name;
    resource.schema = declaration.schema_name;
    resource.table = declaration.table_name;
    resource.description = declaration.description;
    resource.default_limit = declaration.default_limit;
    resource.max_limit = declaration.max_limit;
    resource.offset_allowed = declaration.offset;
    resource.if_match_required = declaration.require_if_match;
    resource.cache = declaration.cache;
    if (declaration.table_name.empty()) {  // said already by the parser
      broken_[declaration.name].push_back("names no table");
      return;
    }
    const Table* table = database_.Find(declaration.schema_name, declaration.table_name);
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
      Fail(path + ".read_only",
           StrCat(TableText(resource), " is a view that PostgreSQL cannot write through; it can only be read_only"));
    if (resource.description.empty()) resource.description = table->comment;
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

  // Hidden ones answer like unknown ones to clients, but their author is told.
  const Field* VisibleField(const std::string& path, const Resource& resource, const std::string& name) {
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

  void BuildFields(const ResourceDeclaration& declaration, const Table& table, Resource& resource) {
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

  void CheckField(const std::string& path, const Field& field) {
    const TypeFamily family = field.type.family;
    const bool text = family == TypeFamily::kText;
    auto only_text = [&](std::string_view key) {
      Fail(StrCat(path, ".", key), StrCat("is for text; the column \"", field.column, "\" is ", field.type.name));
    };
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
        if (!ParseTimestamp(*bound).ok())
          Fail(place, StrCat("\"", *bound, "\" is not a time like 2026-01-31T00:00:00Z"));
      } else if (family != TypeFamily::kDate && family != TypeFamily::kTimestamp && family != TypeFamily::kTime &&
                 family != TypeFamily::kInterval) {
        Fail(place, StrCat("is for numbers and times; the column \"", field.column, "\" is ", field.type.name));
      }
    }
    if (family == TypeFamily::kEnum) {
      for (size_t i = 0; i < field.one_of.size(); ++i)
        if (!Contains(field.type.enum_values, field.one_of[i]))
          Fail(StrCat(path, ".one_of[", i, "]"),
               StrCat("the type ", field.type.name, " has no value \"", field.one_of[i], "\"",
                      Hint(field.one_of[i], field.type.enum_values)));
    }
  }

  void BuildKey(const ResourceDeclaration& declaration, const Table& table, Resource& resource) {
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
      Fail(path + ".table", StrCat(TableText(resource), resource.view ? " is a view" : " has no primary key",
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

  // Columns with a part to play: tenant, version, times.
  void BuildRoles(const ResourceDeclaration& declaration, Resource& resource) {
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
      if (field->nullable)
        Fail(path + ".version", StrCat("the version column \"", field->column, "\" must be NOT NULL"));
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

  void BuildIndexes(const ResourceDeclaration& declaration, const Table& table, Resource& resource) {
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

  void BuildSorts(const ResourceDeclaration& declaration, Resource& resource) {
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

  // ---- between resources ----

  std::vector<const Resource*> Over(std::string_view schema, std::string_view table) const {
    std::vector<const Resource*> found;
    for (const auto& [name, resource] : model_->resources)
      if (resource.schema == schema && resource.table == table) found.push_back(&resource);
    return found;
  }

  void BuildReferences(Resource& resource) {
    const Table* table = database_.Find(resource.schema, resource.table);
    if (table == nullptr) return;
    for (const ForeignKey& key : table->foreign_keys) {
      Reference reference;
      for (const std::string& column : key.columns)
        for (const Field& field : resource.fields)
          if (field.column == column) reference.fields.push_back(field.position);
      if (reference.fields.size() != key.columns.size()) continue;
      reference.target_schema = key.target_schema;
      reference.target_table = key.target_table;
      reference.target_columns = key.target_columns;
      std::vector<const Resource*> targets = Over(key.target_schema, key.target_table);
      if (targets.size() == 1) reference.target = targets[0]->name;
      resource.references.push_back(std::move(reference));
    }
  }

  std::vector<std::string> ResourceNames() const {
    std::vector<std::string> names;
    for (const auto& [name, resource] : model_->resources) names.push_back(name);
    return names;
  }

  // Public names or columns → columns. Empty when one is unknown (said already).
  std::vector<std::string> Columns(const std::string& path, const Resource& resource,
                                   const std::vector<std::string>& names) {
    std::vector<std::string> columns;
    for (size_t i = 0; i < names.size(); ++i) {
      int position = Position(StrCat(path, "[", i, "]"), resource, names[i]);
      if (position < 0) return {};
      columns.push_back(resource.fields[position].column);
    }
    return columns;
  }
  static std::vector<std::string> KeyColumns(const Resource& resource) {
    std::vector<std::string> columns;
    for (int position : resource.key) columns.push_back(resource.fields[position].column);
    return columns;
  }
  static bool SameColumns(std::vector<std::string> a, std::vector<std::string> b) {
    std::sort(a.begin(), a.end());
    std::sort(b.begin(), b.end());
    return a == b;
  }

  // How `from` points at `to`: columns here and there. `by`: columns of `from` (may be empty: the only foreign key
  // there is). False when a mistake was said.
  bool Resolve(const std::string& path, const Table& from, const Resource& to, const std::vector<std::string>& by,
               const std::vector<std::string>& references, std::vector<std::string>* here,
               std::vector<std::string>* there) {
    std::vector<const ForeignKey*> keys;
    for (const ForeignKey& key : from.foreign_keys)
      if (key.target_schema == to.schema && key.target_table == to.table &&
          (by.empty() || SameColumns(key.columns, by)))
        keys.push_back(&key);
    if (!references.empty() && by.empty()) {
      Fail(path + ".references", "stands only beside `by`");
      return false;
    }
    if (references.empty() && keys.size() == 1) {
      *here = keys[0]->columns;
      *there = keys[0]->target_columns;
      return true;
    }
    const std::string from_text = StrCat(from.schema, ".", from.name);
    if (by.empty()) {
      if (keys.empty()) {
        Fail(path,
             StrCat(from_text, " has no foreign key to ", TableText(to),
                    "; say which fields point there: `by: [FIELD, …]`"),
             true);
      } else {
        std::vector<std::string> choices;
        choices.reserve(keys.size());
        for (const ForeignKey* key : keys) choices.push_back(StrCat("[", absl::StrJoin(key->columns, ", "), "]"));
        Fail(path,
             StrCat(from_text, " has ", keys.size(), " foreign keys to ", TableText(to),
                    "; say which is meant: `by: ", absl::StrJoin(choices, "` or `by: "), "`"),
             true);
      }
      return false;
    }
    *here = by;
    *there = references.empty() ? KeyColumns(to) : Columns(path + ".references", to, references);
    if (there->empty()) return false;
    if (here->size() != there->size()) {
      Fail(path + ".by",
           StrCat(here->size(), here->size() == 1 ? " column points" : " columns point", " at the ", there->size(),
                  " of ", TableText(to), " (", absl::StrJoin(*there, ", "), "); give as many"));
      return false;
    }
    const Table* target = database_.Find(to.schema, to.table);
    for (size_t i = 0; i < here->size(); ++i) {
      const Column *ours = from.FindColumn((*here)[i]), *theirs = target->FindColumn((*there)[i]);
      if (!Comparable(ours->type, theirs->type)) {
        Fail(path + ".by", StrCat("the column \"", (*here)[i], "\" is ", ours->type.name, ", but \"", (*there)[i],
                                  "\" of ", TableText(to), " is ", theirs->type.name));
        return false;
      }
    }
    return true;
  }

  void BuildRelations(const ResourceDeclaration& declaration, Resource& resource, const std::set<std::string>& broken) {
    const Table& table = *database_.Find(resource.schema, resource.table);
    for (const RelationDeclaration& relation : declaration.relations) {
      const std::string path = StrCat("resources.", declaration.name, ".relations.", relation.name);
      if (relation.target.empty()) continue;
      if (resource.FindField(relation.name) != nullptr) {
        Fail(path, StrCat("the resource has a field \"", relation.name, "\" already; give the relation another name"),
             true);
        continue;
      }
      const Resource* target = model_->FindResource(relation.target);
      if (target == nullptr) {
        Fail(StrCat(path, relation.kind == Relation::Kind::kToOne ? ".to" : ".many"),
             StrCat("there is no resource \"", relation.target, "\"", Hint(relation.target, ResourceNames())));
        continue;
      }
      if (broken.contains(relation.target))
        continue;  // its own mistakes are said; this one goes on without the relation
      Relation out;
      out.name = relation.name;
      out.kind = relation.kind;
      out.target = relation.target;
      const Table& target_table = *database_.Find(target->schema, target->table);
      bool ok = false;
      if (relation.kind == Relation::Kind::kToOne) {
        std::vector<std::string> by = Columns(path + ".by", resource, relation.by);
        ok = by.size() == relation.by.size() &&
             Resolve(path, table, *target, by, relation.references, &out.columns, &out.target_columns);
      } else if (relation.kind == Relation::Kind::kToMany) {
        std::vector<std::string> by = Columns(path + ".by", *target, relation.by);
        ok = by.size() == relation.by.size() &&
             Resolve(path, target_table, resource, by, relation.references, &out.target_columns, &out.columns);
        if (ok && !Indexed(target_table, *target, out.target_columns))
          Warn(path, StrCat(TableText(*target), " has no index on (", absl::StrJoin(out.target_columns, ", "),
                            "): each expansion reads the whole table; CREATE INDEX ON ",
                            QuoteName(target->schema, target->table), " (", QuotedList(out.target_columns), ")"));
      } else {
        absl::StatusOr<std::pair<std::string, std::string>> name = ParseTableName(relation.through);
        const Table* through = name.ok() ? database_.Find(name->first, name->second) : nullptr;
        if (through == nullptr) {
          Fail(path + ".through", name.ok() ? StrCat("the database has no table ", name->first, ".", name->second)
                                            : std::string(name.status().message()));
          continue;
        }
        auto known = [&](std::string_view key, const std::vector<std::string>& columns) {
          for (size_t i = 0; i < columns.size(); ++i) {
            if (through->FindColumn(columns[i]) != nullptr) continue;
            std::vector<std::string> names;
            for (const Column& column : through->columns) names.push_back(column.name);
            Fail(StrCat(path, ".", key, "[", i, "]"), StrCat("the table ", relation.through, " has no column \"",
                                                             columns[i], "\"", Hint(columns[i], names)));
            return false;
          }
          return true;
        };
        ok = known("by", relation.by) && known("other", relation.other) &&
             Resolve(path, *through, resource, relation.by, {}, &out.through_columns, &out.columns) &&
             Resolve(path, *through, *target, relation.other, {}, &out.through_target_columns, &out.target_columns);
        out.through = QuoteName(through->schema, through->name);
      }
      if (ok) resource.relations[relation.name] = std::move(out);
    }
  }

  static std::string QuotedList(const std::vector<std::string>& columns) {
    std::vector<std::string> quoted;
    quoted.reserve(columns.size());
    for (const std::string& column : columns) quoted.push_back(QuoteName(column));
    return absl::StrJoin(quoted, ", ");
  }
  static bool Indexed(const Table& table, const Resource& resource, const std::vector<std::string>& columns) {
    if (resource.view) return true;  // not ours to say
    const std::string tenant = resource.tenant < 0 ? "" : resource.fields[resource.tenant].column;
    for (const Index& index : table.indexes) {
      if (index.partial) continue;
      std::vector<std::string> lead = index.columns;
      if (!lead.empty() && lead[0] == tenant && !Contains(columns, tenant)) lead.erase(lead.begin());
      if (!lead.empty() && Contains(columns, lead[0])) return true;
    }
    return false;
  }

  void BuildPermissions(const ResourceDeclaration& declaration, Resource& resource,
                        const std::set<std::string>& broken) {
    for (const PermissionDeclaration& given : declaration.permissions) {
      const std::string path = StrCat("resources.", declaration.name, ".permissions.", given.role);
      CheckRole(path, given.role);
      Permission permission;
      for (const std::string& action : given.actions) {
        const bool all = action == "all";
        permission.read |= all || action == "read";
        if (all && resource.read_only) continue;
        permission.create |= all || action == "create";
        permission.update |= all || action == "update";
        permission.remove |= all || action == "delete";
      }
      const bool writes = permission.create || permission.update || permission.remove;
      if (resource.read_only && writes) {
        Fail(path + ".actions", StrCat("the resource is read-only",
                                       declaration.shared == "read"
                                           ? " (shared: read; say `shared: write` to let every tenant change its rows)"
                                       : resource.view ? " (a view)"
                                                       : "",
                                       ", so only read can be permitted"));
      }
      auto list = [&](std::string_view key, const std::optional<std::vector<std::string>>& names, bool write) {
        std::vector<std::string> out;
        for (size_t i = 0; names && i < names->size(); ++i) {
          const std::string place = StrCat(path, ".", key, "[", i, "]");
          const Field* field = VisibleField(place, resource, (*names)[i]);
          if (field == nullptr) continue;
          if (write && field->read_only)
            Fail(place, StrCat("the field \"", field->name, "\" is read-only for everyone"));
          out.push_back(field->name);
        }
        return out;
      };
      auto except = [&](const std::vector<std::string>& names, bool write) {
        std::vector<std::string> out;
        for (const Field& field : resource.fields)
          if (!field.hidden && !Contains(names, field.name) && !(write && field.read_only)) out.push_back(field.name);
        return out;
      };
      if (given.read || given.read_except) {
        permission.all_fields_readable = false;
        permission.readable =
            given.read ? list("read", given.read, false) : except(list("read_except", given.read_except, false), false);
      }
      if (given.write || given.write_except) {
        permission.all_fields_writable = false;
        permission.writable = given.write ? list("write", given.write, true)
                                          : except(list("write_except", given.write_except, false), true);
        if (!writes) Fail(path + (given.write ? ".write" : ".write_except"), "the role has no action that writes");
      }
      permission.where = given.where;
      std::string problem = FilterTextProblem(*model_, resource, given.where, {.placeholders = true, .hidden = true});
      if (!problem.empty() && !NamesBroken(resource, given.where, declaration, broken)) Fail(path + ".where", problem);
      resource.permissions[given.role] = std::move(permission);
    }
  }
  // A predicate over a relation that was left out because its target is broken.
  static bool NamesBroken(const Resource& resource, std::string_view where, const ResourceDeclaration& declaration,
                          const std::set<std::string>& broken) {
    for (const RelationDeclaration& relation : declaration.relations)
      if (broken.contains(relation.target) && !resource.relations.contains(relation.name) &&
          where.find(relation.name) != std::string_view::npos)
        return true;
    return false;
  }

  void CheckRole(const std::string& path, const std::string& role) {
    if (role == "admin") {
      Fail(path, "the role admin is built in and may do everything; it needs no line here", true);
    } else if (absl::StartsWith(role, "source:")) {
      const std::string source = role.substr(7);
      std::vector<std::string> names;
      for (const auto& [name, unused] : model_->sources) names.push_back(name);
      if (!model_->sources.contains(source))
        Fail(path, StrCat("there is no source \"", source, "\"", Hint(source, names)), true);
    } else if (!model_->roles.contains(role)) {
      std::vector<std::string> names;
      for (const auto& [name, unused] : model_->roles) names.push_back(name);
      Fail(path,
           StrCat("there is no role \"", role, "\"", names.empty() ? "; declare it under `roles`" : Hint(role, names)),
           true);
    }
  }

  void Warnings(const ResourceDeclaration& declaration, const Resource& resource) {
    const std::string path = StrCat("resources.", declaration.name);
    const Table* table = database_.Find(resource.schema, resource.table);
    if (declaration.permissions.empty()) Warn(path, "no role has a permission: only admin can use this resource");
    if (table->row_security)
      Warn(path, StrCat("row security is on for ", TableText(resource),
                        ": the service roles see only what its policies let them see"));
    if (resource.tenant >= 0) {
      const Field& tenant = resource.fields[resource.tenant];
      if (tenant.nullable && !resource.view)
        Warn(path + ".tenant", StrCat("the column \"", tenant.column,
                                      "\" allows NULL: rows without a tenant are seen by no one but operators"));
      for (const Index& index : table->indexes) {
        const bool chosen = !index.primary || resource.client_chooses_key;
        if (index.unique && chosen && !Contains(index.columns, tenant.column) && !resource.read_only)
          Warn(path, StrCat("the unique index ", index.name, " (", absl::StrJoin(index.columns, ", "),
                            ") spans tenants: one tenant can find out that a value exists at another; put ",
                            tenant.column, " in front of it, or accept it knowingly"));
      }
    }
    for (const Field& field : resource.fields) {
      const std::string place = StrCat(path, ".fields.", field.name);
      if (!field.hidden && LooksSensitive(field.column) && !declared_.places.contains(place + ".sensitive") &&
          !declared_.places.contains(place + ".hidden"))
        Warn(declared_.places.contains(place) ? place : path,
             StrCat("the field \"", field.name,
                    "\" looks sensitive and can be read; say `hidden: true`, or `sensitive: true` to confirm"));
    }
    for (const auto& [role, permission] : resource.permissions)
      if (!permission.read && !permission.create && !permission.update && !permission.remove)
        Warn(StrCat(path, ".permissions.", role), "permits nothing");
  }

  // ---- webhooks ----

  template <typename Map>
  static std::vector<std::string> Keys(const Map& map) {
    std::vector<std::string> keys;
    keys.reserve(map.size());
    for (const auto& [key, value] : map) keys.push_back(key);
    return keys;
  }

  const Resource* TargetResource(const std::string& path, const std::string& name,
                                 const std::set<std::string>& broken) {
    if (name.empty()) return nullptr;
    const Resource* resource = model_->FindResource(name);
    if (resource == nullptr) Fail(path, StrCat("there is no resource \"", name, "\"", Hint(name, ResourceNames())));
    return resource == nullptr || broken.contains(name) ? nullptr : resource;
  }

  // The fields identify a row: the primary key or a unique key, the tenant always being part.
  bool IsKey(const Resource& resource, const std::vector<std::string>& fields) const {
    auto with_tenant = [&](std::vector<int> positions) {
      if (resource.tenant >= 0) positions.push_back(resource.tenant);
      return std::set<int>(positions.begin(), positions.end());
    };
    std::vector<int> given;
    for (const std::string& name : fields) {
      const Field* field = resource.FindField(name);
      if (field == nullptr) return true;  // said elsewhere
      given.push_back(field->position);
    }
    const std::set<int> wanted = with_tenant(given);
    if (wanted == with_tenant(resource.key)) return true;
    return std::any_of(resource.unique_keys.begin(), resource.unique_keys.end(),
                       [&](const std::vector<int>& key) { return with_tenant(key) == wanted; });
  }
  std::string KeyChoices(const Resource& resource) const {
    std::vector<std::string> choices;
    auto add = [&](const std::vector<int>& key) {
      std::vector<std::string> names;
      for (int position : key)
        if (position != resource.tenant || key.size() == 1) names.push_back(resource.fields[position].name);
      choices.push_back(StrCat("[", absl::StrJoin(names, ", "), "]"));
    };
    add(resource.key);
    for (const std::vector<int>& key : resource.unique_keys) add(key);
    return absl::StrJoin(choices, " or ");
  }

  void CheckSources(const std::set<std::string>& broken) {
    for (const auto& [name, source] : model_->sources) {
      for (size_t i = 0; i < source.routes.size(); ++i) {
        const Route& route = source.routes[i];
        const std::string path = StrCat("sources.", name, ".routes[", i, "]");
        if (route.fetch) CheckFetch(path + ".fetch", *route.fetch);
        if (route.job && !model_->queues.contains(route.job->queue))
          Fail(path + ".job.queue",
               StrCat("there is no queue \"", route.job->queue, "\"", Hint(route.job->queue, Keys(model_->queues))));
        for (size_t j = 0; j < route.apply.size(); ++j)
          CheckApply(StrCat(path, ".apply[", j, "]"), "source:" + name, route.apply[j], broken);
      }
    }
  }

  void CheckFetch(const std::string& path, const FetchRoute& fetch) {
    if (fetch.provider.empty() || fetch.operation.empty()) return;
    auto provider = model_->providers.find(fetch.provider);
    if (provider == model_->providers.end()) {
      Fail(path + ".provider",
           StrCat("there is no provider \"", fetch.provider, "\"", Hint(fetch.provider, Keys(model_->providers))));
      return;
    }
    auto operation = provider->second.operations.find(fetch.operation);
    if (operation == provider->second.operations.end()) {
      Fail(path + ".operation", StrCat("the provider ", fetch.provider, " has no operation \"", fetch.operation, "\"",
                                       Hint(fetch.operation, Keys(provider->second.operations))));
      return;
    }
    std::vector<std::string> known;
    for (std::string param : operation->second.params) {
      const bool optional = absl::EndsWith(param, "?");
      if (optional) param.pop_back();
      if (!optional && !fetch.params.contains(param))
        Fail(path + ".params", StrCat("the operation ", fetch.operation, " needs the parameter \"", param, "\""));
      known.push_back(std::move(param));
    }
    for (const auto& [param, expression] : fetch.params)
      if (!Contains(known, param))
        Fail(StrCat(path, ".params.", param),
             StrCat("the operation ", fetch.operation, " has no parameter \"", param, "\"", Hint(param, known)), true);
  }

  void CheckApply(const std::string& path, const std::string& role, const ApplyRoute& apply,
                  const std::set<std::string>& broken) {
    const Resource* resource = TargetResource(path + ".resource", apply.resource, broken);
    if (resource == nullptr) return;
    auto found = resource->permissions.find(role);
    const bool creates = apply.mode != "update", updates = apply.mode != "create";
    if (found == resource->permissions.end()) {
      Fail(path + ".resource",
           StrCat("the role ", role, " may not write to ", apply.resource, "; add under resources.", apply.resource,
                  ".permissions: `'", role, "': {actions: [read, create, update]}`"));
      return;
    }
    const Permission& permission = found->second;
    if (creates && !permission.create)
      Fail(path + ".mode", StrCat("the role ", role, " lacks the action create on ", apply.resource));
    if (updates && !permission.update)
      Fail(path + ".mode", StrCat("the role ", role, " lacks the action update on ", apply.resource));
    for (size_t i = 0; i < apply.key.size(); ++i) {
      VisibleField(StrCat(path, ".key[", i, "]"), *resource, apply.key[i]);
      if (!apply.map.contains(apply.key[i]))
        Fail(StrCat(path, ".key[", i, "]"), StrCat("the key's field \"", apply.key[i], "\" has no value in `map`"));
    }
    if (!apply.key.empty() && !IsKey(*resource, apply.key))
      Fail(path + ".key",
           StrCat("does not identify a row of ", apply.resource, "; its keys are ", KeyChoices(*resource)));
    if (apply.key.empty()) {
      for (int position : resource->key)
        if (!apply.map.contains(resource->fields[position].name) && updates)
          Fail(path + ".map", StrCat("the key's field \"", resource->fields[position].name, "\" has no value"));
    }
    for (const auto& [name, expression] : apply.map) {
      const std::string place = StrCat(path, ".map.", name);
      const Field* field = VisibleKeyed(place, *resource, name);
      if (field == nullptr) continue;
      const bool identifies =
          Contains(apply.key, name) || (apply.key.empty() && std::find(resource->key.begin(), resource->key.end(),
                                                                       field->position) != resource->key.end());
      if (identifies && !creates) continue;
      if (field->position == resource->tenant) {
        Fail(place, "the tenant comes from the source (`tenant` or `tenant_from`), not from a mapping", true);
      } else if (field->read_only) {
        Fail(place,
             StrCat("the field \"", name, "\" is read-only",
                    identifies ? "; say `client_key: true` at the resource if the sender chooses the key" : ""),
             true);
      } else if (!permission.all_fields_writable && !Contains(permission.writable, name)) {
        Fail(place, StrCat("the role ", role, " may not write the field \"", name, "\" of ", apply.resource), true);
      }
      if (field->type.family == TypeFamily::kEnum && absl::StartsWith(expression, "const:") &&
          !Contains(field->type.enum_values, expression.substr(6)))
        Fail(place, StrCat("\"", expression.substr(6), "\" is no value of ", field->type.name,
                           Hint(expression.substr(6), field->type.enum_values)));
    }
    if (!apply.stale_field.empty()) {
      const Field* field = VisibleField(path + ".stale", *resource, apply.stale_field);
      if (field != nullptr && !apply.map.contains(apply.stale_field))
        Fail(path + ".stale", StrCat("the field \"", apply.stale_field, "\" has no value in `map` to compare with"));
      if (field != nullptr && !IsOrdered(field->type))
        Fail(path + ".stale", StrCat("values of type ", field->type.name, " have no order"));
    }
    if (!apply.status_field.empty()) {
      const Field* field = VisibleField(path + ".transitions.field", *resource, apply.status_field);
      if (field != nullptr && field->type.family == TypeFamily::kEnum) {
        const std::vector<std::string>& labels = field->type.enum_values;
        for (const auto& [from, targets] : apply.transitions) {
          const std::string place = StrCat(path, ".transitions.allowed.", from);
          if (!Contains(labels, from))
            Fail(place, StrCat("\"", from, "\" is no value of ", field->type.name, Hint(from, labels)), true);
          for (size_t i = 0; i < targets.size(); ++i)
            if (!Contains(labels, targets[i]))
              Fail(StrCat(place, "[", i, "]"),
                   StrCat("\"", targets[i], "\" is no value of ", field->type.name, Hint(targets[i], labels)));
        }
      }
    }
  }
  const Field* VisibleKeyed(const std::string& path, const Resource& resource, const std::string& name) {
    const Field* field = resource.FindField(name);
    if (field != nullptr && !field->hidden) return field;
    Fail(path,
         field == nullptr
             ? StrCat("the resource ", resource.name, " has no field \"", name, "\"", Hint(name, FieldNames(resource)))
             : StrCat("the field \"", name, "\" is hidden"),
         true);
    return nullptr;
  }

  // ---- jobs, imports, exports ----

  void CheckSchedules() {
    for (const auto& [name, schedule] : model_->schedules) {
      if (!model_->queues.contains(schedule.queue))
        Fail(StrCat("schedules.", name, ".queue"),
             StrCat("there is no queue \"", schedule.queue, "\"", Hint(schedule.queue, Keys(model_->queues))));
      if (!schedule.role.empty() && schedule.role != "admin" && !model_->roles.contains(schedule.role))
        Fail(StrCat("schedules.", name, ".role"),
             StrCat("there is no role \"", schedule.role, "\"", Hint(schedule.role, Keys(model_->roles))));
    }
  }

  void CheckImports(const std::set<std::string>& broken) {
    for (auto& [name, import] : model_->imports) {
      const std::string path = "imports." + name;
      const Resource* resource = TargetResource(path + ".resource", import.resource, broken);
      if (resource == nullptr) continue;
      if (resource->read_only) Fail(path + ".resource", StrCat("the resource ", import.resource, " is read-only"));
      bool known = true;
      for (size_t i = 0; i < import.key.size(); ++i)
        known &= VisibleField(StrCat(path, ".key[", i, "]"), *resource, import.key[i]) != nullptr;
      if (known && !import.key.empty() && !IsKey(*resource, import.key))
        Fail(path + ".key",
             StrCat("does not identify a row of ", import.resource, "; its keys are ", KeyChoices(*resource)));
      for (const auto& [header, field_name] : import.columns) {
        const std::string place = StrCat(path, ".columns.", header);
        const Field* field = VisibleField(place, *resource, field_name);
        const bool identifies = field != nullptr && (Contains(import.key, field_name) ||
                                                     std::find(resource->key.begin(), resource->key.end(),
                                                               field->position) != resource->key.end());
        if (field != nullptr && field->read_only && !identifies)
          Fail(place, StrCat("the field \"", field_name, "\" is read-only"));
      }
    }
  }

  void CheckExports(const std::set<std::string>& broken) {
    for (auto& [name, mapping] : model_->exports) {
      const std::string path = "exports." + name;
      const Resource* resource = TargetResource(path + ".resource", mapping.resource, broken);
      if (resource == nullptr) continue;
      for (size_t i = 0; i < mapping.fields.size(); ++i)
        VisibleField(StrCat(path, ".fields[", i, "]"), *resource, mapping.fields[i]);
      std::string problem = FilterTextProblem(*model_, *resource, mapping.query, {.sort = true});
      if (!problem.empty()) Fail(path + ".query", problem);
    }
  }

  const Declarations& declared_;
  const Database& database_;
  std::shared_ptr<Model> model_;
  std::string resource_;  // the one being built: its mistakes break it
  std::map<std::string, std::vector<std::string>> broken_;
  std::vector<Mistake> mistakes_, warnings_;
};

}  // namespace

Built Build(const Document& document, const Database& database) {
  return Builder(document.declarations(), database).Run();
}

}  // namespace mainstay::catalog
