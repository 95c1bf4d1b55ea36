// SPDX-License-Identifier: Apache-2.0
// The job kind "mainstay.noop": does nothing, in ways that can be chosen. For benchmarks, tests and for trying out a
// queue.
//
// Args, all optional: sleep_ms (0 to 600000) runs that long, watching for cancellation; fail_times makes the first so
// many runs fail. Other members are ignored. Result: {"attempt": n}.
#pragma once

#include "libs/jobs/handler.h"

namespace mainstay::worker {

void RegisterNoop(jobs::Registry& registry);

}  // namespace mainstay::worker
