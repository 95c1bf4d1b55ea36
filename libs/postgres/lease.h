// SPDX-License-Identifier: Apache-2.0
// Leadership as a row (mainstay.leases), so that a transaction pooler may stand between: whoever holds the row's
// unexpired lease leads.
//
// The lease is counted from before the request was sent, minus a margin, so a slow answer never lengthens it. That
// holds for this process's own view only: a leader that was stopped in the middle of its work may find another one
// beside it, so what it writes must carry the fence, which rises with every change of holder.
#pragma once

#include <cstdint>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"

namespace mainstay::postgres {

class Pool;

struct LeaseOptions {
  std::string name;    // "jobs-dispatcher"
  std::string holder;  // unique to this process and start: an id, not a host name
  absl::Duration ttl = absl::Seconds(15);
  // Given up this long before the row says so.
  absl::Duration margin = absl::Seconds(2);
};

// Thread-safe. Renew at a third of the ttl.
class Lease {
 public:
  Lease(Pool& pool, LeaseOptions options, Clock& clock = Clock::Real());
  // Takes the lease if it is free or expired, renews it if it is ours. False: someone else leads. A failed status
  // changes nothing: what is held runs on until it expires.
  absl::StatusOr<bool> TryAcquire();
  // Lets others in at once. Harmless when it is not held.
  absl::Status Release();
  bool held() const;
  int64_t fence() const;  // of the last time it was acquired; 0 before

 private:
  Pool& pool_;
  const LeaseOptions options_;
  Clock& clock_;
  mutable absl::Mutex mu_;
  absl::Duration until_ ABSL_GUARDED_BY(mu_) = -absl::InfiniteDuration();  // monotonic
  int64_t fence_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace mainstay::postgres
