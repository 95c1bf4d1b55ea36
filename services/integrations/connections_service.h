// SPDX-License-Identifier: Apache-2.0
// ConnectionsService: the connections of a tenant, without their secrets.
#pragma once

#include <functional>
#include <string>

#include "libs/catalog/model.h"
#include "libs/records/system_view.h"
#include "libs/rpc/call.h"
#include "mainstay/integrations/v1/integrations.grpc.pb.h"

namespace mainstay::postgres {
class Pool;
}

namespace mainstay::integrations {

class ConnectionsServiceImpl final : public v1::ConnectionsService::Service {
 public:
  // `cursor_key`: 32 bytes, the same in every copy.
  ConnectionsServiceImpl(const rpc::Guard& guard, postgres::Pool& pool, std::function<catalog::ModelPtr()> model,
                         std::string cursor_key);
  grpc::Status ListConnections(grpc::ServerContext* context, const v1::ListConnectionsRequest* request,
                               v1::ListConnectionsResponse* response) override;
  grpc::Status GetConnection(grpc::ServerContext* context, const v1::GetConnectionRequest* request,
                             v1::Connection* response) override;

 private:
  const rpc::Guard& guard_;
  postgres::Pool& pool_;
  records::SystemView connections_;
};

}  // namespace mainstay::integrations
