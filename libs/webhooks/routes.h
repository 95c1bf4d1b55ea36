// SPDX-License-Identifier: Apache-2.0
// Which route takes an event's type, and the schemes of a catalog compiled once.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "libs/catalog/model.h"
#include "libs/webhooks/scheme.h"

namespace mainstay::webhooks {

// The first route with a pattern that fits: the exact type, a prefix ("payment.*"), or everything ("*"). Null: none.
const catalog::Route* FindRoute(const catalog::Source& source, std::string_view type);

// The compiled schemes of the newest catalog seen. Thread-safe.
class Schemes {
 public:
  // The scheme of a source of `model`. An error when the catalog's words make no scheme.
  absl::StatusOr<Scheme> Get(const catalog::ModelPtr& model, const catalog::Source& source);

 private:
  absl::Mutex mu_;
  catalog::ModelPtr model_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, absl::StatusOr<Scheme>, std::less<>> schemes_ ABSL_GUARDED_BY(mu_);
};

}  // namespace mainstay::webhooks
