// SPDX-License-Identifier: Apache-2.0
// The way in: verify, extract, and store event and job in one commit shared by many requests.
//
// Callers wait on their own threads; one committing thread takes whatever has gathered, sorted by dedup key, and starts
// the next batch when the commit has returned. No timer: under load the batches grow by themselves. A batch that fails
// for a reason of its rows is cut in halves until the bad row stands alone. What waits is bounded in number and bytes;
// above it the answer is 503 with Retry-After, as when PostgreSQL is away: the sender comes back, nothing is
// acknowledged before it is stored. Redis is only told after the commit.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/catalog/model.h"
#include "libs/webhooks/delivery.h"

namespace mainstay::postgres {
class Pool;
}
namespace mainstay::jobs {
class Handoff;
}

namespace mainstay::webhooks {

// What the sender gets.
struct Answer {
  int status = 200;
  std::string content_type, body;
  std::string problem;  // slug, when status >= 400
  int retry_after_seconds = 0;
  std::string event_id;  // "evt_…", also of a duplicate
};

struct InboxOptions {
  // What senders were told as our address, without a path: "https://hooks.example.com". Only schemes that sign the URL
  // need it.
  std::string public_url;
  // Events per commit. Larger carries bursts better, smaller keeps the slowest request of a batch faster.
  int max_batch = 500;
  // What may wait for the committer; above it, 503.
  int max_waiting = 10000;
  int64_t max_waiting_bytes = 64 << 20;
  // A commit that takes longer is given up (503; the sender's next try is a duplicate if it went through).
  absl::Duration commit_timeout = absl::Seconds(10);
  // Queue of the jobs.
  std::string queue = "default";
};
absl::Status Validate(const InboxOptions& options);

struct InboxDependencies {
  postgres::Pool& pool;
  std::function<catalog::ModelPtr()> model;
  // Live values of a secret, newest first (libs/secrets, cached there).
  std::function<absl::StatusOr<std::vector<std::string>>(std::string_view tenant, std::string_view name)> secrets;
  jobs::Handoff& handoff;
  Clock& clock;
};

class Inbox {
 public:
  Inbox(InboxOptions options, InboxDependencies dependencies);
  ~Inbox();
  // Answers in the order of the deliveries, once all are decided. Thread-safe; blocks for one commit or two.
  std::vector<Answer> Ingest(std::vector<Delivery> deliveries);
  // Commits what waits, then ends; later deliveries get 503. Harmless twice.
  void Stop();
  // Forgets dedup keys whose window has passed, at most `limit`; how many went.
  absl::StatusOr<int64_t> PurgeDedup(int limit);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mainstay::webhooks
