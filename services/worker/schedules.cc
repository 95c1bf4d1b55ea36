// SPDX-License-Identifier: Apache-2.0
#include "services/worker/schedules.h"

#include <google/protobuf/util/time_util.h>
#include <grpcpp/grpcpp.h>

#include <pqxx/pqxx>

#include "libs/base/ids.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/catalog/introspect.h"
#include "libs/records/list.h"

namespace mainstay::worker {
namespace {

namespace pb = mainstay::jobs::v1;

constexpr int kNextRuns = 5, kMaxNextRuns = 100, kLastRuns = 10;

common::v1::ListQuery Where(const std::string& field, const std::string& value, int limit) {
  common::v1::ListQuery query;
  auto* condition = query.mutable_filter()->mutable_condition();
  condition->set_field(field);
  condition->set_op("eq");
  condition->add_values(value);
  query.set_limit(limit);
  return query;
}

template <typename Response>
absl::Status Fill(const records::RowsPage& page, Response* response) {
  response->Clear();
  *response->mutable_page() = page.page;
  for (size_t row = 0; row < page.rows.size(); ++row)
    RETURN_IF_ERROR(records::FillMessage(page, row, response->add_data()));
  return absl::OkStatus();
}

}  // namespace

jobs::DeclaredSchedules DeclaredSchedules(const catalog::Model& model) {
  jobs::DeclaredSchedules declared{.catalog_hash = model.hash};
  for (const auto& [name, s] : model.schedules)
    declared.schedules.push_back({.name = name,
                                  .tenant = s.tenant,
                                  .kind = s.kind,
                                  .queue = s.queue,
                                  .args = s.args,
                                  .cron = s.cron,
                                  .zone = s.zone,
                                  .role = s.role,
                                  .missed = s.missed,
                                  .overlap = s.overlap,
                                  .missed_window = s.missed_window,
                                  .paused = s.paused});
  return declared;
}

absl::StatusOr<catalog::Resource> SchedulesService::Schedules(pqxx::transaction_base& tx) {
  absl::MutexLock lock(&mu_);
  if (!schedules_.has_value()) {
    catalog::SystemResourceOptions options;
    options.name = "schedules";
    options.key = "name";
    options.default_sort = "name";
    options.filterable = {"kind", "queue", "zone", "paused", "next_run_at", "last_run_at"};
    options.sortable = {"next_run_at", "last_run_at"};
    ASSIGN_OR_RETURN(schedules_, catalog::SystemResource(tx, "mainstay.schedules_view", options));
  }
  return *schedules_;
}

absl::StatusOr<catalog::Resource> SchedulesService::Runs(pqxx::transaction_base& tx) {
  absl::MutexLock lock(&mu_);
  if (!runs_.has_value()) {
    catalog::SystemResourceOptions options;
    options.name = "schedule-runs";
    options.key = "uid";
    options.default_sort = "-uid";
    options.hidden = {"uid"};
    options.filterable = {"id", "schedule", "scheduled_at", "outcome", "job", "run_by", "decided_at"};
    options.sortable = {"scheduled_at", "decided_at"};
    ASSIGN_OR_RETURN(runs_, catalog::SystemResource(tx, "mainstay.schedule_runs_view", options));
  }
  return *runs_;
}

absl::Status SchedulesService::Read(pqxx::transaction_base& tx, const CallContext& call, const std::string& name,
                                    int next, pb::Schedule* out) {
  const catalog::ModelPtr model = parts_.model();
  ASSIGN_OR_RETURN(const catalog::Resource schedules, Schedules(tx));
  ASSIGN_OR_RETURN(const records::RowsPage found,
                   records::ListRows(tx, schedules, *model, call, Where("name", name, 1), cursor_key_));
  if (found.rows.empty()) return MakeProblem("not-found", "no such schedule");
  out->Clear();
  RETURN_IF_ERROR(records::FillMessage(found, 0, out));
  ASSIGN_OR_RETURN(const std::vector<absl::Time> times, jobs::NextRuns(tx, call, name, next));
  for (const absl::Time time : times)
    *out->add_next_runs() = google::protobuf::util::TimeUtil::MicrosecondsToTimestamp(absl::ToUnixMicros(time));
  ASSIGN_OR_RETURN(const catalog::Resource runs, Runs(tx));
  auto query = Where("schedule", name, kLastRuns);
  auto* sort = query.add_sort();
  sort->set_field("scheduled_at");
  sort->set_descending(true);
  ASSIGN_OR_RETURN(const records::RowsPage last, records::ListRows(tx, runs, *model, call, query, cursor_key_));
  for (size_t row = 0; row < last.rows.size(); ++row)
    RETURN_IF_ERROR(records::FillMessage(last, row, out->add_last_runs()));
  return absl::OkStatus();
}

grpc::Status SchedulesService::ListSchedules(grpc::ServerContext* context, const pb::ListSchedulesRequest* request,
                                             pb::ListSchedulesResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.SchedulesService/ListSchedules", [&](const CallContext& call) -> absl::Status {
        const catalog::ModelPtr model = parts_.model();
        return parts_.pool.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const catalog::Resource resource, Schedules(tx));
          ASSIGN_OR_RETURN(const records::RowsPage page,
                           records::ListRows(tx, resource, *model, call, request->query(), cursor_key_));
          return Fill(page, response);
        });
      });
}

grpc::Status SchedulesService::GetSchedule(grpc::ServerContext* context, const pb::GetScheduleRequest* request,
                                           pb::Schedule* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.SchedulesService/GetSchedule", [&](const CallContext& call) -> absl::Status {
        if (request->next() < 0 || request->next() > kMaxNextRuns)
          return MakeProblem("invalid-parameter", StrCat("next: expected 1 to ", kMaxNextRuns),
                             {{.place = FieldError::Place::kParameter,
                               .name = "next",
                               .code = "out_of_range",
                               .detail = StrCat("expected 1 to ", kMaxNextRuns)}});
        return parts_.pool.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) {
          return Read(tx, call, request->name(), request->next() == 0 ? kNextRuns : request->next(), response);
        });
      });
}

grpc::Status SchedulesService::ListScheduleRuns(grpc::ServerContext* context,
                                                const pb::ListScheduleRunsRequest* request,
                                                pb::ListScheduleRunsResponse* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.SchedulesService/ListScheduleRuns", [&](const CallContext& call) -> absl::Status {
        const catalog::ModelPtr model = parts_.model();
        return parts_.pool.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(const catalog::Resource resource, Runs(tx));
          ASSIGN_OR_RETURN(const records::RowsPage page,
                           records::ListRows(tx, resource, *model, call, request->query(), cursor_key_));
          return Fill(page, response);
        });
      });
}

grpc::Status SchedulesService::PauseSchedule(grpc::ServerContext* context, const pb::PauseScheduleRequest* request,
                                             pb::Schedule* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.SchedulesService/PauseSchedule", [&](const CallContext& call) -> absl::Status {
        if (request->reason().empty())
          return MakeProblem("validation-failed", "/reason: say why: others will ask",
                             {{.name = "/reason", .code = "required", .detail = "say why: others will ask"}});
        return parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          RETURN_IF_ERROR(jobs::PauseSchedule(tx, call, request->name(), request->reason()));
          return Read(tx, call, request->name(), kNextRuns, response);
        });
      });
}

grpc::Status SchedulesService::ResumeSchedule(grpc::ServerContext* context, const pb::ResumeScheduleRequest* request,
                                              pb::Schedule* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.SchedulesService/ResumeSchedule", [&](const CallContext& call) -> absl::Status {
        return parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          RETURN_IF_ERROR(jobs::ResumeSchedule(tx, call, request->name()));
          return Read(tx, call, request->name(), kNextRuns, response);
        });
      });
}

grpc::Status SchedulesService::RunSchedule(grpc::ServerContext* context, const pb::RunScheduleRequest* request,
                                           pb::ScheduleRun* response) {
  return parts_.guard.Handle(
      *context, "mainstay.jobs.v1.SchedulesService/RunSchedule", [&](const CallContext& call) -> absl::Status {
        jobs::StartedRun run;
        RETURN_IF_ERROR(parts_.pool.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          ASSIGN_OR_RETURN(run, jobs::RunSchedule(tx, call, request->name()));
          ASSIGN_OR_RETURN(const catalog::Resource resource, Runs(tx));
          ASSIGN_OR_RETURN(const records::RowsPage page,
                           records::ListRows(tx, resource, *parts_.model(), call,
                                             Where("id", FormatId("run", run.id), 1), cursor_key_));
          if (page.rows.empty()) return absl::InternalError("the run that was just stored is not there");
          response->Clear();
          return records::FillMessage(page, 0, response);
        }));
        parts_.handoff.Publish(run.enqueued);
        return absl::OkStatus();
      });
}

}  // namespace mainstay::worker
