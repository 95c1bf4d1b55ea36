// SPDX-License-Identifier: Apache-2.0
// SchedulesService of jobs.v1: libs/jobs/schedules.h and two lists, as RPCs. Any worker answers, leading or not.
#pragma once

#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libs/jobs/schedules.h"
#include "mainstay/jobs/v1/schedules.grpc.pb.h"
#include "services/worker/services.h"

namespace mainstay::worker {

// As the engine takes them.
jobs::DeclaredSchedules DeclaredSchedules(const catalog::Model& model);

class SchedulesService final : public mainstay::jobs::v1::SchedulesService::Service {
 public:
  // `cursor_key`: 32 bytes, the same in every copy.
  SchedulesService(ServiceParts parts, std::string cursor_key)
      : parts_(std::move(parts)), cursor_key_(std::move(cursor_key)) {}
  grpc::Status ListSchedules(grpc::ServerContext* context, const mainstay::jobs::v1::ListSchedulesRequest* request,
                             mainstay::jobs::v1::ListSchedulesResponse* response) override;
  grpc::Status GetSchedule(grpc::ServerContext* context, const mainstay::jobs::v1::GetScheduleRequest* request,
                           mainstay::jobs::v1::Schedule* response) override;
  grpc::Status ListScheduleRuns(grpc::ServerContext* context,
                                const mainstay::jobs::v1::ListScheduleRunsRequest* request,
                                mainstay::jobs::v1::ListScheduleRunsResponse* response) override;
  grpc::Status PauseSchedule(grpc::ServerContext* context, const mainstay::jobs::v1::PauseScheduleRequest* request,
                             mainstay::jobs::v1::Schedule* response) override;
  grpc::Status ResumeSchedule(grpc::ServerContext* context, const mainstay::jobs::v1::ResumeScheduleRequest* request,
                              mainstay::jobs::v1::Schedule* response) override;
  grpc::Status RunSchedule(grpc::ServerContext* context, const mainstay::jobs::v1::RunScheduleRequest* request,
                           mainstay::jobs::v1::ScheduleRun* response) override;

 private:
  absl::StatusOr<catalog::Resource> Schedules(pqxx::transaction_base& tx);
  absl::StatusOr<catalog::Resource> Runs(pqxx::transaction_base& tx);
  // One schedule with its last runs and `next` next ones.
  absl::Status Read(pqxx::transaction_base& tx, const CallContext& call, const std::string& name, int next,
                    mainstay::jobs::v1::Schedule* out);

  const ServiceParts parts_;
  const std::string cursor_key_;
  absl::Mutex mu_;
  std::optional<catalog::Resource> schedules_ ABSL_GUARDED_BY(mu_), runs_ ABSL_GUARDED_BY(mu_);  // read once
};

}  // namespace mainstay::worker
