// SPDX-License-Identifier: Apache-2.0
// WebhookEventsService: what operators see of the stored events, and replay. The rows are the truth; nothing is kept here.
#pragma once

#include <functional>

#include "libs/catalog/model.h"
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
  EventsServiceImpl(const rpc::Guard& guard, postgres::Pool& pool, jobs::Handoff& handoff, std::function<catalog::ModelPtr()> model)
      : guard_(guard), pool_(pool), handoff_(handoff), model_(std::move(model)) {}
  grpc::Status GetWebhookEvent(grpc::ServerContext* context, const v1::GetWebhookEventRequest* request, v1::WebhookEvent* response) override;
  grpc::Status ReplayWebhookEvent(grpc::ServerContext* context, const v1::ReplayWebhookEventRequest* request, v1::WebhookEvent* response) override;

 private:
  const rpc::Guard& guard_;
  postgres::Pool& pool_;
  jobs::Handoff& handoff_;
  const std::function<catalog::ModelPtr()> model_;
};

}  // namespace mainstay::webhooks
