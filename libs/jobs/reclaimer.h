// SPDX-License-Identifier: Apache-2.0
// Takes over the jobs of workers that fell silent, and forgets the workers themselves.
//
// Their worker may be dead or only slow: the fence is raised first, so a slow one runs on, but nothing it writes counts
// any more. Alone in a dead worker's hands, a job pays for the crash; among others it is only suspected. After trouble
// with PostgreSQL nobody is judged until everyone has had time to renew its lease. Belongs to Upkeep's thread.
#pragma once

#include "libs/jobs/upkeep_context.h"

namespace mainstay::jobs {

class Reclaimer {
 public:
  explicit Reclaimer(UpkeepContext& context) : context_(context) {}
  // Entries that were delivered and not acknowledged for as long as a lease.
  absl::Status Pending();
  // Jobs written `running` whose worker's lease ran out.
  absl::Status Expired();
  // Consumers of streams that are long idle and own nothing.
  absl::Status Consumers();

 private:
  UpkeepContext& context_;
};

}  // namespace mainstay::jobs
