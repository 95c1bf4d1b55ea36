// SPDX-License-Identifier: Apache-2.0
// The parts of a worker, by the way of a job: reading.cc (streams → start check → waiting), engine.cc (waiting → runner
// → finished), storing.cc (finished → rows → acknowledged), leases.cc (what is in hand stays ours). Inside the engine.
//
// One mutex guards the lists between the parts; it is held for batches, never for I/O. Runners have locks of their own,
// which are never held while they call the engine, except for Store.
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "libs/jobs/engine.h"
#include "libs/jobs/in_hand.h"
#include "libs/jobs/runner.h"
#include "libs/jobs/shares.h"
#include "libs/jobs/stats.h"
#include "libs/jobs/upkeep.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"

namespace mainstay::jobs {

struct EngineMetrics {
  EngineMetrics();
  prometheus::Counter &succeeded, &discarded, &dead, &retried, &snoozed, &returned, &crashed, &fenced, &claimed;
  prometheus::Gauge &in_hand, &leading;
  prometheus::Histogram& run;
};

struct Engine::Impl : RunnerHost, std::enable_shared_from_this<Engine::Impl> {
  Impl(EngineOptions options, std::vector<std::shared_ptr<Runner>> runners, postgres::Pool& pool);

  absl::Status StartAll();
  bool DrainAll(absl::Duration deadline);
  EngineStats Stats();

  // ---- engine.cc ----
  void Finish(std::vector<Finished> runs) override;
  void Wake() override;
  void Store(InHandPtr job, Note note, std::string json, std::function<void(absl::Status)> done) override;
  absl::StatusOr<Adopted> Adopt(const Runner& by, const std::vector<std::pair<Uuid, int64_t>>& jobs) override;
  // Hands what waits to runners that have credit.
  void Pump();
  // How many jobs of this kind may follow each other on one thread, by how long they took of late.
  size_t RunLength(const std::string& kind) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // A job of a run that was not started, after others. True: it is to be handed out anew; else it is forgotten.
  bool EndsRun(InHand& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // What was to follow a job that will not be run here.
  void DropRest(InHand& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // Asks the runners what they run. True when that has changed.
  bool RefreshRoutes();
  int RunnerOf(const std::string& route) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  void FinishLocked(Finished f) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // Jobs at runners: those that outlive this process, or the others.
  int Given(bool outliving) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  void UpdateRate() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  QueuePolicy PolicyOf(const std::string& queue) const {
    return options.policy ? options.policy(queue) : QueuePolicy();
  }
  // What statements are told of `takes`; null: all queues.
  const char* QueuesOrNull() const { return options.takes.empty() ? nullptr : queues.c_str(); }
  void NotesLoop();

  // ---- reading.cc ----
  struct StreamOf {
    std::string key, queue, lane;
    int priority;
  };
  void ReaderLoop();
  absl::Status RefreshStreams();
  int Credit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  int CreditFor(const std::string& lane);
  absl::Status Read(int credit);
  // The first of what goes on here, of this stream.
  void TakeOn(const std::string& stream, int count, std::vector<InHandPtr>& batch, std::vector<bool>& has_args);
  absl::Status Recover();
  // Takes the reply of one XREADGROUP apart. Returns how many entries it had, by stream in `got`.
  absl::Status Entries(const redis::Reply& reply, std::map<std::string, int>* got, std::vector<InHandPtr>& batch,
                       std::vector<bool>& has_args);
  void Check(std::vector<InHandPtr>& batch, const std::vector<bool>& has_args);
  enum class Verdict { kRun, kLate, kElsewhere };
  Verdict Fill(const pqxx::row& columns, InHand& job, int first = 0);
  // Takes along what may follow the holders of keys among these.
  void TakeRuns(const std::vector<InHandPtr>& jobs);
  void Admit(const std::vector<InHandPtr>& jobs, const std::vector<Verdict>& verdicts);
  void PutBack(const std::vector<InHandPtr>& jobs);
  absl::StatusOr<int> Claim(int credit);
  void Pause(absl::Duration duration);

  // ---- storing.cc ----
  void StoreLoop();
  void StoreBatch(std::vector<Finished>& batch);
  bool Persist(std::vector<Finished>& batch, bool transaction,
               absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body, absl::Status* refused);
  void SetAside(std::vector<Finished>& batch);
  void WaitBehind(std::vector<Finished>& batch);
  std::vector<std::pair<Uuid, int64_t>> Turns(const std::vector<Finished>& batch);
  bool StoreOutcomes(std::vector<Finished>& batch, std::vector<int64_t>& freed, std::vector<Handout>& handouts);
  bool StoreCrashes(std::vector<Finished>& batch, std::vector<int64_t>& freed, std::vector<Handout>& handouts);
  bool Verify(std::vector<Finished>& batch, std::vector<Finished>& plain, std::vector<Finished>& keyed,
              std::vector<Handout>& handouts, std::vector<int64_t>& freed);
  bool GiveBack(std::vector<Finished>& batch, int target, std::vector<Handout>& handouts);
  bool StoreLost(std::vector<Finished>& batch, std::vector<int64_t>& freed, std::vector<Handout>& handouts);
  // Tells runners that want to know which of these outcomes count; `all`: they do.
  void TellStored(const std::vector<Finished>& batch, bool all, const std::vector<Uuid>& retried_ids);
  void Acknowledge(const std::vector<std::pair<std::string, std::string>>& entries,
                   const std::vector<Handout>& handouts, bool remove = true);
  void Count(const Finished& finished);
  // Keeps of these successors of finished jobs what this worker is to run next; leaves the others, for their streams.
  void GoOn(std::vector<Handout>& successors);
  // What was to go on here, to the ends of its streams. `after`: only what has waited for so long.
  void GiveUpGoingOn(absl::Duration after = absl::ZeroDuration());

  // ---- leases.cc ----
  void HeartbeatLoop();
  absl::Status RenewLease(bool draining);
  bool Beat(bool all);
  void ListRemote();
  bool Mark(const std::vector<InHandPtr>& jobs);
  void KeepAlive(const std::vector<InHandPtr>& jobs);
  absl::StatusOr<absl::flat_hash_set<Uuid>> Held(const std::vector<InHandPtr>& jobs);
  void Fence(const InHandPtr& job);
  void Limits(absl::Time now);

  // Constant after construction.
  const EngineOptions options;
  const std::vector<std::shared_ptr<Runner>> runners;
  postgres::Pool& pool;
  const Uuid id;
  const std::string consumer;
  const std::string queues;  // that it takes, as an array literal
  EngineMetrics metrics;
  StatsAccumulator figures;

  redis::Client reader_redis;  // blocks
  redis::Client redis;         // everything else
  Upkeep upkeep;
  std::thread reading, storing, noting, beating;
  bool started_ok = false;
  std::atomic<bool> drained{false}, redis_down{false}, redis_full{false}, mark_all{false}, left{false};
  std::atomic<int64_t> succeeded{0}, retried{0}, dead{0}, fenced{0}, claimed{0}, reissued{0};

  std::string listed_remote = "[]";  // the heartbeat's

  // The storing thread's: results of jobs whose rows somebody else holds, and when to try again.
  std::vector<std::pair<absl::Time, Finished>> aside;

  // The reader's.
  Shares shares;
  int odd = 0;
  std::vector<StreamOf> streams;  // those it reads: not paused, lanes of what its runners run
  std::map<std::pair<std::string, int>, Uuid> claim_position;

  absl::Mutex pump_mu;  // one pump at a time, so that none gives beyond the credit another saw; before mu
  absl::Mutex mu;
  std::map<std::string, int, std::less<>> routes ABSL_GUARDED_BY(mu);  // → index of the runner
  std::string announced_lanes ABSL_GUARDED_BY(mu);                     // of these the ones that only other programs run
  std::string announced ABSL_GUARDED_BY(mu);                           // the same as an array literal
  std::vector<std::deque<InHandPtr>> waiting ABSL_GUARDED_BY(mu);      // by runner
  std::map<std::string, double, std::less<>> run_micros ABSL_GUARDED_BY(mu);  // of late, by kind, of jobs with a key
  absl::flat_hash_map<std::pair<Uuid, int64_t>, InHandPtr> in_hand
      ABSL_GUARDED_BY(mu);                              // everything read and checked, until it is stored
  std::vector<InHandPtr> checking ABSL_GUARDED_BY(mu);  // read, being checked
  // Successors of keyed jobs that were finished here, by stream: they hold their keys' slots and are in no stream. Only
  // the reader takes from it.
  std::map<std::string, std::deque<std::pair<absl::Time, std::string>>, std::less<>> going_on ABSL_GUARDED_BY(mu);
  size_t going_on_size ABSL_GUARDED_BY(mu) = 0;
  bool in_redis ABSL_GUARDED_BY(mu) = false;  // the reader waits for an entry there
  std::vector<Finished> finished ABSL_GUARDED_BY(mu);
  std::set<std::string> all_streams ABSL_GUARDED_BY(mu);  // that it ever read
  std::vector<int> given ABSL_GUARDED_BY(mu);             // at runners, by runner
  int64_t executed ABSL_GUARDED_BY(mu) = 0, rate_count ABSL_GUARDED_BY(mu) = 0;
  double rate ABSL_GUARDED_BY(mu) = 0;
  absl::Time rate_at ABSL_GUARDED_BY(mu) = absl::InfinitePast();
  bool stop_reading ABSL_GUARDED_BY(mu) = false, stop_running ABSL_GUARDED_BY(mu) = false,
                    stop_storing ABSL_GUARDED_BY(mu) = false,
                    stop_heartbeat ABSL_GUARDED_BY(mu) = false, give_up ABSL_GUARDED_BY(mu) = false;

  struct PendingNote {
    InHandPtr job;
    Note note;
    std::string json;
    std::function<void(absl::Status)> done;
  };
  absl::Mutex notes_mu;  // apart: runners call Store with their own lock held
  std::vector<PendingNote> notes ABSL_GUARDED_BY(notes_mu);
  bool stop_notes ABSL_GUARDED_BY(notes_mu) = false;
};

}  // namespace mainstay::jobs
