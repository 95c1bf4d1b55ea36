// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/upkeep.h"

#include <algorithm>

#include "libs/base/status.h"
#include "libs/jobs/flows.h"
#include "libs/telemetry/log.h"
#include "libs/telemetry/metrics.h"

namespace mainstay::jobs {

Upkeep::Upkeep(const EngineOptions& options, const Uuid& worker, postgres::Pool& pool)
    : options_(options),
      context_(options_, worker, pool),
      lease_(pool,
             {.name = "jobs-upkeep", .holder = worker.ToString(), .ttl = options.lease, .margin = options.lease / 5}),
      dispatcher_(context_),
      promoter_(context_),
      sweeper_(context_),
      reclaimer_(context_),
      history_(context_),
      scheduler_({.declared = options.schedules,
                  .handoff = options.handoff,
                  .grace = 2 * options.lease,
                  .retention = options.retention},
                 pool),
      held_up_(metrics::Gauge("mainstay_jobs_upkeep_held_up",
                              "1 while PostgreSQL or Redis refuse what the upkeep of the queues needs")) {}

Upkeep::~Upkeep() {
  Stop();
}

void Upkeep::Start() {
  thread_ = std::thread([this] { Run(); });
}

void Upkeep::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void Upkeep::Run() {
  absl::Time last_lead = absl::InfinitePast();
  std::string last_error;
  while (true) {
    const absl::Time now = Mono();
    absl::Duration pause = options_.dispatch_interval;
    absl::Status status;
    if (now - last_lead > options_.lease / 3) {
      last_lead = now;
      status = Lead(now);
    }
    if (leading_ && !lease_.held()) leading_ = false;
    if (leading_) status.Update(Round(now, &pause));
    if (!status.ok() && status.message() != last_error) {
      last_error = std::string(status.message());
      log::Warn("upkeep of the queues is held up", {{"error", last_error}});
      held_up_.Set(1);
    } else if (status.ok() && !last_error.empty()) {
      last_error.clear();
      held_up_.Set(0);
      log::Info("upkeep of the queues goes on");
    }
    if (!status.ok()) pause = std::max(options_.dispatch_interval, absl::Milliseconds(200));
    absl::MutexLock lock(&mu_);
    if (mu_.AwaitWithTimeout(absl::Condition(&stopping_), pause)) break;
  }
  leading_ = false;
  lease_.Release().IgnoreError();
}

absl::StatusOr<bool> Upkeep::MakesWay(absl::Time now) {
  if (!context_.redis_away || context_.redis_full) {
    away_since_ = absl::InfiniteFuture();
    return false;
  }
  away_since_ = std::min(away_since_, now);
  if (now - away_since_ < options_.lease) return false;  // as long as the others need to find out
  bool other = false;
  RETURN_IF_ERROR(context_.Query([&](pqxx::transaction_base& tx) -> absl::Status {
    other = !jobs::Run(tx, sql::kCouldLead, context_.worker.ToString()).empty();
    return absl::OkStatus();
  }));
  return other;
}

absl::Status Upkeep::Lead(absl::Time now) {
  if (now - made_way_ < 2 * options_.lease) return absl::OkStatus();
  if (leading_) {
    ASSIGN_OR_RETURN(const bool way, MakesWay(now));
    if (way) {
      log::Warn("Redis is out of this worker's reach, but not of others': one of them does the upkeep");
      leading_ = false;
      made_way_ = now;
      away_since_ = absl::InfiniteFuture();
      return lease_.Release();
    }
  }
  const bool led = leading_;
  const absl::StatusOr<bool> won = lease_.TryAcquire();
  leading_ = lease_.held();  // PostgreSQL away: nobody else can take the lease, but nothing can be done either
  if (leading_ && !led) {
    log::Info("this worker does the upkeep now", {{"worker", context_.worker.ToString()}});
    refresh_ = peek_ = limits_ = loose_ = reclaim_ = minute_ = purge_ = consumers_ = Step();
    context_.trouble = now - options_.lease + options_.heartbeat;  // workers that are alive have had time for a renewal
    context_.redis_away = false;
    context_.returned.clear();
    dispatcher_.Reset();
    sweeper_.Reset();
    scheduler_.Restart();
  }
  return won.status();
}

absl::Status Upkeep::Round(absl::Time now, absl::Duration* pause) {
  absl::Status status;
  // A step that failed is due again at once; the others go on without it.
  auto step = [&](Step& when, absl::Duration period, absl::FunctionRef<absl::Status()> run) {
    if (!when.Due(now)) return;
    absl::Status ran = run();
    if (ran.ok()) when.at = Mono() + period;
    status.Update(std::move(ran));
  };
  step(refresh_, absl::Seconds(1), [&]() -> absl::Status {
    RETURN_IF_ERROR(context_.Refresh());
    return dispatcher_.Refreshed();
  });
  if (!status.ok()) return status;  // without it nothing is known
  step(minute_, absl::Minutes(1), [&]() -> absl::Status { return history_.Days(); });
  step(purge_, absl::Seconds(10), [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const bool more, history_.Purge());
    if (more) *pause = absl::ZeroDuration();
    return absl::OkStatus();
  });

  bool changed = false;
  if (absl::Status redis = sweeper_.CheckEpoch(&changed); !redis.ok()) {
    dispatcher_.CloseWindows();
    status.Update(std::move(redis));
  }
  if (changed) dispatcher_.Rewind();

  step(peek_, options_.dispatch_interval, [&]() -> absl::Status { return dispatcher_.Peek(); });
  if (dispatcher_.due()) {
    const absl::StatusOr<bool> more = promoter_.Due();
    status.Update(more.status());
    if (more.ok() && *more) {
      *pause = absl::ZeroDuration();
    } else {
      dispatcher_.PromotedAll();
    }
  }
  status.Update(scheduler_.Step());
  if (dispatcher_.limited()) {
    step(limits_, absl::Milliseconds(20), [&]() -> absl::Status { return promoter_.Limits(); });
    *pause = std::min(*pause, absl::Milliseconds(20));
  }
  const absl::StatusOr<absl::Duration> wait = dispatcher_.Round();
  status.Update(wait.status());
  if (wait.ok()) *pause = std::min(*pause, *wait);
  if (!context_.redis_away) {
    status.Update(sweeper_.Sweep());
    if (reclaim_.Due(now)) status.Update(reclaimer_.Pending());
    step(consumers_, absl::Minutes(1), [&]() -> absl::Status { return reclaimer_.Consumers(); });
  }
  // A walk through all that waits for a key: the longer one took, the longer until the next.
  bool more_keys = false;
  step(loose_, std::max(std::min(options_.sweep, absl::Seconds(5)), loose_took_ * 20), [&]() -> absl::Status {
    const absl::Time start = Mono();
    const absl::StatusOr<bool> more = promoter_.LooseKeys();
    absl::Status settled = more.status();
    settled.Update(SettleFlows(context_.pool));
    loose_took_ = Mono() - start;
    more_keys = more.ok() && *more;
    return settled;
  });
  if (more_keys) loose_ = Step();
  step(reclaim_, options_.lease / 3, [&]() -> absl::Status {
    // After trouble with PostgreSQL nobody is judged before everyone could renew.
    return now - context_.trouble > options_.lease ? reclaimer_.Expired() : absl::OkStatus();
  });
  return status;
}

}  // namespace mainstay::jobs
