// SPDX-License-Identifier: Apache-2.0
#include "libs/webhooks/routes.h"

namespace mainstay::webhooks {

const catalog::Route* FindRoute(const catalog::Source& source, std::string_view type) {
  for (const catalog::Route& route : source.routes) {
    for (const std::string& pattern : route.types) {
      if (pattern == type || pattern == "*") return &route;
      std::string_view stem = pattern;
      if (stem.size() >= 2 && stem.substr(stem.size() - 2) == ".*") {
        stem.remove_suffix(1);
        if (type.substr(0, stem.size()) == stem && type.size() > stem.size()) return &route;
      }
    }
  }
  return nullptr;
}

absl::StatusOr<Scheme> Schemes::Get(const catalog::ModelPtr& model, const catalog::Source& source) {
  absl::MutexLock lock(&mu_);
  if (model_ != model) {
    schemes_.clear();
    model_ = model;
  }
  auto found = schemes_.find(source.name);
  if (found == schemes_.end()) found = schemes_.emplace(source.name, Scheme::Compile(source.scheme)).first;
  return found->second;
}

}  // namespace mainstay::webhooks
