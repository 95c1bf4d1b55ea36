// SPDX-License-Identifier: Apache-2.0
#include "services/webhooks/events_service.h"

#include <optional>
#include <pqxx/pqxx>

#include "libs/base/ids.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/jobs/enqueue.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"
#include "libs/webhooks/processing.h"
#include "libs/webhooks/sql.h"

namespace mainstay::webhooks {
namespace {

constexpr char kGetBody[] = "SELECT encode(body, 'hex') FROM mainstay.webhook_events WHERE id = $1::uuid";

}  // namespace

EventsServiceImpl::EventsServiceImpl(const rpc::Guard& guard, postgres::Pool& pool, jobs::Handoff& handoff,
                                     std::function<catalog::ModelPtr()> model, std::string cursor_key)
    : guard_(guard),
      pool_(pool),
      handoff_(handoff),
      model_(model),
      events_({.view = "mainstay.webhook_events_view",
               .id_prefix = "evt",
               .singular = "event",
               .resource = {.name = "webhook-events",
                            .key = "uid",
                            .default_sort = "-uid",
                            .filterable = {"id", "source", "external_id", "type", "entity", "state", "received_at",
                                           "event_time"},
                            .sortable = {"received_at"},
                            .hidden = {"uid"}},
               .cursor_key = std::move(cursor_key)},
              std::move(model)) {}

absl::Status EventsServiceImpl::Get(pqxx::transaction_base& tx, const CallContext& call, std::string_view id,
                                    v1::WebhookEvent* out) {
  RETURN_IF_ERROR(events_.Get(tx, call, id, out));
  ASSIGN_OR_RETURN(const Uuid key, events_.Key(id));
  std::optional<std::string> body = HexDecode(tx.exec_params(kGetBody, key.ToString())[0][0].c_str());
  JsonLimits limits;
  limits.depth = 64;
  if (body && JsonDocument::Parse(*body, limits).ok()) out->set_payload(*std::move(body));
  return absl::OkStatus();
}

grpc::Status EventsServiceImpl::ListWebhookEvents(grpc::ServerContext* context,
                                                  const v1::ListWebhookEventsRequest* request,
                                                  v1::ListWebhookEventsResponse* response) {
  return guard_.Handle(*context, "mainstay.webhooks.v1.WebhookEventsService/ListWebhookEvents",
                       [&](const CallContext& call) {
                         return pool_.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) {
                           return events_.List(tx, call, request->query(), response);
                         });
                       });
}

grpc::Status EventsServiceImpl::GetWebhookEvent(grpc::ServerContext* context, const v1::GetWebhookEventRequest* request,
                                                v1::WebhookEvent* response) {
  return guard_.Handle(
      *context, "mainstay.webhooks.v1.WebhookEventsService/GetWebhookEvent", [&](const CallContext& call) {
        return pool_.Autocommit(call.deadline,
                                [&](pqxx::transaction_base& tx) { return Get(tx, call, request->id(), response); });
      });
}

grpc::Status EventsServiceImpl::ReplayWebhookEvent(grpc::ServerContext* context,
                                                   const v1::ReplayWebhookEventRequest* request,
                                                   v1::WebhookEvent* response) {
  return guard_.Handle(
      *context, "mainstay.webhooks.v1.WebhookEventsService/ReplayWebhookEvent",
      [&](const CallContext& call) -> absl::Status {
        ASSIGN_OR_RETURN(const Uuid id, events_.Key(request->id()));
        std::vector<jobs::Enqueued> enqueued;
        RETURN_IF_ERROR(pool_.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          enqueued.clear();
          RETURN_IF_ERROR(events_.Get(tx, call, request->id(), response));
          // A job that runs it now holds the row until it is done; only then is the state what it is.
          tx.exec_params(sql::kLockEvent, id.ToString());
          RETURN_IF_ERROR(events_.Get(tx, call, request->id(), response));
          if (response->state() == v1::WEBHOOK_EVENT_STATE_RECEIVED)
            return MakeProblem("conflict", "The event is waiting to be processed already");
          if (response->tenant().empty())
            return MakeProblem("conflict", "The event names no tenant, so nobody can act on it");
          CallContext owner = call;
          const std::string name = StrCat("source:", response->source());
          owner.principal = {response->tenant(), name, {name}};
          jobs::JobSpec spec;
          spec.kind = std::string(kProcessKind);
          spec.args = StrCat("{\"event\":", JsonQuote(response->id()), "}");
          if (!response->entity().empty()) spec.ordering_key = StrCat(response->source(), "/", response->entity());
          spec.catalog_hash = model_()->hash;
          ASSIGN_OR_RETURN(enqueued, jobs::Enqueue(tx, owner, {&spec, 1}));
          tx.exec_params(sql::kReplayEvent, id.ToString(), enqueued[0].id.ToString());
          return Get(tx, call, request->id(), response);
        }));
        handoff_.Publish(enqueued);
        log::Info("webhook event replayed", {{"event", request->id()},
                                             {"by", call.principal.subject},
                                             {"reason", request->reason()},
                                             {"request_id", call.request_id}});
        return absl::OkStatus();
      });
}

}  // namespace mainstay::webhooks
