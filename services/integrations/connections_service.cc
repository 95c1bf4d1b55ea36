// SPDX-License-Identifier: Apache-2.0
#include "services/integrations/connections_service.h"

#include <pqxx/pqxx>

#include "libs/postgres/pool.h"

namespace mainstay::integrations {

ConnectionsServiceImpl::ConnectionsServiceImpl(const rpc::Guard& guard, postgres::Pool& pool,
                                               std::function<catalog::ModelPtr()> model, std::string cursor_key)
    : guard_(guard),
      pool_(pool),
      connections_({.view = "mainstay.connections_view",
                    .id_prefix = "conn",
                    .singular = "connection",
                    .resource = {.name = "connections",
                                 .key = "uid",
                                 .default_sort = "-uid",
                                 .filterable = {"id", "provider", "name", "state"},
                                 .sortable = {"created_at"},
                                 .hidden = {"uid"}},
                    .cursor_key = std::move(cursor_key)},
                   std::move(model)) {}

grpc::Status ConnectionsServiceImpl::ListConnections(grpc::ServerContext* context,
                                                     const v1::ListConnectionsRequest* request,
                                                     v1::ListConnectionsResponse* response) {
  return guard_.Handle(*context, "mainstay.integrations.v1.ConnectionsService/ListConnections",
                       [&](const CallContext& call) {
                         return pool_.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) {
                           return connections_.List(tx, call, request->query(), response);
                         });
                       });
}

grpc::Status ConnectionsServiceImpl::GetConnection(grpc::ServerContext* context,
                                                   const v1::GetConnectionRequest* request, v1::Connection* response) {
  return guard_.Handle(*context, "mainstay.integrations.v1.ConnectionsService/GetConnection",
                       [&](const CallContext& call) {
                         return pool_.Autocommit(call.deadline, [&](pqxx::transaction_base& tx) {
                           return connections_.Get(tx, call, request->id(), response);
                         });
                       });
}

}  // namespace mainstay::integrations
