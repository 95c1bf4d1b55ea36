// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "libs/base/strings.h"
#include "libs/http/list_query.h"
#include "libs/records/query.h"
#include "libs/records/write_rules.h"

namespace mainstay::records {
namespace {

// Covers no row: what an unreadable predicate must mean.
Predicate Nothing() {
  Predicate nothing;
  nothing.kind = Predicate::Kind::kOr;
  return nothing;
}

std::optional<Predicate> ParseWhere(const catalog::Model& model, const catalog::Resource& resource,
                                    const std::string& where) {
  if (where.empty()) return std::nullopt;
  const auto query = http::ParseListQuery(std::string_view(where));
  if (!query.ok()) return Nothing();
  int leaves = 50;
  auto predicate = ResolveFilter(model, resource, nullptr, nullptr, query->filter(), &leaves, nullptr);
  return predicate.ok() ? *std::move(predicate) : Nothing();
}

}  // namespace

AccessPtr MakeAccess(const catalog::Model& model, const catalog::Resource& resource,
                     const std::vector<std::string>& roles) {
  auto access = std::make_shared<Access>();
  const size_t fields = resource.fields.size();
  access->rules = CompileRules(model, resource);
  access->readable.assign(fields, false);
  access->writable.assign(fields, false);
  // The suite's own lists: the caller has checked the scope.
  const bool system = model.FindResource(resource.name) != &resource;
  const bool admin = !system && std::find(roles.begin(), roles.end(), "admin") != roles.end();
  auto writable = [&](size_t i) { return !resource.fields[i].hidden; };
  if (system || admin) {
    for (int action = 0; action < kActions; ++action) {
      const bool reads = action == static_cast<int>(Action::kRead) || action == static_cast<int>(Action::kAggregate);
      access->allowed[action] = reads || (admin && !resource.read_only);
    }
    for (size_t i = 0; i < fields; ++i) {
      access->readable[i] = !resource.fields[i].hidden;
      access->writable[i] = admin && writable(i);
    }
    access->fingerprint = system ? "system" : "admin";
    return access;
  }
  std::vector<std::string> sorted = roles;
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  bool all_rows[kActions] = {};
  std::vector<Predicate> rows[kActions];
  for (const std::string& role : sorted) {
    const auto it = resource.permissions.find(role);
    if (it == resource.permissions.end()) continue;
    const catalog::Permission& permission = it->second;
    StrAppend(&access->fingerprint, role, "\x1f");
    const bool allowed[kActions] = {permission.read, permission.create && !resource.read_only,
                                    permission.update && !resource.read_only, permission.remove && !resource.read_only,
                                    permission.aggregate};
    const std::optional<Predicate> where = ParseWhere(model, resource, permission.where);
    for (int action = 0; action < kActions; ++action) {
      if (!allowed[action]) continue;
      access->allowed[action] = true;
      if (where.has_value()) {
        rows[action].push_back(*where);
      } else {
        all_rows[action] = true;
      }
    }
    for (size_t i = 0; i < fields; ++i) {
      const catalog::Field& field = resource.fields[i];
      if (field.hidden) continue;
      const auto listed = [&](const std::vector<std::string>& names) {
        return std::find(names.begin(), names.end(), field.name) != names.end();
      };
      if (permission.read && (permission.all_fields_readable || listed(permission.readable)))
        access->readable[i] = true;
      if ((allowed[1] || allowed[2]) && (permission.all_fields_writable || listed(permission.writable)))
        access->writable[i] = true;
    }
  }
  // What identifies a row is in its address anyway.
  if (access->can(Action::kRead))
    for (int key : resource.key) access->readable[key] = !resource.fields[key].hidden;
  for (int action = 0; action < kActions; ++action) {
    if (!access->allowed[action] || all_rows[action]) continue;
    Predicate any;
    any.kind = Predicate::Kind::kOr;
    any.children = std::move(rows[action]);
    access->rows[action] = std::make_shared<const Predicate>(std::move(any));
  }
  return access;
}

}  // namespace mainstay::records
