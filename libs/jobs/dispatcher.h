// SPDX-License-Identifier: Apache-2.0
// Tops the streams up from the backlog: tenants in weighted turns, within windows that follow the workers' rate, under
// the limits of queues, past what is paused or known to no worker.
//
// Each stream (a queue's priority, or a lane of it) reads the backlog with positions of its own, so a lane whose
// workers are slow holds nobody up. Handing out is a HOT update; positions are memory only: a new leader starts from
// the head. Two at once do no harm: rows change hands by compare-and-set, slots of limits are counted under a lock.
// Redis away: windows are closed; limited queues are let through to the workers' claims, under their limits; the rest
// the workers claim themselves. Belongs to Upkeep's thread.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "libs/jobs/rate_limits.h"
#include "libs/jobs/turns.h"
#include "libs/jobs/upkeep_context.h"
#include "libs/jobs/window.h"

namespace mainstay::jobs {

class Dispatcher {
 public:
  explicit Dispatcher(UpkeepContext& context) : context_(context), rates_(context.redis) {}

  // A new leader knows nothing.
  void Reset();
  // After context.Refresh(): streams come and go, lanes open and close, what may go is looked at again.
  absl::Status Refreshed();
  // Everything is looked at from the head: Redis lost what was published.
  void Rewind();
  // One statement that finds out what there is to do; at most once per dispatch interval.
  absl::Status Peek();
  bool due() const { return due_; }
  void PromotedAll() { due_ = false; }
  bool limited() const { return limited_; }
  // One round over all streams. How long to wait until the next one, at most.
  absl::StatusOr<absl::Duration> Round();
  void CloseWindows();

 private:
  struct Stream {
    explicit Stream(const WindowOptions& options) : size(options) {}
    WindowSize size;
    Turns turns;
    int64_t live = 0, read = 0, published = 0;  // published: since the last look
    absl::Time again_at;
  };
  struct Backlog {
    std::map<std::string, Stream> streams;  // by lane; "" is the shared one
    bool open = false;                      // the window, as last written
    double credit = 0;                      // jobs it may still have before the queue's other priorities, if weighted
    absl::Time renewed;
    int64_t version = -1;
    absl::Time sampled_at;  // when jobs that could not go were last asked for their routes
  };
  using BacklogId = std::pair<std::string, int>;

  absl::Status Measure();
  // Who is asked first: it matters where a queue's limit leaves room for some only.
  std::vector<std::pair<const BacklogId, Backlog>*> Order();
  // Shares out what one priority of a weighted queue has just used.
  void Charge(const BacklogId& id, int64_t used);
  // True when something was handed out and more may be there.
  absl::StatusOr<bool> Serve(const BacklogId& id, const std::string& lane, Backlog& backlog, Stream& stream);
  // Hands out `turns` of the given routes and `ids` of any route that may go.
  absl::Status Statement(const BacklogId& id, const QueueState& queue, Stream& stream, const std::string& routes,
                         std::vector<Turns::Turn> turns, const std::vector<Uuid>& ids, int limit, int* handed_out,
                         int* skipped);
  absl::Status SetWindow(const BacklogId& id, Backlog& backlog, bool open);
  absl::Status Lanes();
  std::vector<std::string> RoutesOf(const QueueState& queue, const std::string& lane) const;

  UpkeepContext& context_;
  RateLimits rates_;
  std::map<BacklogId, Backlog> backlogs_;
  std::map<std::string, std::set<std::string>> unserved_;  // routes met in a backlog that no worker serves, by queue
  bool due_ = false, limited_ = false;
  int64_t rounds_ = 0;
};

}  // namespace mainstay::jobs
