// SPDX-License-Identifier: Apache-2.0
// AuditService: what mainstay.audit_events holds. Only reads; nothing is kept here.
#pragma once

#include <string>

#include "libs/records/system_view.h"
#include "mainstay/records/v1/audit.grpc.pb.h"
#include "services/worker/services.h"

namespace mainstay::worker {

class AuditService final : public records::v1::AuditService::Service {
 public:
  // `cursor_key`: 32 bytes, the same in every copy.
  AuditService(const ServiceParts& parts, std::string cursor_key);
  grpc::Status ListAuditEvents(grpc::ServerContext* context, const records::v1::ListAuditEventsRequest* request,
                               records::v1::ListAuditEventsResponse* response) override;
  grpc::Status GetAuditEvent(grpc::ServerContext* context, const records::v1::GetAuditEventRequest* request,
                             records::v1::AuditEvent* response) override;

 private:
  const ServiceParts& parts_;
  records::SystemView events_;
};

}  // namespace mainstay::worker
