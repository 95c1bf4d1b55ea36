// SPDX-License-Identifier: Apache-2.0
// Hands out again what was published and Redis no longer holds.
//
// Every sweep compares what has been published for longer than a sweep with the streams; at once and in full when the
// epoch key is gone or Redis's run id changed. The fence is raised first, so an entry that turns up later is refused.
// Reads the whole hot table, so it comes round less often where that takes long. Belongs to Upkeep's thread.
#pragma once

#include <string>

#include "libs/jobs/upkeep_context.h"

namespace mainstay::jobs {

class Sweeper {
 public:
  explicit Sweeper(UpkeepContext& context) : context_(context) {}
  void Reset();
  // Whether Redis is the one it was. Sets `*changed` when it lost its state or was away: everything is to be looked at.
  absl::Status CheckEpoch(bool* changed);
  // When one is due.
  absl::Status Sweep();

 private:
  absl::Status Compare(absl::Duration age);

  UpkeepContext& context_;
  std::string epoch_, run_id_;
  uint64_t generation_ = 0;
  absl::Time full_at_ = absl::InfiniteFuture(), next_at_ = absl::InfinitePast();
};

}  // namespace mainstay::jobs
