// SPDX-License-Identifier: Apache-2.0
// Runs jobs in other programs, at the ends of streams (proto/mainstay/jobs/v1/work.proto): who may have which job, who
// holds it, and what becomes of it when a worker falls silent, comes back, or does not do as it should.
//
// The row and its fence decide, as everywhere; a session only says who is believed to hold a job. A cut stream costs
// nothing until the lease is over: until then its worker may come back, here or to another server, with the receipts of
// the jobs it runs. A receipt is a keyed hash of id and fence, so no server needs to know what another gave out. A job
// is written to a stream only when nothing else waits there, so a worker that does not read holds one job in this
// process, not its whole credit. No thread per stream: gRPC's callbacks come in, one thread looks at the time. Knows no
// gRPC; nothing is called with the lock held but RunnerHost::Store.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/base/principal.h"
#include "libs/jobs/runner.h"
#include "mainstay/jobs/v1/work.pb.h"

namespace mainstay::worker {

struct StreamSession;

// The server's end of a stream.
class StreamLink {
 public:
  virtual ~StreamLink() = default;
  // Before anything is written, but for a refusal.
  virtual void Opened(const std::shared_ptr<StreamSession>& session) = 0;
  // The next write only after StreamRunner::Written.
  virtual void Write(mainstay::jobs::v1::ServerMessage message) = 0;
  // After what was written, if the worker reads it; nothing follows.
  virtual void End(absl::Status status) = 0;
  // After Received said that it does not take more now.
  virtual void ReadOn() = 0;
};

struct StreamRunnerOptions {
  std::string server;  // for people
  // Of receipts; the same in all copies of the worker service.
  std::string receipt_key;
  absl::Duration heartbeat = absl::Seconds(5), lease = absl::Seconds(15);
  // What the suite runs itself: no stream may announce it.
  std::set<std::string> reserved;
  int max_streams = 5000, max_jobs = 20000, max_credits = 1000;
  // Jobs that ran past their hard limit until their stream is closed.
  int max_overruns = 3;
  // Makes kinds and schemas known to those who enqueue. InvalidArgument is the worker's mistake.
  std::function<absl::Status(const std::string& by, const std::vector<jobs::KindSpec>& kinds)> announce;
};

class StreamRunner : public jobs::Runner {
 public:
  explicit StreamRunner(StreamRunnerOptions options);
  ~StreamRunner() override;

  // ---- streams ----
  using Session = StreamSession;
  using SessionPtr = std::shared_ptr<Session>;
  // Its first message. Blocks for PostgreSQL. A mistake is said to the worker and ends the stream; then false. What
  // happens on the stream from now on is told by the calls below.
  bool Open(const std::shared_ptr<StreamLink>& link, const Principal& principal,
            const mainstay::jobs::v1::WorkerHello& hello);
  // Whether to read on at once. If not, ReadOn will say when.
  bool Received(const SessionPtr& session, const mainstay::jobs::v1::WorkerMessage& message);
  void Written(const SessionPtr& session);
  // Nothing more will be received. True when that is the end: it has not said goodbye.
  bool SaysNoMore(const SessionPtr& session);
  // The stream has ended, whatever the reason.
  void Gone(const SessionPtr& session);
  // The worker may not work here any more: its jobs are handed out anew.
  void Expel(const SessionPtr& session, absl::Status reason);
  // Ends all streams. After Stop.
  void Close();

  // ---- Runner ----
  std::vector<std::string> routes() const override;
  absl::Status Start(jobs::RunnerHost& host) override;
  int Credit() const override { return credit_.load(std::memory_order_relaxed); }
  int capacity() const override { return options_.max_jobs; }
  int CreditFor(std::string_view route) const override;
  void Give(std::vector<jobs::InHandPtr> jobs) override;
  void Tell(const jobs::InHandPtr& job) override;
  void Kill(const jobs::InHandPtr& job, jobs::Outcome outcome) override;
  void Recall() override;
  bool Stop() override;
  bool outlives() const override { return true; }
  void Stored(const std::vector<std::pair<jobs::InHandPtr, bool>>& jobs) override;
  std::string Remote() const override;

 private:
  // What a call decided under the lock and does after it.
  friend struct StreamSession;
  class Actions;
  struct Held;
  struct Mistake {
    std::string field, message;
  };
  struct Route {
    std::vector<Session*> sessions;  // connected
    size_t next = 0;                 // whose turn it is
    int free = 0;                    // their credit
    std::deque<jobs::InHandPtr> waiting;
  };
  struct Reported {
    int64_t fence;
    SessionPtr session;
  };
  struct Settled {
    bool stored;
    std::string token;  // of the session that reported it
  };

  std::optional<Mistake> Check(const mainstay::jobs::v1::WorkerHello& hello, const Principal& principal) const;
  std::string Receipt(const Uuid& id, int64_t fence) const;
  mainstay::jobs::v1::ServerMessage JobMessage(jobs::InHand& job) const;

  void Post(Session& session, mainstay::jobs::v1::ServerMessage message, Actions& actions)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Flush(Session& session, Actions& actions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Recount(Session& session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Deliverable(const Session& session, const jobs::InHand& job) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Deliver(Session& session, jobs::InHandPtr job, Actions& actions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void DeliverTo(Session& session, Actions& actions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Hold(Session& session, jobs::InHandPtr job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The job leaves its session, if it is still there.
  std::optional<Held> Take(Session& session, const Uuid& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Disconnect(Session& session, Actions& actions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReleaseAll(Session& session, jobs::Finished::How how, const std::string& why, Actions& actions)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void End(Session& session, absl::Status status, Actions& actions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Refuse(Session& session, std::string field, std::string message, const std::string& id, Actions& actions)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Fence(Session& session, const Uuid& id, int64_t fence, const std::string& reason, Actions& actions)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Acknowledge(Session& session, const Uuid& id, int64_t fence, int64_t checkpoint, Actions& actions)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Settle(const Session& session, const Uuid& id, int64_t fence, bool stored) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The job of the session that a message is about; null when it was answered.
  Held* Find(Session& session, const std::string& what, const std::string& id, int64_t fence, Actions& actions)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnProgress(Session& session, const mainstay::jobs::v1::WorkerProgress& progress, Actions& actions)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnLog(Session& session, const mainstay::jobs::v1::WorkerLog& log, Actions& actions)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnCheckpoint(Session& session, const mainstay::jobs::v1::WorkerCheckpoint& checkpoint, Actions& actions)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnResult(const SessionPtr& session, const mainstay::jobs::v1::WorkerResult& result, Actions& actions)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnGoodbye(Session& session, Actions& actions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Note(Held& held) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Noted(const jobs::InHandPtr& job, int64_t checkpoint, const absl::Status& status);
  void Complete(Session& session, const Uuid& id, Actions& actions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void EndIfDone(Session& session, Actions& actions) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Loop();

  const StreamRunnerOptions options_;
  jobs::RunnerHost* host_ = nullptr;
  std::thread thread_;
  std::atomic<int> credit_{0};

  mutable absl::Mutex mu_;
  std::map<Session*, SessionPtr> sessions_ ABSL_GUARDED_BY(mu_);  // connected, or with jobs
  absl::flat_hash_map<std::string, Session*> by_token_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Route, std::less<>> routes_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<Uuid, Session*> holder_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<Uuid, Reported> reported_ ABSL_GUARDED_BY(mu_);  // results on their way to the database
  // The last results, for those who did not hear of them.
  absl::flat_hash_map<std::pair<Uuid, int64_t>, Settled> settled_ ABSL_GUARDED_BY(mu_);
  std::deque<std::pair<Uuid, int64_t>> settled_order_ ABSL_GUARDED_BY(mu_);
  int free_ ABSL_GUARDED_BY(mu_) = 0, waiting_ ABSL_GUARDED_BY(mu_) = 0, connected_ ABSL_GUARDED_BY(mu_) = 0;
  bool recalled_ ABSL_GUARDED_BY(mu_) = false, stopped_ ABSL_GUARDED_BY(mu_) = false,
                 ending_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace mainstay::worker
