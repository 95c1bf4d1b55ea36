// SPDX-License-Identifier: Apache-2.0
// What happens to a stored event: the job kind "webhooks.process", run by the worker.
//
// Reads the event, finds its route in the catalog of now, fetches the latest state from the provider where the route
// says so, then in one transaction: the event row locked, the declared applies through records::Merge as principal
// source:<name>, the event's new state, and the end of the job. So a crash anywhere leaves either nothing or
// everything. Jobs of one entity run one after another (ordering key). The remote call happens outside any transaction.
// Provider away: the job retries.
#pragma once

#include <functional>

#include "libs/catalog/model.h"
#include "libs/jobs/handler.h"
#include "libs/webhooks/provider_client.h"

namespace mainstay::postgres {
class Pool;
}
namespace mainstay::jobs {
class Handoff;
}

namespace mainstay::webhooks {

inline constexpr std::string_view kProcessKind = "webhooks.process";

struct ProcessingDependencies {
  postgres::Pool& pool;                      // of the process that runs the jobs
  std::function<catalog::ModelPtr()> model;  // the catalog of now; null while none is published
  ProviderClient& providers;
  jobs::Handoff* handoff = nullptr;  // for jobs that routes enqueue; null: the dispatcher finds them
};

// Registers the kinds of this library. The dependencies outlive the registry.
void RegisterHandlers(jobs::Registry& registry, ProcessingDependencies dependencies);

}  // namespace mainstay::webhooks
