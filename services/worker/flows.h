// SPDX-License-Identifier: Apache-2.0
// FlowsService of jobs.v1: libs/jobs/flows.h and two lists, as RPCs.
#pragma once

#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "mainstay/jobs/v1/flows.grpc.pb.h"
#include "services/worker/services.h"

namespace mainstay::worker {

class FlowsService final : public mainstay::jobs::v1::FlowsService::Service {
 public:
  // `cursor_key`: 32 bytes, the same in every copy.
  FlowsService(ServiceParts parts, std::string cursor_key)
      : parts_(std::move(parts)), cursor_key_(std::move(cursor_key)) {}
  grpc::Status CreateFlow(grpc::ServerContext* context, const mainstay::jobs::v1::CreateFlowRequest* request,
                          mainstay::jobs::v1::CreateFlowResponse* response) override;
  grpc::Status GetFlow(grpc::ServerContext* context, const mainstay::jobs::v1::GetFlowRequest* request,
                       mainstay::jobs::v1::Flow* response) override;
  grpc::Status ListFlows(grpc::ServerContext* context, const mainstay::jobs::v1::ListFlowsRequest* request,
                         mainstay::jobs::v1::ListFlowsResponse* response) override;
  grpc::Status ListFlowJobs(grpc::ServerContext* context, const mainstay::jobs::v1::ListFlowJobsRequest* request,
                            mainstay::jobs::v1::ListFlowJobsResponse* response) override;
  grpc::Status CancelFlow(grpc::ServerContext* context, const mainstay::jobs::v1::CancelFlowRequest* request,
                          mainstay::jobs::v1::Flow* response) override;
  grpc::Status RetryFlow(grpc::ServerContext* context, const mainstay::jobs::v1::RetryFlowRequest* request,
                         mainstay::jobs::v1::RetryFlowResponse* response) override;

 private:
  absl::StatusOr<catalog::Resource> Flows(pqxx::transaction_base& tx);
  absl::StatusOr<catalog::Resource> Members(pqxx::transaction_base& tx);

  const ServiceParts parts_;
  const std::string cursor_key_;
  absl::Mutex mu_;
  std::optional<catalog::Resource> flows_ ABSL_GUARDED_BY(mu_), members_ ABSL_GUARDED_BY(mu_);  // read once
};

}  // namespace mainstay::worker
