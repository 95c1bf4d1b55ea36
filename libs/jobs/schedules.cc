// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/schedules.h"

#include <algorithm>
#include <pqxx/pqxx>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "libs/base/clock.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/text.h"
#include "libs/jobs/in_hand.h"
#include "libs/jobs/schedule_sql.h"
#include "libs/jobs/store.h"
#include "libs/postgres/errors.h"
#include "libs/telemetry/log.h"

namespace mainstay::jobs {
namespace {

// Jobs of one schedule that may wait for one another; further times are left out like overlapping ones.
constexpr size_t kMaxQueued = 1000;

absl::Status NoSuchSchedule() {
  return MakeProblem("not-found", "no such schedule");
}

std::string Actor(std::string_view schedule) {
  return absl::StrCat("schedule:", std::string(schedule));
}

// An optional time as a parameter: text, or NULL.
class TimeParameter {
 public:
  explicit TimeParameter(std::optional<absl::Time> time) {
    if (time.has_value() && *time != absl::InfiniteFuture()) text_ = FormatTimestamp(*time);
  }
  const char* get() const { return text_.empty() ? nullptr : text_.c_str(); }

 private:
  std::string text_;
};

// A row of mainstay.schedules, locked.
struct Locked {
  ScheduleSpec spec;
  Missed missed = Missed::kLast;
  Overlap overlap = Overlap::kSkip;
  std::string catalog_hash;
  absl::Time decided_until, now;
  bool off = false, paused = false;
  Cron cron;
  absl::TimeZone zone;
};

absl::StatusOr<Locked> ReadLocked(const pqxx::row& row) {
  Locked out;
  ScheduleSpec& s = out.spec;
  int c = 0;
  for (std::string* text :
       {&s.name, &s.tenant, &s.kind, &s.queue, &s.args, &s.cron, &s.zone, &s.role, &s.missed, &s.overlap}) {
    *text = row[c++].c_str();
  }
  s.missed_window = absl::Seconds(row[c++].as<double>());
  out.catalog_hash = row[c++].c_str();
  out.decided_until = absl::FromUnixMicros(row[c++].as<int64_t>());
  out.now = absl::FromUnixMicros(row[c++].as<int64_t>());
  out.off = row[c++].as<bool>();
  out.paused = row[c++].as<bool>();
  out.missed = s.missed == "all" ? Missed::kAll : s.missed == "last" ? Missed::kLast : Missed::kSkip;
  out.overlap = s.overlap == "allow"   ? Overlap::kAllow
                : s.overlap == "queue" ? Overlap::kQueue
                : s.overlap == "skip"  ? Overlap::kSkip
                                       : Overlap::kReplace;
  ASSIGN_OR_RETURN(out.cron, Cron::Parse(s.cron));
  ASSIGN_OR_RETURN(out.zone, LoadZone(s.zone));
  return out;
}

std::string ArgsAt(const Locked& schedule, absl::Time at) {
  return absl::StrReplaceAll(
      schedule.spec.args,
      {{"\"{scheduled_at}\"", absl::StrCat("\"", FormatTimestamp(at), "\"")},
       {"\"{scheduled_date}\"", absl::StrCat("\"", absl::FormatTime("%Y-%m-%d", at, schedule.zone), "\"")}});
}

absl::StatusOr<std::vector<Uuid>> Unfinished(pqxx::transaction_base& tx, const Locked& schedule) {
  std::vector<Uuid> jobs;
  for (const auto& row : Run(tx, sql::kUnfinishedRuns, schedule.spec.tenant, Actor(schedule.spec.name))) {
    ASSIGN_OR_RETURN(const Uuid id, ParseUuid(row[0].c_str()));
    jobs.push_back(id);
  }
  return jobs;
}

struct Decision {
  absl::Time at;
  FireOutcome outcome;
  Uuid id;
};

// The rows, the jobs of those that are new, and the end of the jobs they replace.
absl::StatusOr<std::vector<Enqueued>> Store(pqxx::transaction_base& tx, const Locked& schedule,
                                            std::vector<Decision>& decisions, const std::vector<Uuid>& replaced,
                                            const char* by, const char* error) {
  std::vector<Enqueued> publish;
  if (decisions.empty()) return publish;
  PgArray times, ids, outcomes;
  for (Decision& d : decisions) {
    d.id = NewUuid();
    times.Add(FormatTimestamp(d.at));
    ids.Add(d.id.ToString());
    outcomes.Add(Name(d.outcome));
  }
  const std::string actor = Actor(schedule.spec.name);
  std::vector<std::string> fresh;
  for (const auto& row :
       Run(tx, sql::kInsertRuns, schedule.spec.name, schedule.spec.tenant, by, error, schedule.catalog_hash,
           std::move(times).Finish(), std::move(ids).Finish(), std::move(outcomes).Finish()))
    fresh.emplace_back(row[0].c_str());

  CallContext context;
  context.principal = {.tenant = schedule.spec.tenant, .subject = actor};
  if (!schedule.spec.role.empty()) context.principal.roles = {schedule.spec.role};
  std::vector<JobSpec> specs;
  PgArray run_ids;
  for (const Decision& d : decisions) {
    if (d.outcome != FireOutcome::kEnqueued || std::find(fresh.begin(), fresh.end(), d.id.ToString()) == fresh.end())
      continue;
    run_ids.Add(d.id.ToString());
    specs.push_back({.kind = schedule.spec.kind,
                     .queue = schedule.spec.queue,
                     .args = ArgsAt(schedule, d.at),
                     .run_at = d.at,
                     // Only one at a time, and the way to find those that are not finished.
                     .ordering_key = schedule.overlap == Overlap::kAllow ? "" : actor,
                     .tags = {actor},
                     .catalog_hash = schedule.catalog_hash});
  }
  if (specs.empty()) return publish;
  for (const Uuid& job : replaced) {
    absl::StatusOr<std::vector<Enqueued>> next = CancelJob(tx, context, job, "its next run replaces it");
    if (next.ok()) {
      publish.insert(publish.end(), next->begin(), next->end());
    } else if (!absl::IsNotFound(next.status()) && postgres::GetSqlError(next.status()).has_value()) {
      return next.status();
    }  // else: it has just ended by itself
  }
  ASSIGN_OR_RETURN(std::vector<Enqueued> added, Enqueue(tx, context, specs));
  PgArray jobs;
  for (const Enqueued& job : added) jobs.Add(job.id.ToString());
  Run(tx, sql::kSetRunJobs, std::move(run_ids).Finish(), std::move(jobs).Finish());
  publish.insert(publish.end(), std::make_move_iterator(added.begin()), std::make_move_iterator(added.end()));
  return publish;
}

absl::Status Advance(pqxx::transaction_base& tx, const Locked& schedule, absl::Time position) {
  const TimeParameter next(schedule.cron.Next(position, schedule.zone));
  Run(tx, sql::kAdvanceSchedule, schedule.spec.name, FormatTimestamp(position), next.get());
  return absl::OkStatus();
}

absl::StatusOr<Fired> Decide(pqxx::transaction_base& tx, const std::string& name, absl::Duration grace, int limit,
                             const char* refusal, std::optional<absl::Time> now) {
  const pqxx::result rows = Run(tx, sql::kLockDue, name, TimeParameter(now).get());
  if (rows.empty()) return Fired();
  ASSIGN_OR_RETURN(const Locked schedule, ReadLocked(rows[0]));
  const std::vector<DueTime> due = DueTimes(schedule.cron, schedule.zone, schedule.decided_until, schedule.now,
                                            schedule.missed, schedule.spec.missed_window, grace, limit);
  std::vector<Uuid> unfinished, replaced;
  if (schedule.overlap != Overlap::kAllow) {
    ASSIGN_OR_RETURN(unfinished, Unfinished(tx, schedule));
  }
  std::vector<Decision> decisions;
  size_t waiting = unfinished.size();
  for (const DueTime& time : due) {
    FireOutcome outcome = FireOutcome::kMissed;
    if (time.runs) {
      outcome = refusal != nullptr ? FireOutcome::kRefused : FireOutcome::kEnqueued;
      // Times that `all` makes up for were asked for one by one: they wait for each other.
      const bool made_up = time.missed && schedule.missed == Missed::kAll;
      if (schedule.overlap == Overlap::kReplace && !made_up) {
        for (Decision& earlier : decisions)
          if (earlier.outcome == FireOutcome::kEnqueued) earlier.outcome = FireOutcome::kOverlap;
        replaced = unfinished;
        waiting = 0;
      } else if (schedule.overlap != Overlap::kAllow &&
                 waiting >= (schedule.overlap == Overlap::kSkip && !made_up ? 1 : kMaxQueued)) {
        outcome = FireOutcome::kOverlap;
      }
      if (outcome == FireOutcome::kEnqueued) ++waiting;
    }
    decisions.push_back({time.at, outcome});
  }
  Fired fired;
  ASSIGN_OR_RETURN(fired.enqueued, Store(tx, schedule, decisions, replaced, nullptr, refusal));
  for (const Decision& d : decisions) fired.outcomes.push_back(d.outcome);
  RETURN_IF_ERROR(
      Advance(tx, schedule,
              static_cast<int>(due.size()) == limit ? due.back().at : std::max(schedule.now, schedule.decided_until)));
  return fired;
}

// Exceptions of libpqxx become statuses.
template <typename F>
auto Guarded(F body) -> decltype(body()) {
  try {
    return body();
  } catch (...) {
    return postgres::StatusFromCurrentException();
  }
}

}  // namespace

std::string_view Name(FireOutcome outcome) {
  switch (outcome) {
    case FireOutcome::kEnqueued:
      return "enqueued";
    case FireOutcome::kMissed:
      return "missed";
    case FireOutcome::kOverlap:
      return "overlap";
    case FireOutcome::kRefused:
      return "refused";
  }
  return "";
}

std::vector<DueTime> DueTimes(const Cron& cron, const absl::TimeZone& zone, absl::Time decided_until, absl::Time now,
                              Missed policy, absl::Duration window, absl::Duration grace, int limit) {
  std::vector<DueTime> due;
  absl::Time at = cron.Next(std::max(decided_until, now - std::max(window, grace) - absl::Microseconds(1)), zone);
  while (at <= now && static_cast<int>(due.size()) < limit) {
    const absl::Time next = cron.Next(at, zone);
    const bool latest = next > now, missed = !latest || now - at > grace;
    due.push_back(
        {.at = at, .missed = missed, .runs = !missed || policy == Missed::kAll || (latest && policy == Missed::kLast)});
    at = next;
  }
  return due;
}

absl::StatusOr<bool> SyncSchedules(pqxx::transaction_base& tx, const DeclaredSchedules& declared,
                                   std::optional<absl::Time> now) {
  return Guarded([&]() -> absl::StatusOr<bool> {
    if (!Run(tx, sql::kCatalogIsActive, declared.catalog_hash)[0][0].as<bool>()) return false;
    PgArray names, tenants, kinds, queues, args, crons, zones, roles, missed, windows, overlaps, off, all;
    for (const ScheduleSpec& s : declared.schedules) {
      names.Add(s.name);
      all.Add(s.name);
      tenants.Add(s.tenant);
      kinds.Add(s.kind);
      queues.Add(s.queue);
      args.Add(s.args);
      crons.Add(s.cron);
      zones.Add(s.zone);
      roles.Add(s.role);
      missed.Add(s.missed);
      windows.Add(absl::StrCat(absl::ToDoubleSeconds(s.missed_window)));
      overlaps.Add(s.overlap);
      off.Add(s.paused ? "true" : "false");
    }
    const TimeParameter clock(now);
    Run(tx, sql::kSyncSchedules, std::move(names).Finish(), std::move(tenants).Finish(), std::move(kinds).Finish(),
        std::move(queues).Finish(), std::move(args).Finish(), std::move(crons).Finish(), std::move(zones).Finish(),
        std::move(roles).Finish(), std::move(missed).Finish(), std::move(windows).Finish(),
        std::move(overlaps).Finish(), std::move(off).Finish(), declared.catalog_hash, clock.get());
    Run(tx, sql::kUndeclareSchedules, std::move(all).Finish(), clock.get());
    // The next times anew, for all: the zone data of this process may be newer than what they were made with.
    PgArray running, times;
    for (const auto& row : Run(tx, sql::kSchedulePositions)) {
      const auto cron = Cron::Parse(row[1].c_str());
      const auto zone = LoadZone(row[2].c_str());
      if (!cron.ok() || !zone.ok()) {
        log::Error("a schedule rests, for this worker cannot read it",
                   {{"schedule", row[0].c_str()},
                    {"error", std::string((cron.ok() ? zone.status() : cron.status()).message())}});
        continue;
      }
      const absl::Time next = cron->Next(absl::FromUnixMicros(row[3].as<int64_t>()), *zone);
      if (next == absl::InfiniteFuture()) continue;
      running.Add(row[0].c_str());
      times.Add(FormatTimestamp(next));
    }
    Run(tx, sql::kSetNextTimes, std::move(running).Finish(), std::move(times).Finish());
    // Again, with the rows locked: whoever copies a newer catalog does it after us, or has done so already.
    if (!Run(tx, sql::kCatalogIsActive, declared.catalog_hash)[0][0].as<bool>())
      return absl::AbortedError("another catalog became active while its schedules were copied");
    return true;
  });
}

absl::StatusOr<Fired> FireSchedule(pqxx::transaction_base& tx, const std::string& name, absl::Duration grace, int limit,
                                   std::optional<absl::Time> now) {
  return Guarded([&] { return Decide(tx, name, grace, limit, nullptr, now); });
}

absl::StatusOr<Fired> RefuseSchedule(pqxx::transaction_base& tx, const std::string& name, absl::Duration grace,
                                     int limit, std::string_view reason, std::optional<absl::Time> now) {
  const std::string text = CleanText(reason, 2000);
  return Guarded([&] { return Decide(tx, name, grace, limit, text.c_str(), now); });
}

absl::Status PauseSchedule(pqxx::transaction_base& tx, const CallContext& context, const std::string& name,
                           std::string_view reason) {
  return Guarded([&]() -> absl::Status {
    if (Run(tx, sql::kPauseSchedule, name, context.principal.subject, CleanText(reason, 2000), context.principal.tenant)
            .empty())
      return NoSuchSchedule();
    return absl::OkStatus();
  });
}

absl::Status ResumeSchedule(pqxx::transaction_base& tx, const CallContext& context, const std::string& name,
                            std::optional<absl::Time> now) {
  return Guarded([&]() -> absl::Status {
    const pqxx::result rows = Run(tx, sql::kLockSchedule, name, TimeParameter(now).get(), context.principal.tenant);
    if (rows.empty()) return NoSuchSchedule();
    ASSIGN_OR_RETURN(const Locked schedule, ReadLocked(rows[0]));
    if (schedule.paused) Run(tx, sql::kResumeSchedule, name);
    if (schedule.off)
      return MakeProblem("rule-violation", "the catalog says that this schedule is paused; publish one that does not");
    return schedule.paused ? Advance(tx, schedule, schedule.now) : absl::OkStatus();
  });
}

absl::StatusOr<StartedRun> RunSchedule(pqxx::transaction_base& tx, const CallContext& context,
                                       const std::string& name) {
  return Guarded([&]() -> absl::StatusOr<StartedRun> {
    const pqxx::result rows =
        Run(tx, sql::kLockSchedule, name, TimeParameter(std::nullopt).get(), context.principal.tenant);
    if (rows.empty()) return NoSuchSchedule();
    ASSIGN_OR_RETURN(const Locked schedule, ReadLocked(rows[0]));
    std::vector<Uuid> unfinished, replaced;
    if (schedule.overlap != Overlap::kAllow) {
      ASSIGN_OR_RETURN(unfinished, Unfinished(tx, schedule));
    }
    if (schedule.overlap == Overlap::kReplace) {
      replaced = unfinished;
    } else if (unfinished.size() >= (schedule.overlap == Overlap::kSkip ? 1 : kMaxQueued)) {
      return MakeProblem("rule-violation",
                         absl::StrCat("an earlier run is not finished: ", FormatId("job", unfinished[0])));
    }
    // Never on a whole second: those are the clock's.
    std::vector<Decision> run = {{schedule.now, FireOutcome::kEnqueued}};
    if (schedule.now == absl::FromUnixSeconds(absl::ToUnixSeconds(schedule.now))) run[0].at += absl::Microseconds(1);
    StartedRun out;
    ASSIGN_OR_RETURN(out.enqueued, Store(tx, schedule, run, replaced, context.principal.subject.c_str(), nullptr));
    if (out.enqueued.empty()) return MakeProblem("transaction-conflict", "another run started in the same moment");
    out.id = run[0].id;
    return out;
  });
}

absl::StatusOr<std::vector<absl::Time>> NextRuns(pqxx::transaction_base& tx, const CallContext& context,
                                                 const std::string& name, int count, std::optional<absl::Time> now) {
  return Guarded([&]() -> absl::StatusOr<std::vector<absl::Time>> {
    const pqxx::result rows = Run(tx, sql::kReadPosition, name, context.principal.tenant, TimeParameter(now).get());
    if (rows.empty()) return NoSuchSchedule();
    if (rows[0][3].as<bool>()) return std::vector<absl::Time>();
    ASSIGN_OR_RETURN(const Cron cron, Cron::Parse(rows[0][0].c_str()));
    ASSIGN_OR_RETURN(const absl::TimeZone zone, LoadZone(rows[0][1].c_str()));
    return cron.NextRuns(absl::FromUnixMicros(rows[0][2].as<int64_t>()), zone, count);
  });
}

}  // namespace mainstay::jobs
