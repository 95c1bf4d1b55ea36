// SPDX-License-Identifier: Apache-2.0
// Where jobs run: in children of this worker (children.h), on threads of this process (threads.h), or in another
// program at the end of a stream. The engine reads, checks, leases and stores; a runner only runs.
//
// A runner never touches the row and never judges: it says how a job left it, and the fence decides. All calls are
// thread-safe. Inside the engine, and for those who add a kind of runner.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "libs/base/ids.h"
#include "libs/jobs/in_hand.h"

namespace mainstay::jobs {

class Runner;

// The engine as its runners see it.
class RunnerHost {
 public:
  virtual ~RunnerHost() = default;
  // Jobs that left the runner, each once; the runner has forgotten them.
  virtual void Finish(std::vector<Finished> runs) = 0;
  // There is credit again. May call Give before it returns.
  virtual void Wake() = 0;
  // Stores progress or a checkpoint (JSON) under the job's fence, together with those of other jobs. `done` is called
  // once, on another thread; FailedPrecondition "fenced": the job is no longer ours, and its `stop` is set.
  enum class Note { kProgress, kCheckpoint };
  virtual void Store(InHandPtr job, Note note, std::string json, std::function<void(absl::Status)> done) = 0;
  // Jobs that another process of the suite gave out, and whose handlers now turn to `by`: those whose fence stands are
  // this worker's from now on, under a raised fence, as if they had been given to `by`. Blocks. `stored`: jobs that
  // finished under that very fence. The others were handed to someone else.
  struct Adopted {
    std::vector<InHandPtr> jobs;
    std::set<Uuid> stored;
  };
  virtual absl::StatusOr<Adopted> Adopt(const Runner& by, const std::vector<std::pair<Uuid, int64_t>>& jobs) = 0;
};

class Runner {
 public:
  virtual ~Runner() = default;
  // What it runs, as announced: "mail.send", "mail.send@2". Asked anew about once a second.
  virtual std::vector<std::string> routes() const = 0;
  virtual absl::Status Start(RunnerHost& host) = 0;
  // Jobs it would take now. Cheap and lock-free: asked often, right only in tendency.
  virtual int Credit() const = 0;
  // Handlers at work at once, at most.
  virtual int capacity() const = 0;
  // Takes the jobs, with what is to follow each of them (InHand::rest), also beyond its credit. Each comes back through
  // Finish, those of a run in their order.
  virtual void Give(std::vector<InHandPtr> jobs) = 0;
  // Whether jobs may have a `rest`.
  virtual bool takes_runs() const { return false; }
  // The job's `stop` was set: tell its handler. Unknown jobs are ignored.
  virtual void Tell(const InHandPtr& job) = 0;
  // The job ran past its hard limit: it comes back through Finish with `outcome`, whatever its handler does.
  virtual void Kill(const InHandPtr& job, Outcome outcome) = 0;
  // Jobs of this route that it would take now. What waits for it stays in its stream while there is no credit, where
  // the route has a stream of its own.
  virtual int CreditFor(std::string_view /*route*/) const { return Credit(); }
  // Gives back at once what has not started.
  virtual void Recall() = 0;
  // Takes no more; what still runs is given back, its handler killed where that is possible. False: a handler's thread
  // still runs in this process.
  virtual bool Stop() = 0;

  // Whether its handlers live on when this process ends, so that a drain does not wait for them.
  virtual bool outlives() const { return false; }
  // Jobs of an outliving runner whose outcome was stored, or refused (false) because the fence had been raised. Called
  // without locks.
  virtual void Stored(const std::vector<std::pair<InHandPtr, bool>>& /*jobs*/) {}
  // Who works for it, for the list of workers: a JSON array.
  virtual std::string Remote() const { return "[]"; }
};

}  // namespace mainstay::jobs
