// SPDX-License-Identifier: Apache-2.0
// Look-ups in the model. Linear where lists are short (fields, scopes): no index to keep in step.
#include "libs/catalog/model.h"

namespace mainstay::catalog {

const Field* Resource::FindField(std::string_view field_name) const {
  for (const Field& field : fields)
    if (field.name == field_name) return &field;
  return nullptr;
}

const Resource* Model::FindResource(std::string_view name) const {
  auto it = resources.find(name);
  return it == resources.end() ? nullptr : &it->second;
}

bool Model::HasScope(const std::vector<std::string>& role_names, std::string_view scope) const {
  for (const std::string& name : role_names) {
    if (name == "admin") return true;
    auto role = roles.find(name);
    if (role == roles.end()) continue;
    for (const std::string& held : role->second.scopes) {
      // "jobs:*" is every right on jobs.
      const bool all = held.size() > 2 && held.compare(held.size() - 2, 2, ":*") == 0 &&
                       scope.substr(0, held.size() - 1) == std::string_view(held).substr(0, held.size() - 1);
      if (held == "*" || held == scope || all) return true;
    }
  }
  return false;
}

}  // namespace mainstay::catalog
