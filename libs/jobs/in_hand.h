// SPDX-License-Identifier: Apache-2.0
// Inside the engine: a job that this worker holds, how a run of it ended, and what the engine's parts share. Not for
// users of the library.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <pqxx/pqxx>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/base/text.h"
#include "libs/jobs/arrays.h"
#include "libs/jobs/backoff.h"
#include "libs/jobs/handler.h"
#include "libs/jobs/job_options.h"
#include "libs/jobs/keys.h"
#include "libs/jobs/sql.h"

namespace mainstay::postgres {
class Pool;
}

namespace mainstay::jobs {

// An entry to be added to a stream once the transaction that decided it has committed.
struct Handout {
  std::string stream, entry;
};

// Why a handler was told to stop.
enum class Stop : int { kNone, kSoftLimit, kShutdown, kFenced };

// What a handler is given, wherever it runs: plain data that can cross to another process.
struct JobData {
  Uuid id;
  int64_t fence = 0;
  int attempt = 0;  // failed runs before this one
  int max_attempts = 20;
  int version = 0;  // of its kind
  std::string kind, queue, args, checkpoint;
  std::string tenant, principal;  // principal: JSON as in the row
  std::string traceparent, request_id;
  absl::Duration soft_limit;
  BackoffPolicy backoff;
  bool follows = false;  // it runs behind another of its key, of which the result may not be stored yet
};

// Jobs of one key that follow each other here, the holder of the key's slot first.
struct KeyRun {
  std::vector<std::pair<Uuid, int64_t>> jobs;  // ids and fences; constant
  size_t length = 0;                           // those still to be run here, or done; the engine's lock
};

struct InHand : JobData {
  // Constant once it is in the list.
  int crashes = 0, max_crashes = 3;
  bool suspect = false;  // was in a process that died: runs with no other beside it
  std::string sealed;    // sensitive arguments as they stand in the row, in hex, until they are opened for the handler
  int priority = 4;
  std::optional<int64_t> key;
  absl::Duration hard_limit;
  std::string stream, entry_id;  // empty: claimed from PostgreSQL; only a stream: its key went on here
  absl::Time taken;              // when it was read (Mono)
  absl::Duration waited;         // from when it could run to `taken`, by PostgreSQL's clock
  std::shared_ptr<KeyRun> run;   // null: alone
  size_t turn = 0;               // its place there
  int followers = 0;             // that waited behind it for its key when it was checked, kManyFollowers at most

  // Shared between threads.
  std::atomic<Stop> stop{Stop::kNone};
  std::atomic<int64_t> started_us{0};  // the handler's start (Mono); 0: waiting. Read it through Started().
  std::atomic<const std::atomic<int64_t>*> child_started{
      nullptr};                               // the same as a child writes it, while it runs there
  std::atomic<int64_t> ran_us{0};             // how long the handler took; 0: it has not returned
  int runner = 0;                             // index of the runner it was given to
  int place = -1;                             // its runner's own note, under its lock
  std::vector<std::shared_ptr<InHand>> rest;  // of its run, each to be started once the one before it is done; moved on
                                              // with the first
  std::atomic<bool> marked{false};            // written `running`: its entry has left the stream
  std::atomic<bool> finished{false};          // its outcome waits to be stored
  std::atomic<bool> finished_in{false};       // by the handler's own transaction
  absl::Mutex mu;
  std::vector<Handout> successors ABSL_GUARDED_BY(mu);  // of FinishIn, to be handed out after the handler's commit

  int64_t Started() const {
    const std::atomic<int64_t>* child = child_started;
    return child != nullptr ? child->load(std::memory_order_relaxed) : started_us.load(std::memory_order_relaxed);
  }
};
using InHandPtr = std::shared_ptr<InHand>;

// How a job left its runner.
struct Finished {
  enum class How {
    kRan,        // its handler returned `outcome`
    kReturned,   // handed out anew, at no cost (shutdown; its process was killed for another's fault)
    kUnstarted,  // its process ended before it started: it waits here for another
    kSuspect,    // its process died while it and others ran
    kCrashed,    // its process died while it ran alone; `outcome` holds the evidence
    kElsewhere,  // nobody here may run it: looked at again in two seconds, by whoever may
    kLost,       // its worker, elsewhere, was silent for a lease: as if this had been a worker of the suite
    kLeft,       // its handler, elsewhere, lives on when this worker ends: stays ours until the lease runs out
  };
  InHandPtr job;
  Outcome outcome;
  How how = How::kRan;
  bool alone = false;  // kLost: its worker held no other
};

// A column of which most rows have nothing: a NULL is written only where a value follows.
class RareArray {
 public:
  explicit RareArray(BinaryArray::Type type) : array_(type) {}
  void Add(std::string_view value) {
    while (skipped_ > 0) array_.AddNull(), --skipped_;
    array_.Add(value);
  }
  void AddNull() { ++skipped_; }  // trailing NULLs: unnest pads
  pqxx::binarystring Finish() { return array_.Finish(); }

 private:
  BinaryArray array_;
  int skipped_ = 0;
};

// A batch of results for kComplete, kRetry or kCrash.
struct CompleteArrays {
  BinaryArray ids{BinaryArray::kUuid}, fences{BinaryArray::kInt8}, states{BinaryArray::kInt2};
  RareArray results{BinaryArray::kText}, codes{BinaryArray::kText}, messages{BinaryArray::kText};
  BinaryArray ran{BinaryArray::kInt4}, took{BinaryArray::kFloat8};
  int size = 0;
  // An error is recorded when `code` is not empty.
  void Add(const Uuid& id, int64_t fence, int state, const std::string* result, std::string_view code,
           std::string_view message, int counted, double seconds);
};
struct RetryArrays {
  BinaryArray ids{BinaryArray::kUuid}, fences{BinaryArray::kInt8}, delays{BinaryArray::kFloat8};
  RareArray codes{BinaryArray::kText}, messages{BinaryArray::kText};
  int size = 0;
  void Add(const Uuid& id, int64_t fence, absl::Duration delay, std::string_view code, std::string_view message);
};
// Puts one outcome into the batch that stores it. `took`: seconds in the handler, negative when it did not start.
void Sort(const JobData& job, const Outcome& outcome, double took, CompleteArrays& complete, RetryArrays& retry);

// (id, fence) of jobs, for statements that take just these.
struct FencedIds {
  BinaryArray ids{BinaryArray::kUuid}, fences{BinaryArray::kInt8};
  void Add(const JobData& job) {
    ids.Add(job.id);
    fences.AddInt8(job.fence);
  }
};

inline constexpr int kStateScheduled = 1, kStateBlocked = 2, kStateReady = 3, kStatePublished = 4, kStateRunning = 5,
                     kStateSucceeded = 6, kStateDiscarded = 7, kStateCancelled = 8, kStateDead = 9;
inline constexpr int kManyFollowers = 8;  // kCheck counts no further
inline constexpr size_t kMaxCheckpoint = 64 << 10;

template <typename... Args>
pqxx::result Run(pqxx::transaction_base& tx, const sql::Named& statement, Args&&... args) {
  tx.conn().prepare(statement.name, statement.text);
  return tx.exec_prepared(statement.name, std::forward<Args>(args)...);
}

// Reads (id, fence, attempt, kind, queue, priority, args) from the first columns of a row.
Handout ReadHandout(const pqxx::row& row, Entry* entry = nullptr);

// In the caller's transaction: stores final results and passes the keys on. Returns how many rows still matched;
// `freed` gets the keys to promote once more after the commit, `handouts` what to add to the streams after it. `turns`:
// the next of each run that goes on. `idle_ms`: how long the transaction may be idle afterwards, when it is a
// handler's.
int64_t Complete(pqxx::transaction_base& tx, CompleteArrays&& batch, const Uuid* worker, const std::string& worker_name,
                 std::vector<int64_t>* freed, std::vector<Handout>* handouts,
                 const std::vector<std::pair<Uuid, int64_t>>& turns = {}, const char* idle_ms = nullptr);
// The same for retries and snoozes. Returns how many rows still matched; `stored`, if given, gets their ids.
int64_t Retry(pqxx::transaction_base& tx, RetryArrays&& batch, const std::string& worker_name,
              std::vector<Uuid>* stored = nullptr, const char* idle_ms = nullptr);

// The same for jobs that are handed out anew: kReissue.
pqxx::result Reissue(pqxx::transaction_base& tx, FencedIds&& jobs, int target,
                     BinaryArray crashes = BinaryArray(BinaryArray::kInt2),
                     BinaryArray suspicions = BinaryArray(BinaryArray::kInt2));
// After what raised fences outside of these: ends the runs of the keys that stand in this column.
void CutRuns(pqxx::transaction_base& tx, const pqxx::result& rows, int column);

// Of these jobs, those whose rows somebody else has locked: a statement of many that met a lock
// (postgres::IsLockTimeout) goes on without them.
absl::StatusOr<absl::flat_hash_set<Uuid>> LockedByOthers(postgres::Pool& pool, BinaryArray ids);

// For intervals: never jumps, compares only with itself on this machine.
absl::Time Mono();
int64_t MonoMicros();

// Text that a row can take: UTF-8 without NUL, cut.
std::string CleanText(std::string_view text, size_t limit);

}  // namespace mainstay::jobs
