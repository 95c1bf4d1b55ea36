// SPDX-License-Identifier: Apache-2.0
// Sensitive arguments of a job: sealed before they reach the row, opened only for the handler. They are never in Redis,
// in a log or in a view, and whoever has the database without the key file has nothing.
//
// Envelope: a fresh data key per job (AES-256-GCM), wrapped by the first key of the ring; both are bound to tenant and
// job, so sealed values cannot be moved to another row. Immutable, so thread-safe. A key that is not in the ring makes
// an error, never empty arguments.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "libs/base/ids.h"
#include "libs/secrets/secrets.h"

namespace mainstay::jobs {

class Sealer {
 public:
  explicit Sealer(secrets::KeyRing keys) : keys_(std::move(keys)) {}
  // The ring must have a key.
  std::string Seal(std::string_view tenant, const Uuid& job, std::string_view args) const;
  absl::StatusOr<std::string> Open(std::string_view tenant, const Uuid& job, std::string_view sealed) const;

 private:
  const secrets::KeyRing keys_;
};

}  // namespace mainstay::jobs
