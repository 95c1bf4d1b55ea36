// SPDX-License-Identifier: Apache-2.0
// Inside the engine: a job that this worker holds, and the helpers that its parts share. Not for users of the library.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <pqxx/pqxx>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "libs/base/principal.h"
#include "libs/base/text.h"
#include "libs/jobs/handler.h"
#include "libs/jobs/job_options.h"
#include "libs/jobs/keys.h"
#include "libs/jobs/sql.h"

namespace mainstay::jobs {

// An entry to be added to a stream once the transaction that decided it has committed.
struct Handout {
  std::string stream, entry;
};

// Why a handler was told to stop.
enum class Stop : int { kNone, kSoftLimit, kShutdown, kFenced };

struct InHand {
  // Constant once it is in the list.
  Uuid id;
  int64_t fence = 0;
  int attempt = 0;  // failed runs before this one
  int max_attempts = 20;
  std::string kind, queue, args, checkpoint;
  std::string sealed;  // sensitive arguments as they stand in the row, in hex; opened for the handler alone
  int priority = 4;
  std::optional<int64_t> key;
  CallContext context;
  absl::Duration soft_limit, hard_limit;
  JobOptions options;            // what it asks for instead of its queue's
  std::string stream, entry_id;  // empty: claimed from PostgreSQL
  absl::Time taken;              // when it was read (Mono)
  absl::Duration waited;         // from when it could run to `taken`, by PostgreSQL's clock

  // Shared between threads.
  std::atomic<Stop> stop{Stop::kNone};
  std::atomic<int64_t> started_us{0};    // the handler's start (Mono); 0: waiting
  std::atomic<int64_t> ran_us{0};        // how long the handler took; 0: it has not returned
  std::atomic<bool> marked{false};       // written `running`: its entry has left the stream
  std::atomic<bool> finished{false};     // its outcome waits to be stored
  std::atomic<bool> finished_in{false};  // by the handler's own transaction
  absl::Mutex mu;
  std::vector<Handout> successors ABSL_GUARDED_BY(mu);  // of FinishIn, to be handed out after the handler's commit
};
using InHandPtr = std::shared_ptr<InHand>;

// A batch of results for kComplete or kRetry, as array literals.
struct CompleteArrays {
  PgArray ids, fences, states, results, codes, messages, ran, took;
  int size = 0;
  // An error is recorded when `code` is not empty.
  void Add(const Uuid& id, int64_t fence, int state, const std::string* result, std::string_view code,
           std::string_view message, int counted, double seconds);
};
struct RetryArrays {
  PgArray ids, fences, delays, codes, messages;
  int size = 0;
  void Add(const Uuid& id, int64_t fence, absl::Duration delay, std::string_view code, std::string_view message);
};

inline constexpr int kStateScheduled = 1, kStateBlocked = 2, kStateReady = 3, kStatePublished = 4, kStateRunning = 5,
                     kStateSucceeded = 6, kStateDiscarded = 7, kStateCancelled = 8, kStateDead = 9;

template <typename... Args>
pqxx::result Run(pqxx::transaction_base& tx, const sql::Named& statement, Args&&... args) {
  tx.conn().prepare(statement.name, statement.text);
  return tx.exec_prepared(statement.name, std::forward<Args>(args)...);
}

// Reads (id, fence, attempt, kind, queue, priority, args) from the first columns of a row.
Handout ReadHandout(const pqxx::row& row, Entry* entry = nullptr);

// In the caller's transaction: stores final results and passes the keys on. Returns how many rows still matched;
// `freed` gets the keys to promote once more after the commit, `handouts` what to add to the streams after it.
int64_t Complete(pqxx::transaction_base& tx, CompleteArrays&& batch, const Uuid* worker, const std::string& worker_name,
                 std::vector<int64_t>* freed, std::vector<Handout>* handouts);

// For intervals: never jumps, compares only with itself on this machine.
absl::Time Mono();

// Text that a row can take: UTF-8 without NUL, cut.
std::string CleanText(std::string_view text, size_t limit);

}  // namespace mainstay::jobs
