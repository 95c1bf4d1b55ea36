// SPDX-License-Identifier: Apache-2.0
// Internal: declarations + database → model, in two passes: each resource by itself, then what names another, because
// that needs both sides. A mistake breaks only the resource that has it; those that name a broken one say nothing.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "libs/base/strings.h"
#include "libs/catalog/build.h"
#include "libs/catalog/declarations.h"
#include "libs/catalog/introspect.h"
#include "libs/catalog/model.h"

namespace mainstay::catalog {

bool Contains(const std::vector<std::string>& list, std::string_view name);
bool IsOrdered(const ColumnType& type);
// "; did you mean …?", or nothing.
std::string Hint(std::string_view name, const std::vector<std::string>& candidates);

class Builder {
 public:
  Builder(const Declarations& declared, const Database& database)
      : declared_(declared), database_(database), model_(std::make_shared<Model>(declared.model)) {}

  Built Run();

 private:
  // ---- mistakes: build.cc ----

  void Fail(const std::string& path, std::string message, bool at_key = false);
  void Warn(const std::string& path, std::string message);
  std::set<std::string> Broken() const;

  // Everything that was read, without oids: the same after a dump and restore.
  std::string SchemaHash() const;

  // ---- one resource by itself: build_resources.cc ----

  static std::vector<std::string> FieldNames(const Resource& resource, bool hidden = false);
  // By public name first, then by column.
  static int FindPosition(const Resource& resource, const std::string& name);
  int Position(const std::string& path, const Resource& resource, const std::string& name);
  static std::string TableText(const Resource& resource) {
    return resource.query.empty() ? StrCat(resource.schema, ".", resource.table) : "its query";
  }

  void BuildResource(const ResourceDeclaration& declaration, Resource& resource);

  // Hidden ones answer like unknown ones to clients, but their author is told.
  const Field* VisibleField(const std::string& path, const Resource& resource, const std::string& name);
  void BuildFields(const ResourceDeclaration& declaration, const Table& table, Resource& resource);
  void CheckField(const std::string& path, const Field& field);
  void BuildKey(const ResourceDeclaration& declaration, const Table& table, Resource& resource);

  // Columns with a part to play: tenant, version, times.
  void BuildRoles(const ResourceDeclaration& declaration, Resource& resource);
  void BuildIndexes(const ResourceDeclaration& declaration, const Table& table, Resource& resource);
  void BuildSearch(const std::string& path, const Table& table, Field& field);
  void BuildSorts(const ResourceDeclaration& declaration, Resource& resource);

  // ---- what names another: build_relations.cc ----

  std::vector<const Resource*> Over(std::string_view schema, std::string_view table) const;
  void BuildReferences(Resource& resource);
  std::vector<std::string> ResourceNames() const;

  // Public names or columns → columns. Empty when one is unknown (said already).
  std::vector<std::string> Columns(const std::string& path, const Resource& resource,
                                   const std::vector<std::string>& names);
  static std::vector<std::string> KeyColumns(const Resource& resource);
  static bool SameColumns(std::vector<std::string> a, std::vector<std::string> b);

  // How `from` points at `to`: columns here and there. `by`: columns of `from` (may be empty: the only foreign key
  // there is). False when a mistake was said.
  bool Resolve(const std::string& path, const Table& from, const Resource& to, const std::vector<std::string>& by,
               const std::vector<std::string>& references, std::vector<std::string>* here,
               std::vector<std::string>* there);
  void BuildRelations(const ResourceDeclaration& declaration, Resource& resource, const std::set<std::string>& broken);
  static std::string QuotedList(const std::vector<std::string>& columns);
  static bool Indexed(const Table& table, const Resource& resource, const std::vector<std::string>& columns);
  void BuildPermissions(const ResourceDeclaration& declaration, Resource& resource,
                        const std::set<std::string>& broken);
  void BuildWriting(const ResourceDeclaration& declaration, Resource& resource, const std::set<std::string>& broken);
  // A predicate over a relation that was left out because its target is broken.
  static bool NamesBroken(const Resource& resource, std::string_view where, const ResourceDeclaration& declaration,
                          const std::set<std::string>& broken);
  void CheckRole(const std::string& path, const std::string& role);
  void Warnings(const ResourceDeclaration& declaration, const Resource& resource);

  // ---- who uses resources, providers and queues: build_uses.cc ----

  template <typename Map>
  static std::vector<std::string> Keys(const Map& map) {
    std::vector<std::string> keys;
    keys.reserve(map.size());
    for (const auto& [key, value] : map) keys.push_back(key);
    return keys;
  }

  const Resource* TargetResource(const std::string& path, const std::string& name, const std::set<std::string>& broken);

  // The fields identify a row: the primary key or a unique key, the tenant always being part.
  bool IsKey(const Resource& resource, const std::vector<std::string>& fields) const;
  std::string KeyChoices(const Resource& resource) const;
  void CheckSources(const std::set<std::string>& broken);
  void CheckFetch(const std::string& path, const FetchRoute& fetch);
  void CheckApply(const std::string& path, const std::string& role, const ApplyRoute& apply,
                  const std::set<std::string>& broken);
  const Field* VisibleKeyed(const std::string& path, const Resource& resource, const std::string& name);
  void CheckSchedules();
  void CheckImports(const std::set<std::string>& broken);
  void CheckExports(const std::set<std::string>& broken);

  const Declarations& declared_;
  const Database& database_;
  std::shared_ptr<Model> model_;
  std::string resource_;  // the one being built: its mistakes break it
  std::map<std::string, std::vector<std::string>> broken_;
  std::vector<Mistake> mistakes_, warnings_;
};

}  // namespace mainstay::catalog
