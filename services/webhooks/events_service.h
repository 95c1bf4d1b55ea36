// SPDX-License-Identifier: Apache-2.0
// WebhookEventsService: what operators see of the stored events, and replay. The rows are the truth; nothing is kept
// here.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "libs/catalog/model.h"
#include "libs/records/system_view.h"
#include "libs/rpc/call.h"
#include "mainstay/webhooks/v1/webhooks.grpc.pb.h"

namespace mainstay::postgres {
class Pool;
}
namespace mainstay::jobs {
class Handoff;
}

namespace mainstay::webhooks {

class EventsServiceImpl final : public v1::WebhookEventsService::Service {
 public:
  // `cursor_key`: 32 bytes, the same in every copy.
  EventsServiceImpl(const rpc::Guard& guard, postgres::Pool& pool, jobs::Handoff& handoff,
                    std::function<catalog::ModelPtr()> model, std::string cursor_key);
  grpc::Status ListWebhookEvents(grpc::ServerContext* context, const v1::ListWebhookEventsRequest* request,
                                 v1::ListWebhookEventsResponse* response) override;
  grpc::Status GetWebhookEvent(grpc::ServerContext* context, const v1::GetWebhookEventRequest* request,
                               v1::WebhookEvent* response) override;
  grpc::Status ReplayWebhookEvent(grpc::ServerContext* context, const v1::ReplayWebhookEventRequest* request,
                                  v1::WebhookEvent* response) override;

 private:
  // With the payload.
  absl::Status Get(pqxx::transaction_base& tx, const CallContext& call, std::string_view id, v1::WebhookEvent* out);

  const rpc::Guard& guard_;
  postgres::Pool& pool_;
  jobs::Handoff& handoff_;
  const std::function<catalog::ModelPtr()> model_;
  records::SystemView events_;
};

}  // namespace mainstay::webhooks
