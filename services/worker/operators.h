// SPDX-License-Identifier: Apache-2.0
// Dead letters and operations on many jobs over gRPC: thin adapters to libs/jobs (letters.h, operations.h) and to the
// filters of job_query.h.
#pragma once

#include "libs/jobs/handler.h"
#include "mainstay/jobs/v1/operators.grpc.pb.h"
#include "services/worker/job_query.h"
#include "services/worker/services.h"

namespace mainstay::worker {

class DeadLettersService final : public mainstay::jobs::v1::DeadLettersService::Service {
 public:
  explicit DeadLettersService(ServiceParts parts) : parts_(std::move(parts)) {}
  grpc::Status ListFingerprints(grpc::ServerContext* context,
                                const mainstay::jobs::v1::ListFingerprintsRequest* request,
                                mainstay::jobs::v1::ListFingerprintsResponse* response) override;
  grpc::Status EditJob(grpc::ServerContext* context, const mainstay::jobs::v1::EditJobRequest* request,
                       mainstay::jobs::v1::Job* response) override;
  grpc::Status DeleteJob(grpc::ServerContext* context, const mainstay::jobs::v1::DeleteJobRequest* request,
                         google::protobuf::Empty* response) override;

 private:
  const ServiceParts parts_;
};

class OperationsService final : public mainstay::jobs::v1::OperationsService::Service {
 public:
  explicit OperationsService(ServiceParts parts) : parts_(std::move(parts)) {}
  grpc::Status CreateOperation(grpc::ServerContext* context, const mainstay::jobs::v1::CreateOperationRequest* request,
                               mainstay::jobs::v1::JobOperation* response) override;
  grpc::Status PreviewOperation(grpc::ServerContext* context,
                                const mainstay::jobs::v1::PreviewOperationRequest* request,
                                mainstay::jobs::v1::PreviewOperationResponse* response) override;
  grpc::Status GetOperation(grpc::ServerContext* context, const mainstay::jobs::v1::GetOperationRequest* request,
                            mainstay::jobs::v1::JobOperation* response) override;
  grpc::Status ListOperations(grpc::ServerContext* context, const mainstay::jobs::v1::ListOperationsRequest* request,
                              mainstay::jobs::v1::ListOperationsResponse* response) override;
  grpc::Status CancelOperation(grpc::ServerContext* context, const mainstay::jobs::v1::CancelOperationRequest* request,
                               mainstay::jobs::v1::JobOperation* response) override;
  grpc::Status ResumeOperation(grpc::ServerContext* context, const mainstay::jobs::v1::ResumeOperationRequest* request,
                               mainstay::jobs::v1::JobOperation* response) override;

 private:
  absl::Status Read(pqxx::transaction_base& tx, const CallContext& call, const std::string& id,
                    mainstay::jobs::v1::JobOperation* out);
  const ServiceParts parts_;
};

// The handler of mainstay.operation. What it takes outlives the registry.
void RegisterOperations(jobs::Registry& registry, postgres::Pool& pool, jobs::Handoff& handoff, JobQueries& queries);

}  // namespace mainstay::worker
