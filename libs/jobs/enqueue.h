// SPDX-License-Identifier: Apache-2.0
// Adding jobs, in the caller's own transaction: if it commits the job exists, if it rolls back it never did.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "libs/base/ids.h"
#include "libs/base/principal.h"
#include "libs/jobs/job_options.h"
#include "libs/redis/client.h"

namespace pqxx {
class transaction_base;
}
namespace mainstay::postgres {
class Pool;
}

namespace mainstay::jobs {

class Sealer;

inline constexpr size_t kMaxArgs = 256 << 10;
inline constexpr size_t kMaxBatch = 10000;

// Among whom a unique key is unique, always within a tenant.
enum class UniqueScope { kKind, kQueue, kTenant };
// The key is free again with the next one of these, in UTC.
enum class UniqueBucket { kNone, kMinute, kHour, kDay, kWeek, kMonth };
// What happens when another job holds the key. kReplace: a job that has not started gets the new arguments (and their
// version); one that was handed out already goes out anew under a raised fence.
enum class OnConflict { kIgnore, kReplace, kReject };

// Lower-case words joined by dots.
bool IsKind(std::string_view kind);
inline constexpr char kKindForm[] =
    "expected lower-case words joined by dots, like \"mail.send\", at most 100 characters";

struct JobSpec {
  std::string kind;  // "webhooks.process"
  std::string queue = "default";
  std::string args = "{}";                   // JSON, at most 256 KiB
  std::optional<int> priority;               // 0 first … 9 last; default: the queue's
  absl::Time run_at = absl::InfinitePast();  // not before
  std::string unique_key;                    // empty: none. Held until the job is final, or as said below
  std::string ordering_key;         // jobs of one key run one after another, in order of enqueue. Scoped by tenant
  std::optional<int> max_attempts;  // default: the queue's
  std::vector<std::string> tags;
  std::optional<absl::Time> deadline;  // drop if not started by then
  std::string catalog_hash;
  std::string tenant;  // only for principals of all tenants, who must name one; empty: the principal's
  // This job's own tenant, principal, traceparent and request id instead of the call's (webhooks of many senders are
  // enqueued in one statement). Outlives the call.
  const CallContext* context = nullptr;

  UniqueScope unique_scope = UniqueScope::kKind;
  // At most for so long after enqueue, or until the next bucket begins. One of them, or none.
  absl::Duration unique_for = absl::ZeroDuration();
  UniqueBucket unique_bucket = UniqueBucket::kNone;
  bool unique_keep = false;  // the whole period, also when the job is final before
  OnConflict on_conflict = OnConflict::kIgnore;
  // At most so many jobs of the tenant with this key run at once. Such jobs wait for the dispatcher, which counts.
  std::string concurrency_key;
  std::optional<int> concurrency_limit;
  int version = 0;          // of the kind: only workers that announced it get the job
  bool sensitive = false;   // the arguments are sealed; needs a Sealer
  std::string traceparent;  // W3C; empty: the call's
  JobOptions options;
};

struct Enqueued {
  Uuid id;
  bool existed = false;   // the unique key was taken: this is the job that holds it
  bool replaced = false;  // and it has the new arguments
  // For Handoff: what the stream entry needs when the job went in as `published`.
  std::string stream, entry;
  std::optional<int64_t> key;  // hash of its ordering key, which may be free now
};

// Inserts all jobs with one statement; refuses all with a problem that names the field (items by index:
// "/items/3/queue"; unique-violation for OnConflict::kReject). Roll back after a refusal. Tenant, principal,
// traceparent and request id are taken from `context`. After the commit pass the result to Handoff::Publish; forgetting
// it (or crashing first) only delays the jobs until the sweeper's next round. A queue must be known, unless the spec
// names the catalog it was checked against.
absl::StatusOr<std::vector<Enqueued>> Enqueue(pqxx::transaction_base& tx, const CallContext& context,
                                              absl::Span<const JobSpec> jobs, const Sealer* sealer = nullptr);

// All that can be said of the jobs without the database: OK, or validation-failed.
absl::Status Validate(const CallContext& context, absl::Span<const JobSpec> jobs);

// Whether Enqueue needs more than one statement: else it may run without BEGIN and COMMIT (Pool::Autocommit).
bool NeedsTransaction(absl::Span<const JobSpec> jobs);

// Tells Redis of committed jobs. Never fails the caller: what Redis does not take waits in PostgreSQL for the
// dispatcher.
class Handoff {
 public:
  virtual ~Handoff() = default;
  virtual void Publish(absl::Span<const Enqueued> jobs) = 0;
};

// The real one: a thread of its own with a connection of its own, so that Publish only appends to a bounded list.
// Concurrent calls travel in one pipeline. An XADD whose outcome is unknown is never sent again (two entries with one
// fence would be two holders): the sweeper raises the fence and hands out anew.
class RedisHandoff : public Handoff {
 public:
  // `pool` is used to promote ordering keys (needs only mainstay.promote_job_keys); it must outlive this.
  RedisHandoff(redis::ClientOptions redis, postgres::Pool& pool);
  ~RedisHandoff() override;  // sends what it still has
  void Publish(absl::Span<const Enqueued> jobs) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mainstay::jobs
