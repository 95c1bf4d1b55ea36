// SPDX-License-Identifier: Apache-2.0
// Pauses and explanations over gRPC: thin adapters to libs/jobs/pauses.h.
#pragma once

#include "mainstay/jobs/v1/queues.grpc.pb.h"
#include "services/worker/services.h"

namespace mainstay::worker {

class PausesService final : public mainstay::jobs::v1::PausesService::Service {
 public:
  explicit PausesService(ServiceParts parts) : parts_(std::move(parts)) {}
  grpc::Status CreatePause(grpc::ServerContext* context, const mainstay::jobs::v1::CreatePauseRequest* request,
                           mainstay::jobs::v1::Pause* response) override;
  grpc::Status ListPauses(grpc::ServerContext* context, const mainstay::jobs::v1::ListPausesRequest* request,
                          mainstay::jobs::v1::ListPausesResponse* response) override;
  grpc::Status DeletePause(grpc::ServerContext* context, const mainstay::jobs::v1::DeletePauseRequest* request,
                           google::protobuf::Empty* response) override;

 private:
  const ServiceParts parts_;
};

class ExplainService final : public mainstay::jobs::v1::ExplainService::Service {
 public:
  explicit ExplainService(ServiceParts parts) : parts_(std::move(parts)) {}
  grpc::Status ExplainJob(grpc::ServerContext* context, const mainstay::jobs::v1::ExplainJobRequest* request,
                          mainstay::jobs::v1::ExplainJobResponse* response) override;

 private:
  const ServiceParts parts_;
};

}  // namespace mainstay::worker
