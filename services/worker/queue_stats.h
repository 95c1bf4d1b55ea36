// SPDX-License-Identifier: Apache-2.0
// The figures of queues as messages: for those who ask once and for those who watch.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "services/worker/monitoring.h"

namespace mainstay::worker {

// Of all queues, or of one with its kinds; not-found when there is no such queue.
absl::StatusOr<std::vector<mainstay::jobs::v1::QueueStats>> ReadQueueStats(const MonitoringParts& parts,
                                                                           const CallContext& call,
                                                                           const std::optional<std::string>& name);

}  // namespace mainstay::worker
