// SPDX-License-Identifier: Apache-2.0
// The grammar of `resources` and `roles`: what is exposed, and who may do what with it.
#include <re2/re2.h>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/catalog/introspect.h"
#include "libs/catalog/sections.h"

namespace mainstay::catalog {
namespace {

constexpr size_t kMaxQuery = 64 << 10;

FieldDeclaration ReadField(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "field");
  FieldDeclaration field;
  field.name = member.key;
  Field& s = field.settings;
  if (!IsFieldName(member.key))
    r.Fail(member.at, path,
           "a field's public name is [a-z][a-z0-9_]*, at most 63 characters; name the column by `column:`");
  if (IsReservedName(member.key))
    r.Fail(member.at, path,
           StrCat("\"", member.key,
                  "\" is a word of the filter syntax; give the field another name and its column by `column:`"));
  r.Text("column", &field.column);
  r.Text("description", &s.description);
  r.Bool("hidden", &s.hidden);
  r.Bool("sensitive", &field.sensitive);
  r.Bool("read_only", &s.read_only);
  r.Bool("write_once", &s.write_once);
  r.Bool("required", &s.required);
  r.Bool("filterable", &field.filterable);
  r.Bool("sortable", &field.sortable);
  r.Text("search", &s.search);
  r.Bool("identifier", &s.identifier);
  r.Bool("normalize", &s.normalize);
  int length = 0;
  if (r.Has("min_length")) {
    r.Int("min_length", &length, 0, 10'000'000);
    s.min_length = length;
  } else {
    r.Take("min_length");
  }
  if (r.Has("max_length")) {
    r.Int("max_length", &length, 1, 10'000'000);
    s.max_length = length;
  } else {
    r.Take("max_length");
  }
  if (s.min_length && s.max_length && *s.min_length > *s.max_length) r.Fail("min_length", "is greater than max_length");
  std::string bound;
  if (r.Has("minimum")) {
    r.Text("minimum", &bound);
    s.minimum = bound;
  } else {
    r.Take("minimum");
  }
  if (r.Has("maximum")) {
    r.Text("maximum", &bound);
    s.maximum = bound;
  } else {
    r.Take("maximum");
  }
  r.Text("pattern", &s.pattern, 1000);
  if (!s.pattern.empty()) {
    RE2::Options options;
    options.set_log_errors(false);
    options.set_max_mem(1 << 20);
    RE2 compiled(s.pattern, options);
    if (!compiled.ok()) r.Fail("pattern", StrCat("not a pattern in RE2's syntax: ", compiled.error()));
  }
  r.List("one_of", &s.one_of);
  r.List("aliases", &s.aliases);
  if (s.read_only && s.required) r.Fail("required", "a read_only field can't be required: clients may not send it");
  r.Done();
  return field;
}

RelationDeclaration ReadRelation(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "relation");
  RelationDeclaration relation;
  relation.name = member.key;
  if (!IsFieldName(member.key)) r.Fail(member.at, path, "a relation's name is [a-z][a-z0-9_]*, at most 63 characters");
  if (IsReservedName(member.key))
    r.Fail(member.at, path,
           StrCat("\"", member.key, "\" is a word of the filter syntax; give the relation another name"));
  r.Text("to", &relation.target);
  std::string many;
  r.Text("many", &many);
  if (r.Has("to") == r.Has("many")) {
    r.Fail(r.node().at, path, "say either `to: RESOURCE` (one row) or `many: RESOURCE` (a list)");
  }
  if (r.Has("many")) {
    relation.kind = Relation::Kind::kToMany;
    relation.target = many;
  }
  r.List("by", &relation.by);
  r.List("references", &relation.references);
  r.Text("through", &relation.through);
  r.List("other", &relation.other);
  r.Bool("nested", &relation.nested);
  if (relation.nested && (relation.kind != Relation::Kind::kToMany || !relation.through.empty()))
    r.Fail("nested", "only rows of a `many` relation that point here can be created together with a row");
  if (!relation.through.empty()) {
    if (relation.kind == Relation::Kind::kToOne)
      r.Fail("through", "only a `many` relation goes through a joining table");
    relation.kind = Relation::Kind::kManyToMany;
  } else if (r.Has("other")) {
    r.Fail("other", "stands only beside `through`");
  }
  r.Done();
  return relation;
}

PermissionDeclaration ReadPermission(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "permission");
  PermissionDeclaration permission;
  permission.role = member.key;
  r.List("actions", &permission.actions);
  static const std::vector<std::string> kActions = {"read", "aggregate", "create", "update", "delete", "all"};
  for (size_t i = 0; i < permission.actions.size(); ++i)
    if (std::find(kActions.begin(), kActions.end(), permission.actions[i]) == kActions.end())
      context.mistakes.push_back(MistakeAt(context.out, StrCat(path, ".actions[", i, "]"),
                                           StrCat("\"", permission.actions[i], "\" is not ", Choice(kActions))));
  if (!r.Has("actions"))
    r.Fail(r.node().at, path, "the key \"actions\" is missing: [read, aggregate, create, update, delete] or all");
  r.List("read", &permission.read);
  r.List("read_except", &permission.read_except);
  r.List("write", &permission.write);
  r.List("write_except", &permission.write_except);
  if (permission.read && permission.read_except) r.Fail("read_except", "say either `read` or `read_except`");
  if (permission.write && permission.write_except) r.Fail("write_except", "say either `write` or `write_except`");
  r.Text("where", &permission.where);
  r.Done();
  return permission;
}

CheckDeclaration ReadCheck(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "check");
  CheckDeclaration check;
  check.settings.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  r.Text("if", &check.settings.condition);
  r.Required("that", &check.settings.that);
  r.List("fields", &check.fields);
  r.Text("message", &check.settings.message, 200);
  r.Done();
  return check;
}

WriteJobDeclaration ReadWriteJob(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "write-job");
  WriteJobDeclaration job;
  WriteJob& s = job.settings;
  s.name = member.key;
  if (!IsPlainName(member.key)) r.Fail(member.at, path, std::string(kPlainNameRule));
  std::vector<std::string> events;
  r.List("on", &events);
  static const std::vector<std::string> kEvents = {"create", "update", "delete"};
  for (size_t i = 0; i < events.size(); ++i) {
    s.created |= events[i] == "create";
    s.updated |= events[i] == "update";
    s.deleted |= events[i] == "delete";
    if (std::find(kEvents.begin(), kEvents.end(), events[i]) == kEvents.end())
      context.mistakes.push_back(
          MistakeAt(context.out, StrCat(path, ".on[", i, "]"), StrCat("\"", events[i], "\" is not ", Choice(kEvents))));
  }
  if (events.empty()) r.Fail(r.node().at, path, "the key \"on\" is missing: [create, update, delete]");
  r.List("changed", &job.changed);
  if (!job.changed.empty() && !s.updated) r.Fail("changed", "is about updates; put `update` into `on`");
  r.Text("when", &s.when);
  r.Required("kind", &s.kind);
  if (!s.kind.empty() && !IsJobKind(s.kind)) r.Fail("kind", std::string(kJobKindRule));
  r.Text("queue", &s.queue);
  r.List("args", &job.args);
  r.Bool("ordered", &s.ordered);
  r.Done();
  return job;
}

}  // namespace

ResourceDeclaration ReadResource(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "resource");
  ResourceDeclaration resource;
  resource.name = member.key;
  if (!IsResourceName(member.key))
    r.Fail(member.at, path,
           "a resource's name is its path: plural, kebab-case, [a-z][a-z0-9-]*, at most 63 characters");
  r.Text("table", &resource.table);
  r.Text("query", &resource.query);
  if (r.Has("table") == r.Has("query"))
    r.Fail(r.node().at, path, "names what it reads by `table: SCHEMA.TABLE` or by `query: SELECT …`, one of the two");
  if (r.Has("query") && resource.query.empty()) r.Fail("query", "is empty; write a SELECT");
  if (!resource.query.empty()) {
    resource.table_name = resource.name;
    if (resource.query.size() > kMaxQuery)
      r.Fail("query", StrCat("has ", resource.query.size(), " bytes, the limit is ", kMaxQuery));
  } else if (!resource.table.empty()) {
    auto name = ParseTableName(resource.table);
    if (!name.ok()) {
      r.Fail("table", std::string(name.status().message()));
    } else if (name->first == "mainstay" || name->first == "information_schema" ||
               absl::StartsWith(name->first, "pg_")) {
      r.Fail("table", StrCat("tables of the schema ", name->first, " are not the catalog's to expose"));
    } else {
      std::tie(resource.schema_name, resource.table_name) = *name;
    }
  }
  r.Text("description", &resource.description);
  r.List("key", &resource.key);
  r.Text("tenant", &resource.tenant);
  r.Word("shared", &resource.shared, {"read", "write"});
  if (r.Has("tenant") && r.Has("shared"))
    r.Fail("shared", "a resource with a tenant column is not shared; remove one of the two");
  if (!r.Has("tenant") && !r.Has("shared"))
    r.Fail(r.node().at, path,
           "names no tenant: write `tenant: FIELD`, or `shared: read` where every tenant may see every row, or "
           "`shared: write` where every tenant may also change every row");
  r.Text("version", &resource.version);
  r.Text("deleted_at", &resource.deleted_at);
  r.Text("created_at", &resource.created_at);
  r.Text("updated_at", &resource.updated_at);
  r.List("default_sort", &resource.default_sort);
  r.Int("default_limit", &resource.default_limit, 1, 1000);
  r.Int("max_limit", &resource.max_limit, 1, 1000);
  if (resource.default_limit > resource.max_limit)
    r.Fail("default_limit",
           StrCat(resource.default_limit, " is greater than max_limit, which is ", resource.max_limit));
  r.Bool("offset", &resource.offset);
  r.Bool("require_if_match", &resource.require_if_match);
  r.Bool("client_key", &resource.client_key);
  r.Bool("read_only", &resource.read_only);
  std::string expose = "all";
  r.Word("expose", &expose, {"all", "declared"});
  resource.declared_only = expose == "declared";
  r.Duration("cache", &resource.cache, kSecond, kDay);
  r.Bool("row_security", &resource.row_security);
  r.Bool("by_filter", &resource.by_filter);
  r.Bool("changes", &resource.changes);
  r.Duration("history", &resource.history, kSecond, 3650 * kDay);
  r.Each("fields",
         [&](const Yaml::Member& m, const std::string& p) { resource.fields.push_back(ReadField(context, m, p)); });
  r.Each("relations", [&](const Yaml::Member& m, const std::string& p) {
    resource.relations.push_back(ReadRelation(context, m, p));
  });
  const Yaml* views = r.Take("views");
  if (views != nullptr && views->kind == Yaml::Kind::kMap) {
    Reader names(context, *views, r.Path("views"), "");
    for (const Yaml::Member& view : views->members) {
      if (!IsFieldName(view.key))
        names.Fail(view.at, names.Path(view.key), "a view's name is [a-z][a-z0-9_]*, at most 63 characters");
      names.List(view.key, &resource.views[view.key]);
    }
  } else if (views != nullptr && views->kind != Yaml::Kind::kNull) {
    r.Fail("views", StrCat("expected a map of names to lists of fields, got ", KindWord(*views)));
  }
  r.Each("permissions", [&](const Yaml::Member& m, const std::string& p) {
    resource.permissions.push_back(ReadPermission(context, m, p));
  });
  r.Each("checks",
         [&](const Yaml::Member& m, const std::string& p) { resource.checks.push_back(ReadCheck(context, m, p)); });
  r.Each("jobs",
         [&](const Yaml::Member& m, const std::string& p) { resource.jobs.push_back(ReadWriteJob(context, m, p)); });
  r.Done();
  return resource;
}

Role ReadRole(Reader::Context& context, const Yaml::Member& member, const std::string& path) {
  Reader r(context, *member.value, path, "role");
  Role role;
  role.name = member.key;
  if (!IsRoleName(member.key)) r.Fail(member.at, path, "a role's name is [a-z][a-z0-9_.:-]*, at most 63 characters");
  if (member.key == "admin")
    r.Fail(member.at, path, "the role admin is built in and may do everything; choose another name");
  if (absl::StartsWith(member.key, "source:"))
    r.Fail(member.at, path, "roles source:NAME come with their source and are not declared");
  r.Text("description", &role.description);
  r.List("scopes", &role.scopes);
  static const RE2 kScope("\\*|[a-z][a-z-]*:(read|write|operate|work|\\*)");
  for (size_t i = 0; i < role.scopes.size(); ++i)
    if (!RE2::FullMatch(role.scopes[i], kScope))
      context.mistakes.push_back(MistakeAt(
          context.out, StrCat(path, ".scopes[", i, "]"),
          StrCat("\"", role.scopes[i], "\" is not a scope; write for example jobs:read, imports:write or \"*\"")));
  r.Done();
  return role;
}

}  // namespace mainstay::catalog
