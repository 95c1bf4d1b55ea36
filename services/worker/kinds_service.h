// SPDX-License-Identifier: Apache-2.0
// Kinds of jobs over gRPC: a thin adapter to libs/jobs/kinds.h.
#pragma once

#include "mainstay/jobs/v1/kinds.grpc.pb.h"
#include "services/worker/services.h"

namespace mainstay::worker {

class KindsService final : public mainstay::jobs::v1::KindsService::Service {
 public:
  explicit KindsService(ServiceParts parts) : parts_(std::move(parts)) {}
  grpc::Status ListKinds(grpc::ServerContext* context, const mainstay::jobs::v1::ListKindsRequest* request,
                         mainstay::jobs::v1::ListKindsResponse* response) override;
  grpc::Status PutKind(grpc::ServerContext* context, const mainstay::jobs::v1::PutKindRequest* request,
                       mainstay::jobs::v1::Kind* response) override;

 private:
  const ServiceParts parts_;
};

}  // namespace mainstay::worker
