// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/scheduler.h"

#include <algorithm>
#include <pqxx/pqxx>

#include "libs/base/clock.h"
#include "libs/base/status.h"
#include "libs/jobs/in_hand.h"
#include "libs/jobs/schedule_sql.h"
#include "libs/postgres/errors.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"
#include "libs/telemetry/metrics.h"
#include "prometheus/counter.h"

namespace mainstay::jobs {
namespace {

// The longest sleep: a schedule may have been resumed by another process.
constexpr absl::Duration kMaxSleep = absl::Seconds(5);
// Batches of one schedule per step, so that a long list of missed times does not hold up the rest of the upkeep.
constexpr int kMaxBatches = 20;

absl::Time Deadline() {
  return absl::Now() + absl::Seconds(10);
}

void Count(const Fired& fired) {
  for (const FireOutcome outcome : fired.outcomes)
    metrics::Counter("mainstay_schedule_runs_total", "Fire times of schedules by what became of them",
                     {{"outcome", std::string(Name(outcome))}})
        .Increment();
}

}  // namespace

void Scheduler::Restart() {
  synced_.clear();
  asked_ = wake_ = absl::InfinitePast();
}

absl::Status Scheduler::Step(std::optional<absl::Time> now) {
  const absl::Time start = Mono();
  absl::Status status;
  if (options_.declared && (now.has_value() || start - asked_ >= absl::Seconds(1))) {
    asked_ = start;
    status.Update(Sync(now));
  }
  if (!now.has_value() && start < wake_) return status;

  absl::Time clock, next = absl::InfiniteFuture();
  std::vector<std::string> due;
  const absl::Status looked = pool_.Autocommit(Deadline(), [&](pqxx::transaction_base& tx) -> absl::Status {
    const std::string at = now.has_value() ? FormatTimestamp(*now) : "";
    due.clear();
    for (const auto& row : Run(tx, sql::kUpcoming, at.empty() ? nullptr : at.c_str())) {
      clock = absl::FromUnixMicros(row[0].as<int64_t>());
      if (row[1].is_null()) continue;
      next = absl::FromUnixMicros(row[2].as<int64_t>());
      if (next > clock) break;
      due.emplace_back(row[1].c_str());
    }
    return absl::OkStatus();
  });
  status.Update(looked);
  for (const std::string& name : due) status.Update(Fire(name, now));
  if (!status.ok()) {
    wake_ = Mono() + absl::Seconds(1);
  } else if (!due.empty()) {
    wake_ = absl::InfinitePast();  // the next times are to be read
  } else {
    wake_ = Mono() + std::clamp(next - clock, absl::ZeroDuration(), kMaxSleep);
  }
  if (looked.ok() && start - pruned_ >= absl::Hours(1)) {
    status.Update(pool_.Autocommit(Deadline(), [&](pqxx::transaction_base& tx) -> absl::Status {
      Run(tx, sql::kPruneRuns, absl::ToDoubleSeconds(options_.retention));
      return absl::OkStatus();
    }));
    pruned_ = start;
  }
  return status;
}

absl::Status Scheduler::Sync(std::optional<absl::Time> now) {
  const DeclaredSchedules declared = options_.declared();
  if (declared.catalog_hash.empty() || declared.catalog_hash == synced_) return absl::OkStatus();
  bool active = false;
  RETURN_IF_ERROR(pool_.Transaction(Deadline(), [&](pqxx::transaction_base& tx) -> absl::Status {
    ASSIGN_OR_RETURN(active, SyncSchedules(tx, declared, now));
    return absl::OkStatus();
  }));
  if (active) {
    synced_ = declared.catalog_hash;
    wake_ = absl::InfinitePast();
  }
  return absl::OkStatus();
}

absl::Status Scheduler::Fire(const std::string& name, std::optional<absl::Time> now) {
  for (int batch = 0; batch < kMaxBatches; ++batch) {
    Fired fired;
    const absl::Status status = pool_.Transaction(Deadline(), [&](pqxx::transaction_base& tx) -> absl::Status {
      ASSIGN_OR_RETURN(fired, FireSchedule(tx, name, options_.grace, options_.batch, now));
      return absl::OkStatus();
    });
    if (absl::IsInvalidArgument(status)) {
      // The job itself is wrong and stays so: its times are kept as refused, or it would try for ever.
      log::Error("a schedule's job was refused", {{"schedule", name}, {"error", std::string(status.message())}});
      RETURN_IF_ERROR(pool_.Transaction(Deadline(), [&](pqxx::transaction_base& tx) -> absl::Status {
        ASSIGN_OR_RETURN(fired,
                         RefuseSchedule(tx, name, options_.grace, options_.batch, std::string(status.message()), now));
        return absl::OkStatus();
      }));
    } else {
      RETURN_IF_ERROR(status);
    }
    if (options_.handoff != nullptr && !fired.enqueued.empty()) options_.handoff->Publish(fired.enqueued);
    Count(fired);
    if (static_cast<int>(fired.outcomes.size()) < options_.batch) break;
  }
  return absl::OkStatus();
}

}  // namespace mainstay::jobs
