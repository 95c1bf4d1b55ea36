// SPDX-License-Identifier: Apache-2.0
#include "libs/catalog/init.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/catalog/build.h"
#include "libs/catalog/declarations.h"
#include "libs/catalog/introspect.h"
#include "libs/catalog/sensitive.h"

namespace mainstay::catalog {
namespace {

std::string Plural(const std::string& word) {
  auto ends = [&](std::string_view end) { return absl::EndsWith(word, ToAbsl(end)); };
  if (ends("s") && !ends("ss") && !ends("us") && !ends("is")) return word;  // plural already, most likely
  if (ends("y") && word.size() > 1 && std::string_view("aeiou").find(word[word.size() - 2]) == std::string_view::npos)
    return word.substr(0, word.size() - 1) + "ies";
  if (ends("s") || ends("x") || ends("z") || ends("ch") || ends("sh")) return word + "es";
  return word + "s";
}
std::string Singular(const std::string& word) {
  auto ends = [&](std::string_view end) { return absl::EndsWith(word, ToAbsl(end)); };
  if (ends("ies") && word.size() > 4) return word.substr(0, word.size() - 3) + "y";
  if (ends("sses") || ends("xes") || ends("ches") || ends("shes")) return word.substr(0, word.size() - 2);
  if (ends("s") && !ends("ss") && !ends("us") && !ends("is") && word.size() > 2) return word.substr(0, word.size() - 1);
  return word;
}

// A name or text as YAML, quoted where it isn't plain.
std::string AsYaml(const std::string& text) {
  const bool plain =
      !text.empty() &&
      std::all_of(text.begin(), text.end(),
                  [](char c) {
                    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
                  }) &&
      text[0] >= 'a' && text != "null" && text != "true" && text != "false" && text != "yes" && text != "no" &&
      text != "on" && text != "off" && text != "y" && text != "n";
  // "${" begins a variable.
  return plain ? text : absl::StrReplaceAll(JsonQuote(text), {{"${", "$${"}});
}
std::string TablePart(const std::string& part) {
  return part.find_first_of(".\"") == std::string::npos ? part : QuoteName(part);
}
std::string TableText(const Table& table) {
  return StrCat(TablePart(table.schema), ".", TablePart(table.name));
}
std::string YamlList(const std::vector<std::string>& names) {
  std::vector<std::string> out;
  out.reserve(names.size());
  for (const std::string& name : names) out.push_back(AsYaml(name));
  return out.size() == 1 ? out[0] : StrCat("[", absl::StrJoin(out, ", "), "]");
}

struct Draftee {
  const Table* table;
  std::string name;                                            // of the resource
  std::map<std::string, std::string> field_of;                 // column → public name
  std::vector<std::string> renamed, hidden;                    // columns
  std::vector<std::pair<std::string, std::string>> relations;  // name, text after the colon
  std::set<std::string> taken;                                 // names of fields and relations
};

std::string Unused(std::set<std::string>& taken, std::string name) {
  name = name.substr(0, 58);
  if (IsReservedName(name)) name += "_";
  std::string out = name;
  for (int i = 2; !taken.insert(out).second; ++i) out = StrCat(name, "_", i);
  return out;
}

const Column* Named(const Table& table, std::initializer_list<const char*> names, bool (*fits)(const Column&)) {
  for (const char* name : names)
    if (const Column* column = table.FindColumn(name); column != nullptr && fits(*column)) return column;
  return nullptr;
}
bool IsTimestamp(const Column& c) {
  return !c.type.array && (c.type.family == TypeFamily::kTimestamp || c.type.family == TypeFamily::kTimestampTz);
}
bool IsNullableTimestamp(const Column& c) {
  return IsTimestamp(c) && c.nullable;
}
bool IsVersion(const Column& c) {
  return !c.type.array && !c.nullable &&
         (c.type.family == TypeFamily::kInt64 || c.type.family == TypeFamily::kInt32 ||
          c.type.family == TypeFamily::kInt16) &&
         !c.generated;
}
bool IsTenantType(const Column& c) {
  return !c.type.array && (c.type.family == TypeFamily::kText || c.type.family == TypeFamily::kUuid ||
                           c.type.family == TypeFamily::kInt64 || c.type.family == TypeFamily::kInt32);
}

bool CanBeKey(const Table& table) {
  if (table.primary_key.empty()) return false;
  for (const std::string& name : table.primary_key) {
    const Column* column = table.FindColumn(name);
    if (column == nullptr || column->type.array || column->type.family == TypeFamily::kOther ||
        column->type.family == TypeFamily::kJson || column->type.family == TypeFamily::kRange)
      return false;
  }
  return true;
}

std::vector<std::string> FieldsOf(const Draftee& draftee, const std::vector<std::string>& columns) {
  std::vector<std::string> fields;
  fields.reserve(columns.size());
  for (const std::string& column : columns) fields.push_back(draftee.field_of.at(column));
  return fields;
}

// A table that only joins two others: its key is both its foreign keys.
bool IsJoin(const Table& table) {
  if (table.foreign_keys.size() != 2) return false;
  std::set<std::string> columns(table.foreign_keys[0].columns.begin(), table.foreign_keys[0].columns.end());
  columns.insert(table.foreign_keys[1].columns.begin(), table.foreign_keys[1].columns.end());
  return !table.primary_key.empty() &&
         columns == std::set<std::string>(table.primary_key.begin(), table.primary_key.end());
}

}  // namespace

absl::StatusOr<std::string> Draft(pqxx::transaction_base& tx, const std::vector<std::string>& schemas) {
  ASSIGN_OR_RETURN(Database database, IntrospectSchemas(tx, schemas));

  std::vector<Draftee> draftees;
  std::vector<std::string> left_out;
  std::map<std::string, int> uses;  // resource names before they are told apart
  auto base_name = [](const Table& table) { return absl::StrReplaceAll(Plural(PublicName(table.name)), {{"_", "-"}}); };
  auto usable = [](const Table& table) {
    return !table.partition && table.kind != 'v' && table.kind != 'm' && CanBeKey(table);
  };
  for (const auto& [name, table] : database.tables)
    if (usable(table)) ++uses[base_name(table)];
  std::set<std::string> resource_names;
  for (const auto& [name, table] : database.tables) {
    if (table.partition) continue;
    if (!usable(table)) {
      left_out.push_back(StrCat(
          TableText(table), table.kind == 'v' || table.kind == 'm'
                                ? ": a view; name the columns that identify a row by `key` to expose it"
                                : ": no usable primary key; name the columns of a unique index by `key` to expose it"));
      continue;
    }
    Draftee draftee{&table, base_name(table), {}, {}, {}, {}, {}};
    if (uses[draftee.name] > 1)
      draftee.name = StrCat(absl::StrReplaceAll(PublicName(table.schema), {{"_", "-"}}), "-", draftee.name);
    for (std::string base = draftee.name.substr(0, 58), n = "2"; !resource_names.insert(draftee.name).second;
         n = std::to_string(std::stoi(n) + 1))
      draftee.name = StrCat(base, "-", n);
    while (absl::StrContains(draftee.name, "--")) draftee.name = absl::StrReplaceAll(draftee.name, {{"--", "-"}});
    while (absl::EndsWith(draftee.name, "-")) draftee.name.pop_back();
    // Plain names first, so that a made one yields to them.
    for (int made = 0; made < 2; ++made) {
      for (const Column& column : table.columns) {
        const bool plain = IsFieldName(column.name) && !IsReservedName(column.name);
        if (plain == (made == 1)) continue;
        draftee.field_of[column.name] = Unused(draftee.taken, PublicName(column.name));
        if (draftee.field_of[column.name] != PublicName(column.name)) draftee.renamed.push_back(column.name);
      }
    }
    for (const Column& column : table.columns) {
      const bool key =
          std::find(table.primary_key.begin(), table.primary_key.end(), column.name) != table.primary_key.end();
      if (!key && LooksSensitive(column.name)) draftee.hidden.push_back(column.name);
    }
    draftees.push_back(std::move(draftee));
  }

  auto find = [&](const std::string& schema, const std::string& name) -> Draftee* {
    for (Draftee& d : draftees)
      if (d.table->schema == schema && d.table->name == name) return &d;
    return nullptr;
  };
  for (Draftee& d : draftees) {
    std::map<std::pair<std::string, std::string>, int> keys_to;
    for (const ForeignKey& key : d.table->foreign_keys) ++keys_to[{key.target_schema, key.target_table}];
    for (const ForeignKey& key : d.table->foreign_keys) {
      Draftee* target = find(key.target_schema, key.target_table);
      if (target == nullptr) continue;
      // customer_id → customer; a composite key takes the target's name.
      std::string name = key.columns.size() == 1 ? d.field_of[key.columns[0]] : Singular(PublicName(key.target_table));
      for (std::string_view end : {"_id", "_uuid", "_key", "_code", "_no", "_ref"})
        if (key.columns.size() == 1 && name.size() > end.size() && absl::EndsWith(name, ToAbsl(end))) {
          name.resize(name.size() - end.size());
          break;
        }
      if (d.taken.contains(name)) name = Singular(PublicName(key.target_table));
      const std::string role = name;
      name = Unused(d.taken, name);
      d.relations.emplace_back(name, StrCat("{to: ", target->name, ", by: ", YamlList(FieldsOf(d, key.columns)), "}"));
      if (IsJoin(*d.table)) continue;
      std::string back = Plural(PublicName(d.table->name));
      if (target == &d || keys_to[{key.target_schema, key.target_table}] > 1) back = StrCat(back, "_by_", role);
      target->relations.emplace_back(Unused(target->taken, back),
                                     StrCat("{many: ", d.name, ", by: ", YamlList(FieldsOf(d, key.columns)), "}"));
    }
    if (IsJoin(*d.table)) {
      const ForeignKey &a = d.table->foreign_keys[0], &b = d.table->foreign_keys[1];
      Draftee *left = find(a.target_schema, a.target_table), *right = find(b.target_schema, b.target_table);
      if (left == nullptr || right == nullptr) continue;
      const std::string through = AsYaml(TableText(*d.table));
      left->relations.emplace_back(Unused(left->taken, Plural(PublicName(right->table->name))),
                                   StrCat("{many: ", right->name, ", through: ", through, ", by: ", YamlList(a.columns),
                                          ", other: ", YamlList(b.columns), "}"));
      if (left != right)
        right->relations.emplace_back(Unused(right->taken, Plural(PublicName(left->table->name))),
                                      StrCat("{many: ", left->name, ", through: ", through,
                                             ", by: ", YamlList(b.columns), ", other: ", YamlList(a.columns), "}"));
    }
  }

  std::string out =
      "# A first catalog, drafted from the database. Read it before you publish it:\n"
      "#   - a table without a column tenant_id or tenant is marked `shared`: every tenant may see (read), or also "
      "change (write), all its rows;\n"
      "#   - columns that look sensitive are hidden until you say otherwise;\n"
      "#   - the roles are examples. Only keys with a role may do anything; admin may do everything.\n"
      "# All keys are described in Mainstay's libs/catalog/README.md; types, keys and foreign keys come from the "
      "database and are not repeated here.\n";
  for (const std::string& line : left_out)
    StrAppend(&out, "# Left out: ", absl::StrReplaceAll(line, {{"\n", " "}, {"\r", " "}}), "\n");
  if (draftees.empty()) {
    out += "resources: {}\n";
  } else {
    out += "resources:\n";
  }
  for (const Draftee& d : draftees) {
    const Table& table = *d.table;
    StrAppend(&out, "  ", d.name, ":\n    table: ", AsYaml(TableText(table)), "\n");
    if (const Column* tenant = Named(table, {"tenant_id", "tenant"}, IsTenantType)) {
      StrAppend(&out, "    tenant: ", d.field_of.at(tenant->name), "\n");
    } else if (const Column* guess = Named(
                   table, {"organization_id", "organisation_id", "org_id", "workspace_id", "company_id", "account_id"},
                   IsTenantType)) {
      StrAppend(&out, "    shared: read  # if each row belongs to one tenant, say instead: tenant: ",
                d.field_of.at(guess->name), "\n");
    } else {
      out += "    shared: write\n";
    }
    auto role = [&](const char* key, const Column* column) {
      if (column != nullptr) StrAppend(&out, "    ", key, ": ", d.field_of.at(column->name), "\n");
    };
    role("version", Named(table, {"version", "row_version", "lock_version", "revision"}, IsVersion));
    role("created_at", Named(table, {"created_at", "inserted_at"}, IsTimestamp));
    role("updated_at", Named(table, {"updated_at", "modified_at"}, IsTimestamp));
    role("deleted_at", Named(table, {"deleted_at"}, IsNullableTimestamp));
    std::vector<std::string> fields;
    for (const Column& column : table.columns) {
      const bool renamed = std::find(d.renamed.begin(), d.renamed.end(), column.name) != d.renamed.end();
      const bool hidden = std::find(d.hidden.begin(), d.hidden.end(), column.name) != d.hidden.end();
      if (!renamed && !hidden) continue;
      std::vector<std::string> settings;
      if (renamed) settings.push_back(StrCat("column: ", AsYaml(column.name)));
      if (hidden) settings.push_back("hidden: true");
      fields.push_back(StrCat("      ", d.field_of.at(column.name), ": {", absl::StrJoin(settings, ", "), "}\n"));
    }
    if (!fields.empty()) StrAppend(&out, "    fields:\n", absl::StrJoin(fields, ""));
    if (!d.relations.empty()) out += "    relations:\n";
    for (const auto& [name, text] : d.relations) StrAppend(&out, "      ", name, ": ", text, "\n");
    out += "    permissions:\n      editor: {actions: all}\n      reader: {actions: [read, aggregate]}\n";
  }
  out +=
      "\nroles:\n  editor: {description: Reads and changes the records}\n  reader: {description: Reads the records}\n";
  return out;
}

}  // namespace mainstay::catalog
