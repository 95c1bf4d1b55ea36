// SPDX-License-Identifier: Apache-2.0
// Internal: what the files declare, before the database is asked. Sections that need no table hold their final form
// already (Model); resources stand as written.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "libs/catalog/model.h"
#include "libs/catalog/parse.h"
#include "libs/catalog/yaml.h"

namespace mainstay::catalog {

struct FieldDeclaration {
  std::string name;
  std::string column;  // "" = the column of that (public) name
  Field settings;      // the plain switches and validations
  std::optional<bool> filterable, sortable, sensitive;
};

struct RelationDeclaration {
  std::string name;
  Relation::Kind kind = Relation::Kind::kToOne;
  std::string target;
  std::vector<std::string> by;  // to-one: our fields; many: theirs; through: the joining table's columns towards us
  std::vector<std::string> references;  // what `by` points at; "" = the key
  std::string through;
  std::vector<std::string> other;  // through: the joining table's columns towards them
  bool nested = false;
};

struct CheckDeclaration {
  RowCheck settings;
  std::vector<std::string> fields;
};

struct WriteJobDeclaration {
  WriteJob settings;
  std::vector<std::string> changed, args;
};

struct PermissionDeclaration {
  std::string role;
  std::vector<std::string> actions;
  std::optional<std::vector<std::string>> read, read_except, write, write_except;
  std::string where;
};

struct ResourceDeclaration {
  std::string name;
  std::string table;
  std::string schema_name, table_name;  // of `table`, when it could be parsed; of a query "" and the resource's name
  std::string query;                    // in place of a table
  std::string description;
  std::vector<std::string> key;
  std::string tenant, shared;  // shared: "", "read", "write"
  std::string version, deleted_at, created_at, updated_at;
  std::vector<std::string> default_sort;
  int default_limit = 50, max_limit = 200;
  bool offset = false, require_if_match = false, client_key = false, by_filter = false, changes = false;
  std::optional<absl::Duration> history;
  std::optional<bool> read_only;
  bool declared_only = false;  // fields not declared are hidden
  bool row_security = false;
  std::optional<absl::Duration> cache;
  std::vector<FieldDeclaration> fields;
  std::vector<RelationDeclaration> relations;
  std::map<std::string, std::vector<std::string>> views;
  std::vector<PermissionDeclaration> permissions;
  std::vector<CheckDeclaration> checks;
  std::vector<WriteJobDeclaration> jobs;
};

struct Place {
  Spot value, key;
};

struct Declarations {
  std::vector<File> files;  // in the order of their names
  Variables used;
  std::string hash;
  std::map<std::string, ResourceDeclaration> resources;
  Model model;                                    // everything but the resources and the hashes
  std::unordered_map<std::string, Place> places;  // by path
  std::map<std::string, std::set<std::string>> accepted;
};

// A mistake at the value of `path` (at its key when `at_key`), or at the nearest place above it that is known.
Mistake MistakeAt(const Declarations& declarations, const std::string& path, std::string message, bool at_key = false);

// As ParseFiles, but keeps what it could read when there are mistakes, so that the checks against the database can add
// theirs. `readable` is false when a file is no YAML.
struct Parsed {
  Document document;
  std::vector<Mistake> mistakes;
  bool readable = true;
};
Parsed ParseAll(const std::vector<File>& files, const Variables& variables, const ParseLimits& limits);

// Words, so that parser, builder and messages agree.
bool IsFieldName(std::string_view name);                       // [a-z][a-z0-9_]{0,62}
bool IsReservedName(std::string_view name);                    // and or not some none every
std::string JoinNames(const std::vector<std::string>& names);  // a, b, c

}  // namespace mainstay::catalog
