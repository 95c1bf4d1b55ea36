// SPDX-License-Identifier: Apache-2.0
#include "services/worker/monitoring.h"

#include <google/protobuf/util/time_util.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <pqxx/pqxx>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "libs/base/ids.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/jobs/in_hand.h"
#include "libs/postgres/errors.h"
#include "libs/telemetry/metrics.h"
#include "prometheus/gauge.h"
#include "services/worker/queue_stats.h"

namespace mainstay::worker {
namespace {

namespace pb = mainstay::jobs::v1;
using jobs::RunOutcome;

google::protobuf::Timestamp ToProto(absl::Time time) {
  return google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(absl::ToUnixMicros(time));
}
google::protobuf::Timestamp Micros(const pqxx::field& field) {
  return google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(field.is_null() ? 0 : field.as<int64_t>());
}

void Fill(const jobs::LatencyHistogram& histogram, pb::LatencyStats* out) {
  if (const int64_t count = histogram.count(); count > 0) {
    out->set_mean_seconds(histogram.seconds / static_cast<double>(count));
    out->set_p50_seconds(*histogram.Quantile(0.5));
    out->set_p95_seconds(*histogram.Quantile(0.95));
    out->set_p99_seconds(*histogram.Quantile(0.99));
  }
  for (size_t i = 0; i < histogram.counts.size(); ++i) {
    pb::LatencyBucket* bucket = out->add_buckets();
    if (i < jobs::kLatencyBounds.size()) bucket->set_up_to_seconds(jobs::kLatencyBounds[i]);
    bucket->set_count(histogram.counts[i]);
  }
}

void Fill(const jobs::RunFigures& figures, pb::RunStats* out) {
  const auto of = [&](RunOutcome outcome) { return figures.outcomes[static_cast<int>(outcome)]; };
  out->set_succeeded(of(RunOutcome::kSucceeded));
  out->set_failed(of(RunOutcome::kFailed));
  out->set_dead(of(RunOutcome::kDead));
  out->set_discarded(of(RunOutcome::kDiscarded));
  out->set_snoozed(of(RunOutcome::kSnoozed));
  if (figures.seconds > 0) out->set_runs_per_second(static_cast<double>(figures.runs()) / figures.seconds);
  const int64_t judged = figures.runs() - of(RunOutcome::kSnoozed);
  if (judged > 0)
    out->set_failure_share(static_cast<double>(of(RunOutcome::kFailed) + of(RunOutcome::kDead)) /
                           static_cast<double>(judged));
  Fill(figures.queued, out->mutable_queued());
  Fill(figures.ran, out->mutable_ran());
}

// As StreamRunner::Remote writes it.
void Fill(const JsonValue& remote, const std::string& tenant, pb::RemoteWorker* out) {
  const auto text = [&](const char* key) {
    const JsonValue* value = remote.Find(key);
    return value == nullptr ? std::string() : std::string(value->text());
  };
  const auto number = [&](const char* key) {
    int64_t value = 0;
    return absl::SimpleAtoi(text(key), &value) ? value : 0;
  };
  out->set_name(text("name"));
  out->set_language(text("language"));
  out->set_version(text("version"));
  out->set_credits(static_cast<int32_t>(number("credits")));
  out->set_in_flight(static_cast<int32_t>(number("in_flight")));
  *out->mutable_connected_at() = google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(number("since"));
  const JsonValue* connected = remote.Find("connected");
  out->set_connected(connected != nullptr && connected->boolean());
  if (const JsonValue* kinds = remote.Find("kinds"); kinds != nullptr && kinds->is_array()) {
    for (const JsonValue& kind : kinds->items()) out->add_kinds(std::string(kind.text()));
  }
  if (const JsonValue* list = remote.Find("jobs"); list != nullptr && list->is_array()) {
    for (const JsonValue& job : list->items()) {
      const JsonValue *id = job.Find("id"), *of = job.Find("tenant");
      if (id != nullptr && of != nullptr && (tenant == kAllTenants || of->text() == tenant))
        out->add_jobs(std::string(id->text()));
    }
  }
}

}  // namespace

absl::StatusOr<Depths::Counted> Depths::Get(const CallContext& context) {
  // Whoever comes while it is counted waits for that count.
  absl::MutexLock lock(&mu_);
  if (absl::Now() > good_until_) {
    std::map<std::string, std::map<std::string, Depth>> counted;
    const absl::Time began = absl::Now();
    RETURN_IF_ERROR(pool_.Autocommit(
        std::min(context.deadline, began + absl::Seconds(10)), [&](pqxx::transaction_base& tx) -> absl::Status {
          counted.clear();
          for (const auto& row : jobs::Run(tx, jobs::sql::kDepths)) {
            Depth depth{.scheduled = row[2].as<int64_t>(),
                        .blocked = row[3].as<int64_t>(),
                        .ready = row[4].as<int64_t>(),
                        .published = row[5].as<int64_t>(),
                        .running = row[6].as<int64_t>()};
            if (!row[7].is_null()) depth.oldest_seconds = std::max(0.0, row[7].as<double>());
            Depth& all = counted[std::string(kAllTenants)][row[1].c_str()];
            all.scheduled += depth.scheduled;
            all.blocked += depth.blocked;
            all.ready += depth.ready;
            all.published += depth.published;
            all.running += depth.running;
            if (depth.oldest_seconds.has_value())
              all.oldest_seconds = std::max(all.oldest_seconds.value_or(0), *depth.oldest_seconds);
            counted[row[0].c_str()][row[1].c_str()] = depth;
          }
          return absl::OkStatus();
        }));
    at_ = absl::Now();
    const absl::Duration took = at_ - began;
    // A count that costs next to nothing is made for every caller.
    good_until_ = took < absl::Milliseconds(20) ? at_ : at_ + std::min(took * 20, absl::Seconds(20));
    by_tenant_ = std::move(counted);
  }
  Counted out{.at = at_};
  if (const auto it = by_tenant_.find(context.principal.tenant); it != by_tenant_.end()) out.queues = it->second;
  return out;
}

namespace {

constexpr absl::Duration kMetricsTick = absl::Seconds(15);

class DepthMetrics : public std::enable_shared_from_this<DepthMetrics> {
 public:
  DepthMetrics(const MonitoringParts& parts, std::function<bool()> leading)
      : parts_(parts), leading_(std::move(leading)) {}

  void Look() {
    CallContext all;
    all.principal.tenant = std::string(kAllTenants);
    all.deadline = absl::Now() + kMetricsTick;
    absl::StatusOr<Depths::Counted> counted = Depths::Counted();
    if (leading_()) counted = parts_.depths.Get(all);
    if (counted.ok()) {
      // Queues that have emptied are in the answer no more.
      for (const std::string& queue : known_) counted->queues.try_emplace(queue);
      for (const auto& [queue, depth] : counted->queues) {
        known_.insert(queue);
        for (const auto& [state, jobs] : {std::pair("scheduled", depth.scheduled), std::pair("blocked", depth.blocked),
                                          std::pair("ready", depth.ready), std::pair("published", depth.published),
                                          std::pair("running", depth.running)}) {
          metrics::Gauge("mainstay_jobs_depth", "Jobs that have not ended, by queue and state",
                         {{"queue", queue}, {"state", state}})
              .Set(static_cast<double>(jobs));
        }
        metrics::Gauge("mainstay_jobs_oldest_seconds", "Age of the oldest job that may run", {{"queue", queue}})
            .Set(depth.oldest_seconds.value_or(0));
      }
      CountUnserved(counted->queues.empty() ? nullptr : &all);
    }
    Arm();
  }

  // Reads every unfinished job, so for at most a twentieth of the time. The worst hundred: kinds are anybody's words.
  void CountUnserved(const CallContext* all) {
    std::map<std::pair<std::string, std::string>, double> counted;
    const absl::Time began = absl::Now();
    if (all != nullptr && leading_()) {
      if (began < unserved_again_) return;
      const absl::Status status =
          parts_.service.pool.Autocommit(all->deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
            counted.clear();
            for (const auto& row :
                 jobs::Run(tx, jobs::sql::kUnserved, std::string(kAllTenants), static_cast<const char*>(nullptr))) {
              if (counted.size() < 100) counted[{row[0].c_str(), row[1].c_str()}] = row[2].as<double>();
            }
            return absl::OkStatus();
          });
      if (!status.ok()) return;
      unserved_again_ = absl::Now() + (absl::Now() - began) * 20;
    }
    for (const auto& route : unserved_) counted.try_emplace(route);
    unserved_.clear();
    for (const auto& [route, waiting] : counted) {
      if (waiting > 0) unserved_.insert(route);
      metrics::Gauge("mainstay_jobs_unserved", "Waiting jobs whose kind no live worker of their queue has announced",
                     {{"queue", route.first}, {"kind", route.second}})
          .Set(waiting);
    }
  }

  void Arm() {
    parts_.watcher
        .Add({.until = absl::Now() + kMetricsTick,
              .wake =
                  [self = shared_from_this()] {
                    if (!self->parts_.desk.Post([self] { self->Look(); })) self->Arm();
                  }})
        .IgnoreError();  // stopped: that was the last look
  }

 private:
  const MonitoringParts parts_;
  const std::function<bool()> leading_;
  std::set<std::string> known_;  // of one look at a time
  std::set<std::pair<std::string, std::string>> unserved_;
  absl::Time unserved_again_ = absl::InfinitePast();
};

}  // namespace

void KeepDepthMetrics(const MonitoringParts& parts, std::function<bool()> leading) {
  std::make_shared<DepthMetrics>(parts, std::move(leading))->Look();
}

absl::StatusOr<std::vector<pb::QueueStats>> ReadQueueStats(const MonitoringParts& parts, const CallContext& call,
                                                           const std::optional<std::string>& name) {
  ASSIGN_OR_RETURN(const Depths::Counted depths, parts.depths.Get(call));
  std::vector<jobs::QueueFigures> queues, kinds;
  bool exists = true;
  RETURN_IF_ERROR(parts.service.pool.Autocommit(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
    if (name.has_value()) exists = !jobs::Run(tx, jobs::sql::kQueueExists, *name).empty();
    ASSIGN_OR_RETURN(queues, jobs::ReadFigures(tx, name, false));
    if (name.has_value()) {
      ASSIGN_OR_RETURN(kinds, jobs::ReadFigures(tx, name, true));
    }
    return absl::OkStatus();
  }));
  std::map<std::string, pb::QueueStats> out;
  for (const auto& [queue, depth] : depths.queues) {
    if (name.has_value() && *name != queue) continue;
    pb::QueueStats& stats = out[queue];
    stats.set_scheduled(depth.scheduled);
    stats.set_blocked(depth.blocked);
    stats.set_ready(depth.ready);
    stats.set_published(depth.published);
    stats.set_running(depth.running);
    if (depth.oldest_seconds.has_value())
      *stats.mutable_oldest_age() =
          google::protobuf::util::TimeUtil::MillisecondsToDuration(static_cast<int64_t>(*depth.oldest_seconds * 1000));
  }
  for (const jobs::QueueFigures& figures : queues) {
    pb::QueueStats& stats = out[figures.queue];
    Fill(figures.minute, stats.mutable_last_minute());
    Fill(figures.five_minutes, stats.mutable_last_5_minutes());
    Fill(figures.quarter, stats.mutable_last_15_minutes());
  }
  if (name.has_value()) {
    if (out.empty() && !exists) return MakeProblem("not-found", "no such queue");
    pb::QueueStats& stats = out[*name];
    for (const jobs::QueueFigures& figures : kinds) {
      pb::KindStats* kind = stats.add_kinds();
      kind->set_kind(figures.kind);
      Fill(figures.quarter, kind->mutable_last_15_minutes());
    }
  }
  std::vector<pb::QueueStats> list;
  for (auto& [queue, stats] : out) {
    stats.set_name(queue);
    *stats.mutable_counted_at() = ToProto(depths.at);
    list.push_back(std::move(stats));
  }
  return list;
}

grpc::Status QueueStatsService::ListQueueStats(grpc::ServerContext* context, const pb::ListQueueStatsRequest*,
                                               pb::ListQueueStatsResponse* response) {
  return parts_.service.guard.Handle(*context, "mainstay.jobs.v1.QueueStatsService/ListQueueStats",
                                     [&](const CallContext& call) -> absl::Status {
                                       ASSIGN_OR_RETURN(auto list, ReadQueueStats(parts_, call, std::nullopt));
                                       for (pb::QueueStats& stats : list) *response->add_data() = std::move(stats);
                                       return absl::OkStatus();
                                     });
}

grpc::Status QueueStatsService::GetQueueStats(grpc::ServerContext* context, const pb::GetQueueStatsRequest* request,
                                              pb::QueueStats* response) {
  return parts_.service.guard.Handle(*context, "mainstay.jobs.v1.QueueStatsService/GetQueueStats",
                                     [&](const CallContext& call) -> absl::Status {
                                       ASSIGN_OR_RETURN(auto list, ReadQueueStats(parts_, call, request->name()));
                                       *response = std::move(list[0]);
                                       return absl::OkStatus();
                                     });
}

grpc::Status WorkersService::ListWorkers(grpc::ServerContext* context, const pb::ListWorkersRequest*,
                                         pb::ListWorkersResponse* response) {
  return parts_.service.guard.Handle(
      *context, "mainstay.jobs.v1.WorkersService/ListWorkers", [&](const CallContext& call) -> absl::Status {
        return parts_.service.pool.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          response->Clear();
          std::map<std::string, pb::Worker*> by_id;
          for (const auto& row : jobs::Run(tx, jobs::sql::kWorkers)) {
            pb::Worker* worker = response->add_data();
            worker->set_id(row[0].c_str());
            worker->set_name(row[1].c_str());
            if (const auto kinds = JsonDocument::Parse(row[2].c_str()); kinds.ok() && kinds->root().is_array()) {
              for (const JsonValue& kind : kinds->root().items()) worker->add_kinds(std::string(kind.text()));
            }
            *worker->mutable_started_at() = Micros(row[3]);
            *worker->mutable_lease_until() = Micros(row[4]);
            worker->set_alive(row[5].as<bool>());
            worker->set_draining(row[6].as<bool>());
            worker->set_in_flight(row[7].as<int>());
            if (const auto remote = JsonDocument::Parse(row[8].c_str()); remote.ok() && remote->root().is_array()) {
              for (const JsonValue& one : remote->root().items())
                Fill(one, call.principal.tenant, worker->add_remote());
            }
            by_id[worker->id()] = worker;
          }
          for (const auto& row : jobs::Run(tx, jobs::sql::kRunning, call.principal.tenant)) {
            const auto it = by_id.find(row[0].c_str());
            if (it == by_id.end()) continue;
            ASSIGN_OR_RETURN(const Uuid id, ParseUuid(row[1].c_str()));
            pb::RunningJob* job = it->second->add_running();
            job->set_id(FormatId("job", id));
            job->set_kind(row[2].c_str());
            job->set_queue(row[3].c_str());
            if (!row[4].is_null()) *job->mutable_started_at() = Micros(row[4]);
            if (!row[5].is_null()) {
              pb::Job with_progress;
              FillErrorsAndProgress("", row[5].c_str(), &with_progress);
              *job->mutable_progress() = with_progress.progress();
            }
          }
          return absl::OkStatus();
        });
      });
}

}  // namespace mainstay::worker
