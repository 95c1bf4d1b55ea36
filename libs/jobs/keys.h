// SPDX-License-Identifier: Apache-2.0
// Every name in Redis that belongs to jobs, and who deletes what.
//
//   mainstay:jobs:{<queue>}:<priority>   stream of handed-out jobs; bounded by the window, so it never holds the
//   backlog. The hash tag keeps a queue on one node.
//                                        Added to by producers (after commit), the dispatcher and the sweeper.
//                                        Acknowledged by the worker that stored the result; trimmed by workers up to
//                                        the oldest entry that is pending or undelivered; a job that outlives a
//                                        heartbeat is acknowledged and deleted on its own.
//   mainstay:jobs:{<queue>}:<priority>:<route>
//                                        a lane: the same for one kind (or one version of it) that some of the queue's
//                                        workers did not announce, so that only those read it that did. Added to by the
//                                        dispatcher alone; deleted by it once the lane is closed and empty.
//   group `workers` on each              made by whoever meets NOGROUP, from entry 0. Consumers are worker ids; deleted
//                                        by the elected worker once they have nothing pending.
//   mainstay:jobs:epoch                  a random value set by the elected worker; its absence (flush, restart without
//                                        persistence) starts a full reconcile.
//   mainstay:jobs:rate:{<queue>}:<what>  token bucket of a rate limit; expires by itself once it would be full.
//
// An entry has one field, named after the version of its layout: v1 = "<uuid> <fence> <attempt> <kind> <args or
// nothing>". Args over 4 KiB and sensitive ones are not in it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "libs/base/ids.h"

namespace mainstay::jobs {

inline constexpr char kGroup[] = "workers";
inline constexpr char kEpochKey[] = "mainstay:jobs:epoch";
inline constexpr char kEntryField[] = "v1";
inline constexpr size_t kMaxInlineArgs = 4096;

// An empty lane is the stream that all workers of the queue share.
std::string StreamKey(std::string_view queue, int priority, std::string_view lane = {});
// What a worker announces and what lanes are named after: "mail.send", from version 1 on "mail.send@1". The same in
// SQL: mainstay.job_route.
std::string Route(std::string_view kind, int version = 0);

// What travels in an entry. `args` is absent when they must be read from the row.
struct Entry {
  Uuid id;
  int64_t fence = 1;
  int attempt = 0;  // runs that ended in an error so far
  std::string kind;
  std::optional<std::string> args;
};
std::string EncodeEntry(const Entry& entry);
// nullopt for what no version of ours wrote: it is dropped, the row decides.
std::optional<Entry> DecodeEntry(std::string_view text);

}  // namespace mainstay::jobs
