// SPDX-License-Identifier: Apache-2.0
// A worker of one's own, for handlers written in C++:
//
//   int main(int argc, char** argv) {
//     mainstay::jobs::Registry registry;
//     registry.Register("orders.ship", [](mainstay::jobs::RunningJob& job) { … return mainstay::jobs::Outcome::Done();
//     }); return mainstay::jobs::WorkerMain(argc, argv, registry);
//   }
//
// It takes the kinds that it registered, beside the suite's own workers, which do the upkeep of the queues. The program
// is its own child: handlers run in processes that it execs from itself. No gRPC.
#pragma once

#include "libs/jobs/handler.h"

namespace mainstay::jobs {

// Reads --config FILE and MAINSTAY_* from the environment (--help-config lists the keys), takes jobs until SIGTERM or
// SIGINT, drains, and returns the exit code. Called first thing in main, before any thread starts.
int WorkerMain(int argc, char** argv, const Registry& registry);

}  // namespace mainstay::jobs
