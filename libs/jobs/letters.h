// SPDX-License-Identifier: Apache-2.0
// Dead letters: what went wrong, grouped; a job's arguments put right; dead jobs brought back, one or many.
//
// Rows and fences only, in the caller's transaction; what is to be handed out goes to Handoff::Publish after its
// commit. A dead job moves from history to the hot table in one statement, so two that bring it back cannot both do so.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "libs/base/ids.h"
#include "libs/base/principal.h"
#include "libs/jobs/enqueue.h"

namespace mainstay::jobs {

struct ReviveRequest {
  std::string tenant;  // whose jobs; '*' for all
  std::string by, reason;
  std::string operation;  // "jop_…" when it is one that asks; remembered with the job
  absl::Time finished_before = absl::InfiniteFuture();
};
struct Revived {
  std::vector<Uuid> ids;
  std::vector<Enqueued> publish;
  std::vector<Uuid> taken;  // stay dead: another job holds their unique key now
};
// Dead jobs run again with fresh budgets, under a raised fence; what is not dead (any more) is left alone. Each
// remembers by whom and why (options.retried).
absl::StatusOr<Revived> Revive(pqxx::transaction_base& tx, absl::Span<const Uuid> ids, const ReviveRequest& request);

// New arguments (JSON) for a dead job or one that waits; its fence is raised, so an entry on its way counts no more.
// rule-violation while it runs, when it ended otherwise, and for sensitive arguments; validation-failed when they are
// too long.
absl::StatusOr<std::vector<Enqueued>> EditArgs(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id,
                                               std::string_view args, std::string_view reason);

// Forgets a finished job. rule-violation while it is not final.
absl::Status DeleteJob(pqxx::transaction_base& tx, const CallContext& context, const Uuid& id);

struct FingerprintView {
  std::string fingerprint, kind, queue;
  int64_t count = 0;
  absl::Time first_seen, last_seen;
  std::string code, message;  // of the newest
  Uuid job;
};
struct FingerprintQuery {
  std::string queue, kind;  // empty: any
  std::optional<absl::Time> since;
  int limit = 50;
};
// Dead jobs of the caller's tenant by what went wrong, most frequent first.
absl::StatusOr<std::vector<FingerprintView>> ListFingerprints(pqxx::transaction_base& tx, const CallContext& context,
                                                              const FingerprintQuery& query);

}  // namespace mainstay::jobs
