// SPDX-License-Identifier: Apache-2.0
// ConnectionsService: the connections of a tenant, without their secrets.
#pragma once

#include <functional>

#include "libs/catalog/model.h"
#include "libs/rpc/call.h"
#include "mainstay/integrations/v1/integrations.grpc.pb.h"

namespace mainstay::postgres {
class Pool;
}

namespace mainstay::integrations {

class ConnectionsServiceImpl final : public v1::ConnectionsService::Service {
 public:
  ConnectionsServiceImpl(const rpc::Guard& guard, postgres::Pool& pool, std::function<catalog::ModelPtr()> model)
      : guard_(guard), pool_(pool), model_(std::move(model)) {}
  grpc::Status GetConnection(grpc::ServerContext* context, const v1::GetConnectionRequest* request, v1::Connection* response) override;

 private:
  const rpc::Guard& guard_;
  postgres::Pool& pool_;
  const std::function<catalog::ModelPtr()> model_;
};

}  // namespace mainstay::integrations
