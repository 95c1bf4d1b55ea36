// SPDX-License-Identifier: Apache-2.0
// ProvidersService: proto ↔ Egress. A failed call's class, HTTP status and hint travel as an ErrorInfo of the domain
// "integrations".
#pragma once

#include <functional>

#include "libs/catalog/model.h"
#include "libs/integrations/egress.h"
#include "libs/rpc/call.h"
#include "mainstay/integrations/v1/integrations.grpc.pb.h"

namespace mainstay::integrations {

class ProvidersServiceImpl final : public v1::ProvidersService::Service {
 public:
  ProvidersServiceImpl(const rpc::Guard& guard, Egress& egress, std::function<catalog::ModelPtr()> model)
      : guard_(guard), egress_(egress), model_(std::move(model)) {}
  grpc::Status Call(grpc::ServerContext* context, const v1::CallRequest* request, v1::CallResponse* response) override;
  grpc::Status CallPages(grpc::ServerContext* context, const v1::CallRequest* request,
                         grpc::ServerWriter<v1::CallResponse>* writer) override;
  grpc::Status Fetch(grpc::ServerContext* context, const v1::FetchRequest* request,
                     v1::FetchResponse* response) override;
  grpc::Status ListProviders(grpc::ServerContext* context, const v1::ListProvidersRequest* request,
                             v1::ListProvidersResponse* response) override;

 private:
  const rpc::Guard& guard_;
  Egress& egress_;
  const std::function<catalog::ModelPtr()> model_;
};

}  // namespace mainstay::integrations
