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
#include "libs/catalog/introspect.h"
#include "libs/jobs/enqueue.h"
#include "libs/postgres/pool.h"
#include "libs/records/list.h"
#include "libs/telemetry/log.h"
#include "libs/webhooks/processing.h"
#include "libs/webhooks/sql.h"

namespace mainstay::webhooks {
namespace {

// $1 id $2 tenant, or "*". The second column set is only for get and replay.
constexpr char kGetEvent[] =
    "SELECT v.id, v.tenant, v.source, v.external_id, v.type, v.entity, v.state, extract(epoch FROM "
    "v.event_time)::numeric, extract(epoch FROM v.received_at)::numeric, "
    "extract(epoch FROM v.processed_at)::numeric, v.duplicates, v.job_id, v.detail, v.catalog_hash, encode(e.body, "
    "'hex'), e.catalog_hash "
    "FROM mainstay.webhook_events_view v JOIN mainstay.webhook_events e ON e.id = v.uid WHERE v.uid = $1::uuid AND ($2 "
    "= '*' OR v.tenant = $2)";

void FillTime(const pqxx::field& field, google::protobuf::Timestamp* out) {
  // Seconds with six decimals, as text: exact.
  std::string text = field.c_str();
  size_t dot = text.find('.');
  out->set_seconds(std::stoll(text.substr(0, dot)));
  std::string fraction = dot == std::string::npos ? "0" : text.substr(dot + 1);
  fraction.resize(9, '0');
  out->set_nanos(std::stoi(fraction));
}

absl::Status FillEvent(pqxx::transaction_base& tx, const CallContext& call, const Uuid& id, v1::WebhookEvent* out) {
  pqxx::result rows = tx.exec_params(kGetEvent, id.ToString(), call.principal.tenant);
  if (rows.empty()) return MakeProblem("not-found", "There is no such event");
  const auto& row = rows[0];
  out->set_id(row[0].c_str());
  out->set_tenant(row[1].c_str());
  out->set_source(row[2].c_str());
  out->set_external_id(row[3].c_str());
  out->set_type(row[4].c_str());
  out->set_entity(row[5].c_str());
  std::string state = "WEBHOOK_EVENT_STATE_";
  for (const char* c = row[6].c_str(); *c != '\0'; ++c) state += *c >= 'a' && *c <= 'z' ? char(*c - 'a' + 'A') : *c;
  v1::WebhookEventState value = v1::WEBHOOK_EVENT_STATE_UNSPECIFIED;
  v1::WebhookEventState_Parse(state, &value);
  out->set_state(value);
  if (!row[7].is_null()) FillTime(row[7], out->mutable_event_time());
  FillTime(row[8], out->mutable_received_at());
  if (!row[9].is_null()) FillTime(row[9], out->mutable_processed_at());
  out->set_duplicates(row[10].as<int64_t>());
  out->set_job_id(row[11].c_str());
  out->set_detail(row[12].c_str());
  out->set_catalog_hash(row[13].c_str());
  std::optional<std::string> body = HexDecode(row[14].c_str());
  JsonLimits limits;
  limits.depth = 64;
  if (body && JsonDocument::Parse(*body, limits).ok()) out->set_payload(*std::move(body));
  return absl::OkStatus();
}

}  // namespace

grpc::Status EventsServiceImpl::ListWebhookEvents(grpc::ServerContext* context,
                                                  const v1::ListWebhookEventsRequest* request,
                                                  v1::ListWebhookEventsResponse* response) {
  return guard_.Handle(
      *context, "mainstay.webhooks.v1.WebhookEventsService/ListWebhookEvents",
      [&](const CallContext& call) -> absl::Status {
        return pool_.Snapshot(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          response->Clear();
          catalog::Resource resource;
          {
            absl::MutexLock lock(&mu_);
            if (!resource_) {
              ASSIGN_OR_RETURN(resource_,
                               catalog::SystemResource(tx, "mainstay.webhook_events_view",
                                                       {.name = "webhook-events",
                                                        .key = "uid",
                                                        .default_sort = "-uid",
                                                        .filterable = {"id", "source", "external_id", "type", "entity",
                                                                       "state", "received_at", "event_time"},
                                                        .sortable = {"received_at"},
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

grpc::Status EventsServiceImpl::GetWebhookEvent(grpc::ServerContext* context, const v1::GetWebhookEventRequest* request,
                                                v1::WebhookEvent* response) {
  return guard_.Handle(*context, "mainstay.webhooks.v1.WebhookEventsService/GetWebhookEvent",
                       [&](const CallContext& call) -> absl::Status {
                         absl::StatusOr<Uuid> id = ParseId("evt", request->id());
                         if (!id.ok()) return MakeProblem("not-found", "There is no such event");
                         return pool_.Autocommit(call.deadline, [&](pqxx::transaction_base& tx) {
                           return FillEvent(tx, call, *id, response);
                         });
                       });
}

grpc::Status EventsServiceImpl::ReplayWebhookEvent(grpc::ServerContext* context,
                                                   const v1::ReplayWebhookEventRequest* request,
                                                   v1::WebhookEvent* response) {
  return guard_.Handle(
      *context, "mainstay.webhooks.v1.WebhookEventsService/ReplayWebhookEvent",
      [&](const CallContext& call) -> absl::Status {
        absl::StatusOr<Uuid> id = ParseId("evt", request->id());
        if (!id.ok()) return MakeProblem("not-found", "There is no such event");
        std::vector<jobs::Enqueued> enqueued;
        RETURN_IF_ERROR(pool_.Transaction(call.deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
          enqueued.clear();
          response->Clear();
          RETURN_IF_ERROR(FillEvent(tx, call, *id, response));
          // A job that runs it now holds the row until it is done; only then is the state what it is.
          tx.exec_params(sql::kLockEvent, id->ToString());
          RETURN_IF_ERROR(FillEvent(tx, call, *id, response));
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
          tx.exec_params(sql::kReplayEvent, id->ToString(), enqueued[0].id.ToString());
          return FillEvent(tx, call, *id, response);
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
