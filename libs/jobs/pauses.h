// SPDX-License-Identifier: Apache-2.0
// Pauses of a queue, a kind, a tenant or an ordering key, and why a job waits. Both are rows: a pause survives deploys
// and says who made it and why; it ends when it is taken away or its time has come.
//
// While it holds nothing of what it names starts; enqueue goes on, running jobs finish. Read by the dispatcher once a
// second and by every start check, so what is in a stream already does not slip through.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/ids.h"
#include "libs/base/principal.h"

namespace pqxx {
class transaction_base;
}

namespace mainstay::jobs {

struct PauseSpec {
  std::string scope;   // "queue", "kind", "tenant" or "key"
  std::string name;    // of the queue, kind or tenant; the ordering key
  std::string tenant;  // whose key; empty: the caller's
  std::string reason;
  std::optional<absl::Time> ends_at;
};
struct PauseView {
  Uuid id;
  std::string scope, name, tenant, author, reason;
  absl::Time created_at;
  std::optional<absl::Time> ends_at;
};

// Takes the place of an older pause of the same thing. Kinds and queues concern every tenant; of tenants and keys a
// caller may pause only its own, unless it is of all tenants.
absl::StatusOr<PauseView> AddPause(pqxx::transaction_base& tx, const CallContext& context, const PauseSpec& spec);
// Those in force that concern the caller's tenant.
absl::StatusOr<std::vector<PauseView>> ListPauses(pqxx::transaction_base& tx, const CallContext& context);
// not-found when there is none (any more).
absl::Status EndPause(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id);

struct Reason {
  std::string code;    // "paused", "concurrency_key", … : see Explain
  std::string detail;  // one sentence
};
struct Explanation {
  std::string state;
  std::vector<Reason> reasons;
};
// What a job waits for, all at once, in the order in which it would have to go away: scheduled, retry, snoozed, paused,
// flow, ordering_key, concurrency_key, no_worker, no_handler, queue_concurrency, rate_limit, backlog, handed_out; or
// that it is running or finished. Counts stop at 1000.
absl::StatusOr<Explanation> Explain(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id);

}  // namespace mainstay::jobs
