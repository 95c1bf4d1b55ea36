// SPDX-License-Identifier: Apache-2.0
// Jobs by the clock: what a schedule is, what becomes of its fire times, and what operators do with it.
//
// A fire time becomes one row of mainstay.schedule_runs, inserted in one transaction with its job and with the position
// up to which the schedule is decided: it exists whole or not at all, once, whoever tries. The clock is PostgreSQL's.
// Which times there are follows from the position, the cron and the zone data of the process that decides; nothing else
// is remembered. Rules for users: README.md. Functions here take the caller's transaction; any thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/cron.h"
#include "libs/base/principal.h"
#include "libs/jobs/enqueue.h"

namespace mainstay::jobs {

enum class Missed { kSkip, kLast, kAll };
enum class Overlap { kAllow, kSkip, kQueue, kReplace };
enum class FireOutcome { kEnqueued, kMissed, kOverlap, kRefused };
std::string_view Name(FireOutcome outcome);

// As the catalog declares it.
struct ScheduleSpec {
  std::string name, tenant, kind, queue = "default", args = "{}", cron, zone = "UTC";
  std::string role;              // whose rights its jobs have; empty: none
  std::string missed = "last";   // skip last all
  std::string overlap = "skip";  // allow skip queue replace
  absl::Duration missed_window = absl::Hours(24);
  bool paused = false;
};
struct DeclaredSchedules {
  std::string catalog_hash;  // empty: no catalog is loaded
  std::vector<ScheduleSpec> schedules;
};

// What becomes of the times in (decided_until, now], oldest first, at most `limit` of them: the rest is for the next
// call. The latest is on time when it is at most `grace` old; the others, and it if it is older, were missed. Times
// older than the window (or the grace, when that is longer) are left out.
struct DueTime {
  absl::Time at;
  bool missed = false;
  bool runs = false;  // by the policy for missed times
};
std::vector<DueTime> DueTimes(const Cron& cron, const absl::TimeZone& zone, absl::Time decided_until, absl::Time now,
                              Missed policy, absl::Duration window, absl::Duration grace, int limit);

// The catalog's schedules replace those before. A new one, or one whose cron, zone or declared pause changed, starts
// from now; pauses by operators stay. false: another catalog is active (this worker's, or another leader's, is late).
absl::StatusOr<bool> SyncSchedules(pqxx::transaction_base& tx, const DeclaredSchedules& declared,
                                   std::optional<absl::Time> now = std::nullopt);

struct Fired {
  std::vector<Enqueued> enqueued;  // for Handoff::Publish after the commit
  std::vector<FireOutcome> outcomes;
};
// Decides the due times of one schedule, at most `limit`; nothing when none is due (any more). Locks its row.
absl::StatusOr<Fired> FireSchedule(pqxx::transaction_base& tx, const std::string& name, absl::Duration grace, int limit,
                                   std::optional<absl::Time> now = std::nullopt);
// After FireSchedule failed for good (the job was refused): the same times with their reason instead of jobs.
absl::StatusOr<Fired> RefuseSchedule(pqxx::transaction_base& tx, const std::string& name, absl::Duration grace,
                                     int limit, std::string_view reason, std::optional<absl::Time> now = std::nullopt);

// ---- operators; another tenant's schedule is not-found ----

// No time of it becomes a job until it is resumed. Survives deploys. Runs by hand stay possible.
absl::Status PauseSchedule(pqxx::transaction_base& tx, const CallContext& context, const std::string& name,
                           std::string_view reason);
// Goes on from now: what was due meanwhile is not made up for. rule-violation when the catalog itself says `paused`.
absl::Status ResumeSchedule(pqxx::transaction_base& tx, const CallContext& context, const std::string& name,
                            std::optional<absl::Time> now = std::nullopt);
struct StartedRun {
  Uuid id;
  std::vector<Enqueued> enqueued;
};
// A run beside the clock, now. Its job acts as the schedule, not as the caller. rule-violation when the one before is
// not finished and the schedule's overlap is `skip`.
absl::StatusOr<StartedRun> RunSchedule(pqxx::transaction_base& tx, const CallContext& context, const std::string& name);
// The next fire times, from the position on; empty while it is paused.
absl::StatusOr<std::vector<absl::Time>> NextRuns(pqxx::transaction_base& tx, const CallContext& context,
                                                 const std::string& name, int count,
                                                 std::optional<absl::Time> now = std::nullopt);

}  // namespace mainstay::jobs
