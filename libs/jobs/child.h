// SPDX-License-Identifier: Apache-2.0
// The child's side of running jobs: a process that a worker exec'ed from its own program, with handlers on threads.
//
// It owns nothing: the worker alone reads streams, checks, leases and stores. A job's start is written to a page shared
// with the worker, so that the worker knows what ran when the child dies. It dies with its worker, may not make
// processes, and has bounded memory, so that a handler gone wild harms only what ran beside it.
#pragma once

#include <optional>
#include <string>

#include "libs/base/ids.h"
#include "libs/jobs/handler.h"

namespace mainstay::postgres {
class Pool;
}

namespace mainstay::jobs {

// How a worker starts its child: as a first argument, before those that it got itself.
struct ChildArgument {
  int socket = 3, page = 4;  // file descriptors
  int slots = 0, threads = 0;
  int64_t memory_bytes = 0;  // 0: unlimited
  bool may_fork = false;
  Uuid worker;
  std::string worker_name;
  std::string Format() const;
};
// Takes the argument out of argv; nullopt: this is not a child. Called first thing in main: it closes what the worker's
// files leaked into the child.
std::optional<ChildArgument> TakeChildArgument(int& argc, char** argv);

// Runs handlers until the worker goes away; does not return. `pool` is what RunningJob::pool() gives.
[[noreturn]] void RunChild(const ChildArgument& argument, const Registry& registry, postgres::Pool& pool);

}  // namespace mainstay::jobs
