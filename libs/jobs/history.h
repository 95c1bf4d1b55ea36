// SPDX-License-Identifier: Apache-2.0
// How long finished jobs are kept: days are made ahead and dropped whole; jobs that asked for less, or whose queue did,
// go earlier, in small batches.
//
// A day is dropped once it is older than the longest retention of all queues. Deleting for a queue reads the days in
// which jobs have come due since the last time, for at most a twentieth of the time: an index by time would cost every
// completion. Belongs to Upkeep's thread.
#pragma once

#include "libs/jobs/upkeep_context.h"

namespace mainstay::jobs {

class History {
 public:
  explicit History(UpkeepContext& context) : context_(context) {}
  // Partitions and rows of workers that are long gone.
  absl::Status Days();
  // One batch; true when there is more.
  absl::StatusOr<bool> Purge();

 private:
  UpkeepContext& context_;
  absl::Time queues_at_ = absl::InfinitePast();
};

}  // namespace mainstay::jobs
