// SPDX-License-Identifier: Apache-2.0
// Moves jobs on that waited for a time, a key or a limit: due jobs, keys whose turn was lost in a crash, concurrency
// keys with a free slot.
//
// In bounded batches, so that millions due in one second hold up nothing else: then every queue and tenant gets its
// share, oldest first. All of it is idempotent: what another leader has moved meanwhile is not there any more. Belongs
// to Upkeep's thread.
#pragma once

#include <optional>
#include <string>

#include "libs/jobs/upkeep_context.h"

namespace mainstay::jobs {

class Promoter {
 public:
  explicit Promoter(UpkeepContext& context) : context_(context) {}
  // True when more are due than were released.
  absl::StatusOr<bool> Due();
  // Keys with waiting jobs and no slot, slots whose job is gone. True when there are more.
  absl::StatusOr<bool> LooseKeys();
  // Concurrency keys; a part of them per call, going round.
  absl::Status Limits();

 private:
  absl::StatusOr<int> Release(const std::vector<std::string>& ids);

  UpkeepContext& context_;
  std::string queue_, tenant_;         // where the round over queues and tenants goes on
  std::optional<int64_t> limit_hash_;  // and that over concurrency keys
};

}  // namespace mainstay::jobs
