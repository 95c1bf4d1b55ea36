// SPDX-License-Identifier: Apache-2.0
// WebhookEventsService: what operators see of the stored events, and replay. The rows are the truth; nothing is kept
// here.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
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
  // `cursor_key`: 32 bytes, the same in every copy.
  EventsServiceImpl(const rpc::Guard& guard, postgres::Pool& pool, jobs::Handoff& handoff,
                    std::function<catalog::ModelPtr()> model, std::string cursor_key)
      : guard_(guard), pool_(pool), handoff_(handoff), model_(std::move(model)), cursor_key_(std::move(cursor_key)) {}
  grpc::Status ListWebhookEvents(grpc::ServerContext* context, const v1::ListWebhookEventsRequest* request,
                                 v1::ListWebhookEventsResponse* response) override;
  grpc::Status GetWebhookEvent(grpc::ServerContext* context, const v1::GetWebhookEventRequest* request,
                               v1::WebhookEvent* response) override;
  grpc::Status ReplayWebhookEvent(grpc::ServerContext* context, const v1::ReplayWebhookEventRequest* request,
                                  v1::WebhookEvent* response) override;

 private:
  const rpc::Guard& guard_;
  postgres::Pool& pool_;
  jobs::Handoff& handoff_;
  const std::function<catalog::ModelPtr()> model_;
  const std::string cursor_key_;
  // What PostgreSQL says of the view, asked once.
  absl::Mutex mu_;
  std::optional<catalog::Resource> resource_ ABSL_GUARDED_BY(mu_);
};

}  // namespace mainstay::webhooks
