// SPDX-License-Identifier: Apache-2.0
#include "services/integrations/connections_service.h"

#include <pqxx/pqxx>

#include "libs/base/ids.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/catalog/introspect.h"
#include "libs/postgres/pool.h"
#include "libs/records/list.h"

namespace mainstay::integrations {
namespace {

// $1 id $2 tenant, or "*".
constexpr char kGetConnection[] =
    "SELECT id, tenant, provider, name, state, extract(epoch FROM created_at)::numeric, extract(epoch FROM "
    "last_used_at)::numeric "
    "FROM mainstay.connections_view WHERE uid = $1::uuid AND ($2 = '*' OR tenant = $2)";

void FillTime(const pqxx::field& field, google::protobuf::Timestamp* out) {
  // Seconds with six decimals, as text: exact.
  std::string text = field.c_str();
  size_t dot = text.find('.');
  out->set_seconds(std::stoll(text.substr(0, dot)));
  std::string fraction = dot == std::string::npos ? "0" : text.substr(dot + 1);
  fraction.resize(9, '0');
  out->set_nanos(std::stoi(fraction));
}

}  // namespace

grpc::Status ConnectionsServiceImpl::ListConnections(grpc::ServerContext* context,
                                                     const v1::ListConnectionsRequest* request,
                                                     v1::ListConnectionsResponse* response) {
  return guard_.Handle(
      *context, "mainstay.integrations.v1.ConnectionsService/ListConnections",
      [&](const CallContext& call) -> absl::Status {
        return pool_.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          response->Clear();
          catalog::Resource resource;
          {
            absl::MutexLock lock(&mu_);
            if (!resource_) {
              ASSIGN_OR_RETURN(resource_, catalog::SystemResource(tx, "mainstay.connections_view",
                                                                  {.name = "connections",
                                                                   .key = "uid",
                                                                   .default_sort = "-uid",
                                                                   .filterable = {"id", "provider", "name", "state"},
                                                                   .sortable = {"created_at"},
                                                                   .hidden = {"uid"}}));
            }
            resource = *resource_;
          }
          ASSIGN_OR_RETURN(records::RowsPage page,
                           records::ListRows(tx, resource, *model_(), call, request->query(), cursor_key_));
          for (size_t i = 0; i < page.rows.size(); ++i)
            RETURN_IF_ERROR(records::FillMessage(page, i, response->add_data()));
          *response->mutable_page() = std::move(page.page);
          return absl::OkStatus();
        });
      });
}

grpc::Status ConnectionsServiceImpl::GetConnection(grpc::ServerContext* context,
                                                   const v1::GetConnectionRequest* request, v1::Connection* response) {
  return guard_.Handle(*context, "mainstay.integrations.v1.ConnectionsService/GetConnection",
                       [&](const CallContext& call) -> absl::Status {
                         absl::StatusOr<Uuid> id = ParseId("conn", request->id());
                         if (!id.ok()) return MakeProblem("not-found", "There is no such connection");
                         return pool_.Autocommit(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
                           response->Clear();
                           pqxx::result rows = tx.exec_params(kGetConnection, id->ToString(), call.principal.tenant);
                           if (rows.empty()) return MakeProblem("not-found", "There is no such connection");
                           const auto& row = rows[0];
                           response->set_id(row[0].c_str());
                           response->set_tenant(row[1].c_str());
                           response->set_provider(row[2].c_str());
                           response->set_name(row[3].c_str());
                           response->set_state(row[4].c_str());
                           FillTime(row[5], response->mutable_created_at());
                           if (!row[6].is_null()) FillTime(row[6], response->mutable_last_used_at());
                           return absl::OkStatus();
                         });
                       });
}

}  // namespace mainstay::integrations
