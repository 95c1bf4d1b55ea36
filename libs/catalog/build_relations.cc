// SPDX-License-Identifier: Apache-2.0
// What names another resource: references, relations, permissions with their conditions; and warnings.
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "libs/base/strings.h"
#include "libs/catalog/builder.h"
#include "libs/catalog/filter_text.h"
#include "libs/catalog/sensitive.h"

namespace mainstay::catalog {
namespace {

// Columns that can be compared: the same family, or both whole numbers.
bool Comparable(const ColumnType& a, const ColumnType& b) {
  auto whole = [](const ColumnType& t) {
    return t.family == TypeFamily::kInt16 || t.family == TypeFamily::kInt32 || t.family == TypeFamily::kInt64;
  };
  return a.array == b.array && (a.family == b.family || (whole(a) && whole(b)));
}

}  // namespace

std::vector<const Resource*> Builder::Over(std::string_view schema, std::string_view table) const {
  std::vector<const Resource*> found;
  for (const auto& [name, resource] : model_->resources)
    if (resource.schema == schema && resource.table == table) found.push_back(&resource);
  return found;
}

void Builder::BuildReferences(Resource& resource) {
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

std::vector<std::string> Builder::ResourceNames() const {
  std::vector<std::string> names;
  for (const auto& [name, resource] : model_->resources) names.push_back(name);
  return names;
}

std::vector<std::string> Builder::Columns(const std::string& path, const Resource& resource,
                                          const std::vector<std::string>& names) {
  std::vector<std::string> columns;
  for (size_t i = 0; i < names.size(); ++i) {
    int position = Position(StrCat(path, "[", i, "]"), resource, names[i]);
    if (position < 0) return {};
    columns.push_back(resource.fields[position].column);
  }
  return columns;
}

std::vector<std::string> Builder::KeyColumns(const Resource& resource) {
  std::vector<std::string> columns;
  for (int position : resource.key) columns.push_back(resource.fields[position].column);
  return columns;
}

bool Builder::SameColumns(std::vector<std::string> a, std::vector<std::string> b) {
  std::sort(a.begin(), a.end());
  std::sort(b.begin(), b.end());
  return a == b;
}

bool Builder::Resolve(const std::string& path, const Table& from, const Resource& to,
                      const std::vector<std::string>& by, const std::vector<std::string>& references,
                      std::vector<std::string>* here, std::vector<std::string>* there) {
  std::vector<const ForeignKey*> keys;
  for (const ForeignKey& key : from.foreign_keys)
    if (key.target_schema == to.schema && key.target_table == to.table && (by.empty() || SameColumns(key.columns, by)))
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

void Builder::BuildRelations(const ResourceDeclaration& declaration, Resource& resource,
                             const std::set<std::string>& broken) {
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
    if (broken.contains(relation.target)) continue;  // its own mistakes are said; this one goes on without the relation
    Relation out;
    out.name = relation.name;
    out.kind = relation.kind;
    out.target = relation.target;
    out.nested = relation.nested;
    if (relation.nested && target->read_only)
      Fail(path + ".nested", StrCat("the resource ", relation.target, " is read-only"));
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
          Fail(StrCat(path, ".", key, "[", i, "]"),
               StrCat("the table ", relation.through, " has no column \"", columns[i], "\"", Hint(columns[i], names)));
          return false;
        }
        return true;
      };
      ok = known("by", relation.by) && known("other", relation.other) &&
           Resolve(path, *through, resource, relation.by, {}, &out.through_columns, &out.columns) &&
           Resolve(path, *through, *target, relation.other, {}, &out.through_target_columns, &out.target_columns);
      out.through = QuoteName(through->schema, through->name);
    }
    if (ok && relation.nested && !SameColumns(out.columns, KeyColumns(resource)))
      Fail(path + ".nested", StrCat("only rows that point at the key of ", resource.name, " can be created with one"));
    if (ok) resource.relations[relation.name] = std::move(out);
  }
}

std::string Builder::QuotedList(const std::vector<std::string>& columns) {
  std::vector<std::string> quoted;
  quoted.reserve(columns.size());
  for (const std::string& column : columns) quoted.push_back(QuoteName(column));
  return absl::StrJoin(quoted, ", ");
}

bool Builder::Indexed(const Table& table, const Resource& resource, const std::vector<std::string>& columns) {
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

void Builder::BuildPermissions(const ResourceDeclaration& declaration, Resource& resource,
                               const std::set<std::string>& broken) {
  for (const PermissionDeclaration& given : declaration.permissions) {
    const std::string path = StrCat("resources.", declaration.name, ".permissions.", given.role);
    CheckRole(path, given.role);
    Permission permission;
    for (const std::string& action : given.actions) {
      const bool all = action == "all";
      permission.read |= all || action == "read";
      permission.aggregate |= all || action == "aggregate";
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
                                     ", so only read and aggregate can be permitted"));
    }
    if (permission.aggregate && !permission.read) Fail(path + ".actions", "aggregate needs read beside it");
    auto list = [&](std::string_view key, const std::optional<std::vector<std::string>>& names, bool write) {
      std::vector<std::string> out;
      for (size_t i = 0; names && i < names->size(); ++i) {
        const std::string place = StrCat(path, ".", key, "[", i, "]");
        const Field* field = VisibleField(place, resource, (*names)[i]);
        if (field == nullptr) continue;
        if (write && field->read_only) Fail(place, StrCat("the field \"", field->name, "\" is read-only for everyone"));
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

void Builder::BuildWriting(const ResourceDeclaration& declaration, Resource& resource,
                           const std::set<std::string>& broken) {
  const std::string path = StrCat("resources.", declaration.name);
  if (resource.read_only)
    for (const char* key : {"checks", "jobs", "by_filter", "changes", "history"})
      if (declared_.places.contains(StrCat(path, ".", key)))
        Fail(StrCat(path, ".", key), "the resource is read-only: nothing is ever written here", true);
  const auto text = [&](const std::string& place, const std::string& filter, bool fields) {
    const std::string problem =
        FilterTextProblem(*model_, resource, filter, {.placeholders = !fields, .fields = fields, .hidden = true});
    if (!problem.empty() && !NamesBroken(resource, filter, declaration, broken)) Fail(place, problem);
  };
  const auto positions = [&](const std::string& place, const std::vector<std::string>& names) {
    std::vector<int> out;
    for (size_t i = 0; i < names.size(); ++i)
      if (const Field* field = VisibleField(StrCat(place, "[", i, "]"), resource, names[i]); field != nullptr)
        out.push_back(field->position);
    return out;
  };
  for (const CheckDeclaration& given : declaration.checks) {
    const std::string place = StrCat(path, ".checks.", given.settings.name);
    RowCheck check = given.settings;
    text(place + ".if", check.condition, true);
    text(place + ".that", check.that, true);
    check.fields = positions(place + ".fields", given.fields);
    resource.checks.push_back(std::move(check));
  }
  for (const WriteJobDeclaration& given : declaration.jobs) {
    const std::string place = StrCat(path, ".jobs.", given.settings.name);
    WriteJob job = given.settings;
    text(place + ".when", job.when, false);
    job.changed = positions(place + ".changed", given.changed);
    job.args = positions(place + ".args", given.args);
    if (!model_->queues.contains(job.queue))
      Fail(place + ".queue", StrCat("there is no queue \"", job.queue, "\"", Hint(job.queue, Keys(model_->queues))));
    resource.jobs.push_back(std::move(job));
  }
}

bool Builder::NamesBroken(const Resource& resource, std::string_view where, const ResourceDeclaration& declaration,
                          const std::set<std::string>& broken) {
  for (const RelationDeclaration& relation : declaration.relations)
    if (broken.contains(relation.target) && !resource.relations.contains(relation.name) &&
        where.find(relation.name) != std::string_view::npos)
      return true;
  return false;
}

void Builder::CheckRole(const std::string& path, const std::string& role) {
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

void Builder::Warnings(const ResourceDeclaration& declaration, const Resource& resource) {
  const std::string path = StrCat("resources.", declaration.name);
  const Table* table = database_.Find(resource.schema, resource.table);
  if (declaration.permissions.empty()) Warn(path, "no role has a permission: only admin can use this resource");
  if (table->row_security && !resource.row_security)
    Warn(path,
         StrCat("row security is on for ", TableText(resource),
                ": the service roles see only what its policies let them see; `row_security: true` tells these who "
                "asks"));
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

}  // namespace mainstay::catalog
