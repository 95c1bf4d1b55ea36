// SPDX-License-Identifier: Apache-2.0
#include "services/worker/audit_service.h"

#include <pqxx/pqxx>
#include <utility>

#include "libs/postgres/pool.h"

namespace mainstay::worker {

namespace pb = mainstay::records::v1;

AuditService::AuditService(const ServiceParts& parts, std::string cursor_key)
    : parts_(parts),
      events_(
          {.view = "mainstay.audit_events_view",
           .id_prefix = "aud",
           .singular = "audit event",
           .resource = {.name = "audit-events",
                        .key = "uid",
                        .default_sort = "-at",
                        .filterable = {"id", "at", "subject", "request_id", "resource", "action", "outcome", "record"},
                        .sortable = {"at"},
                        .hidden = {"uid"}},
           .cursor_key = std::move(cursor_key)},
          parts.model) {}

grpc::Status AuditService::ListAuditEvents(grpc::ServerContext* context, const pb::ListAuditEventsRequest* request,
                                           pb::ListAuditEventsResponse* response) {
  return parts_.guard.Handle(*context, "mainstay.records.v1.AuditService/ListAuditEvents",
                             [&](const CallContext& call) {
                               return parts_.pool.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) {
                                 return events_.List(tx, call, request->query(), response);
                               });
                             });
}

grpc::Status AuditService::GetAuditEvent(grpc::ServerContext* context, const pb::GetAuditEventRequest* request,
                                         pb::AuditEvent* response) {
  return parts_.guard.Handle(*context, "mainstay.records.v1.AuditService/GetAuditEvent", [&](const CallContext& call) {
    return parts_.pool.Autocommit(
        call.deadline, [&](pqxx::transaction_base& tx) { return events_.Get(tx, call, request->id(), response); });
  });
}

}  // namespace mainstay::worker
