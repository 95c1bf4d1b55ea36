// SPDX-License-Identifier: Apache-2.0
// What the author of a job writes: a function from a job to an outcome, registered by kind.
//
// A job may run again after a crash or a lost reply: handlers are idempotent, and FinishIn gives exactly-once effects
// in PostgreSQL. Handlers run in child processes of the worker (worker_main.h), several at once on threads; one that
// crashes takes only its child down.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "libs/base/ids.h"
#include "libs/base/principal.h"

namespace pqxx {
class transaction_base;
}
namespace mainstay::postgres {
class Pool;
}

namespace mainstay::jobs {

struct Outcome {
  enum class Kind { kDone, kRetry, kSnooze, kDiscard, kDead };
  Kind kind = Kind::kDone;
  std::string result = "null";          // JSON, at most 64 KiB (kDone)
  std::string code, message;            // of an error
  std::optional<absl::Duration> after;  // kRetry: instead of the policy's delay; kSnooze: for how long

  static Outcome Done(std::string result_json = "null");
  static Outcome Retry(std::string code, std::string message, std::optional<absl::Duration> after = std::nullopt);
  static Outcome Snooze(absl::Duration after);  // costs no attempt
  static Outcome Discard(std::string reason);
  static Outcome Dead(std::string code, std::string message);  // never again by itself
  // Transient codes (Unavailable, Aborted, DeadlineExceeded, ResourceExhausted, Internal, Unknown) retry, honouring the
  // problem's retry_after; the others are dead.
  static Outcome FromStatus(const absl::Status& status);
};

// The job as its handler sees it.
class RunningJob {
 public:
  virtual ~RunningJob() = default;
  virtual const Uuid& id() const = 0;
  virtual std::string_view kind() const = 0;
  virtual int version() const = 0;            // of the kind: what its args look like; 0 unless the producer said
  virtual std::string_view args() const = 0;  // JSON
  virtual int64_t fence() const = 0;
  virtual int attempt() const = 0;  // from 1
  // Acts as the job's principal; the deadline is the soft limit.
  virtual const CallContext& context() const = 0;
  virtual bool cancelled() const = 0;  // soft limit, cancel, shutdown or fenced: stop soon
  // Last stored checkpoint, JSON; empty when none.
  virtual std::string_view checkpoint() const = 0;
  // Stored under the fence; FailedPrecondition "fenced" when the job was handed to someone else: stop.
  virtual absl::Status SaveCheckpoint(std::string_view json) = 0;
  // percent: 0 to 100. message: at most 500 bytes. counters: "rows" → 1000.
  virtual absl::Status Progress(double percent, std::string_view message,
                                const std::map<std::string, int64_t>& counters = {}) = 0;
  // Finishes the job inside the handler's own transaction: its effects and the completion commit together or not at
  // all. Fails with "fenced" when the fence is stale (roll back). The last statement of the transaction: PostgreSQL
  // ends one that has not been committed 5 s later. Return Outcome::Done afterwards; the worker sees that it is stored.
  virtual absl::Status FinishIn(pqxx::transaction_base& tx, const Outcome& outcome) = 0;
  // The worker's database, for handlers; it connects when it is first used.
  virtual postgres::Pool& pool() = 0;
};

using Handler = std::function<Outcome(RunningJob&)>;

// A kind of job as workers announce it (kinds.h).
struct KindSpec {
  std::string kind;
  int version = 0;     // of its arguments
  std::string schema;  // JSON Schema of them (libs/base/json_schema.h); empty: anything
};

// Kinds and their handlers. Filled at start, constant afterwards.
class Registry {
 public:
  // `versions`: of the kind's arguments that the handler understands; a worker never gets a job of another version.
  // Dies when one is registered twice: a programming error.
  void Register(const std::string& kind, Handler handler, const std::vector<int>& versions = {0});
  const Handler* Find(std::string_view route) const;
  // What a worker announces: "mail.send", from version 1 on "mail.send@1".
  std::vector<std::string> routes() const;

  // What the arguments of a kind look like: enqueue over HTTP and gRPC refuses others. Dies of a schema that could not
  // be checked whole.
  void SetSchema(const std::string& kind, std::string schema, int version = 0);
  // All kinds and versions, for AnnounceKinds.
  std::vector<KindSpec> specs() const;

 private:
  std::map<std::string, Handler, std::less<>> handlers_;
  std::map<std::pair<std::string, int>, std::string> schemas_;  // of all kinds; empty: none
};

}  // namespace mainstay::jobs
