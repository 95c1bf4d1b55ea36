// SPDX-License-Identifier: Apache-2.0
// IngestService: proto ↔ Inbox, nothing else. Only the gateway may call it.
#pragma once

#include "libs/rpc/call.h"
#include "libs/webhooks/inbox.h"
#include "mainstay/webhooks/v1/webhooks.grpc.pb.h"

namespace mainstay::webhooks {

class IngestServiceImpl final : public v1::IngestService::Service {
 public:
  IngestServiceImpl(const rpc::Guard& guard, Inbox& inbox) : guard_(guard), inbox_(inbox) {}
  grpc::Status Ingest(grpc::ServerContext* context, const v1::IngestRequest* request,
                      v1::IngestResponse* response) override;

 private:
  const rpc::Guard& guard_;
  Inbox& inbox_;
};

}  // namespace mainstay::webhooks
