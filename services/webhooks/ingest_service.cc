// SPDX-License-Identifier: Apache-2.0
#include "services/webhooks/ingest_service.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "libs/base/problem.h"

namespace mainstay::webhooks {
namespace {

constexpr int kMaxDeliveries = 2000;

absl::Time ReceivedAt(const v1::Delivery& delivery) {
  absl::Time now = absl::Now();
  if (!delivery.has_received_at()) return now;
  absl::Time time =
      absl::FromUnixSeconds(delivery.received_at().seconds()) + absl::Nanoseconds(delivery.received_at().nanos());
  // Never the future: the gateway's clock may be ahead.
  return std::min(time, now);
}

}  // namespace

grpc::Status IngestServiceImpl::Ingest(grpc::ServerContext* context, const v1::IngestRequest* request,
                                       v1::IngestResponse* response) {
  return guard_.Handle(*context, "mainstay.webhooks.v1.IngestService/Ingest", [&](const CallContext&) -> absl::Status {
    if (request->deliveries_size() > kMaxDeliveries)
      return MakeProblem("invalid-parameter", "more than 2000 deliveries in one call");
    std::vector<Delivery> deliveries;
    deliveries.reserve(size_t(request->deliveries_size()));
    for (const v1::Delivery& in : request->deliveries()) {
      Delivery& out = deliveries.emplace_back();
      out.source = in.source();
      out.method = in.method();
      out.target = in.target();
      for (const v1::Header& header : in.headers()) {
        std::string name = header.name();
        for (char& c : name)
          if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
        out.headers.emplace_back(std::move(name), header.value());
      }
      out.body = in.body();
      out.remote_address = in.remote_address();
      out.received_at = ReceivedAt(in);
      out.request_id = in.request_id();
      out.traceparent = in.traceparent();
    }
    for (Answer& answer : inbox_.Ingest(std::move(deliveries))) {
      v1::Answer* out = response->add_answers();
      out->set_status(answer.status);
      out->set_content_type(std::move(answer.content_type));
      out->set_body(std::move(answer.body));
      out->set_problem(std::move(answer.problem));
      out->set_retry_after_seconds(answer.retry_after_seconds);
      out->set_event_id(std::move(answer.event_id));
    }
    return absl::OkStatus();
  });
}

}  // namespace mainstay::webhooks
