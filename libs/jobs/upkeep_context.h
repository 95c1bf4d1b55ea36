// SPDX-License-Identifier: Apache-2.0
// What the parts of upkeep share: PostgreSQL, Redis, the queues as they were last read, and handing out.
//
// Belongs to the one thread of Upkeep; so do all its parts. Not for users of the library.
#pragma once

#include <atomic>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "libs/jobs/engine.h"
#include "libs/jobs/in_hand.h"
#include "libs/postgres/pool.h"

namespace mainstay::jobs {

// A stream: of a queue and priority, and of one route if it is a lane.
struct StreamId {
  std::string queue;
  int priority = 4;
  std::string lane;
  friend auto operator<=>(const StreamId&, const StreamId&) = default;
  std::string Key() const { return StreamKey(queue, priority, lane); }
};

// A queue with its live workers, read once a second.
struct QueueState {
  bool weighted = false;  // priorities
  int concurrency = 0;
  double rate = 0, tenant_rate = 0;  // per second; 0: any
  bool paused = false;
  int workers = 0;                      // live ones that take from it
  std::set<std::string> shared;         // routes that all of them announced, and nobody wants a lane for
  std::set<std::string> lanes;          // all others: these have streams of their own
  std::set<std::string> served;         // announced by somebody
  std::set<std::string> closing;        // lanes that are read until they are empty, but not written
  std::set<std::string> written_lanes;  // as PostgreSQL has them
  bool closed() const { return concurrency > 0 || rate > 0 || tenant_rate > 0; }
};

struct UpkeepContext {
  UpkeepContext(const EngineOptions& options, const Uuid& worker, postgres::Pool& pool)
      : options(options), worker(worker), pool(pool), redis(options.redis) {}

  // One statement, committed by itself.
  absl::Status Query(absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body);
  absl::Status Transaction(absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body);
  // XADD in pipelines. Never sent again when the outcome is unknown: the sweeper raises the fence first.
  absl::Status Publish(const std::vector<Handout>& handouts);
  // Raises fences and hands out; jobs that have used up their crashes are dead. Empty vectors: nobody is blamed.
  absl::Status Reissue(const std::vector<std::pair<Uuid, int64_t>>& jobs, const std::vector<int>& crashes,
                       const std::vector<int>& suspicions);
  // Queues, workers and pauses as they are now.
  absl::Status Refresh();
  // All streams that there are, lanes too.
  std::vector<StreamId> Streams() const;

  const EngineOptions& options;
  const Uuid worker;
  postgres::Pool& pool;
  redis::Client redis;
  bool redis_away = false;
  bool redis_full = false;  // so it takes no entries; everybody's trouble, while `redis_away` may be ours alone
  // When PostgreSQL last failed us: leases are not judged until they could be renewed.
  absl::Time trouble = absl::InfinitePast();
  std::atomic<int64_t> reissued{0};

  std::map<std::string, QueueState> queues;
  std::set<std::pair<std::string, int>> windows;  // queue and priority
  std::set<std::string> paused_kinds, paused_tenants;
  std::set<int64_t> paused_keys;
  std::map<std::string, int> tenant_weights;
  std::string routes = "{}";  // all that live workers announced, as an array literal
  // Counts up when what may go has changed: other pauses, other workers.
  int64_t version = 0;
  // Jobs that went to the backlog behind their tenant's position, by queue and priority; taken by the dispatcher.
  std::map<std::pair<std::string, int>, std::vector<Uuid>> returned;
};

// XGROUP CREATE for all of them, from the first entry; those that exist already are fine.
absl::Status CreateGroups(redis::Client& redis, const std::vector<std::string>& streams);
// Changes nothing, but is refused (OOM …) when Redis would refuse an entry for want of memory.
inline redis::Command MemoryProbe() {
  return {"SETRANGE", kEpochKey, "0", ""};
}
// The entry's own field; nullopt for foreign entries and those deleted under a pending id.
std::optional<Entry> EntryOf(const redis::Reply& item);
// "lag" of a flat reply of names and values; "" when it isn't there.
std::string Field(const redis::Reply& flat, std::string_view name);

}  // namespace mainstay::jobs
