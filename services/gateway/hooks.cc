// SPDX-License-Identifier: Apache-2.0
#include "services/gateway/hooks.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "libs/base/problem.h"
#include "libs/base/strings.h"
#include "libs/rpc/call.h"
#include "mainstay/webhooks/v1/webhooks.grpc.pb.h"
#include "services/gateway/handover.h"

namespace mainstay::gateway {
namespace {

namespace asio = boost::asio;
namespace pb = mainstay::webhooks::v1;

struct Waiting {
  pb::Delivery delivery;
  int64_t bytes = 0;
  Handover<absl::StatusOr<pb::Answer>> answer;
};

struct Batch {
  grpc::ClientContext context;
  pb::IngestRequest request;
  pb::IngestResponse response;
  std::vector<std::shared_ptr<Waiting>> waiting;
};

pb::Delivery ToDelivery(const http::Request& request, std::string body) {
  pb::Delivery delivery;
  delivery.set_source(request.segments[1]);
  delivery.set_method(request.method);
  delivery.set_target(request.target);
  for (const auto& [name, value] : request.headers) {
    pb::Header* header = delivery.add_headers();
    header->set_name(name);
    header->set_value(value);
  }
  delivery.set_body(std::move(body));
  delivery.set_remote_address(request.remote_address);
  const absl::Duration now = absl::Now() - absl::UnixEpoch();
  delivery.mutable_received_at()->set_seconds(absl::ToInt64Seconds(now));
  delivery.mutable_received_at()->set_nanos(int32_t(absl::ToInt64Nanoseconds(now % absl::Seconds(1))));
  delivery.set_request_id(request.request_id);
  delivery.set_traceparent(request.traceparent);
  return delivery;
}

http::Response ToResponse(const pb::Answer& answer, const http::Request& request) {
  if (answer.status() >= 400) {
    Problem problem{.type = answer.problem(), .detail = answer.body()};
    if (answer.retry_after_seconds() > 0) problem.retry_after = absl::Seconds(answer.retry_after_seconds());
    return http::ProblemResponse(MakeProblem(std::move(problem)), request);
  }
  http::Response response;
  response.status = answer.status();
  if (!answer.content_type().empty()) response.headers.emplace_back("content-type", answer.content_type());
  response.body = answer.body();
  return response;
}

}  // namespace

struct Hooks::Impl : std::enable_shared_from_this<Hooks::Impl> {
  Impl(HooksOptions o, std::shared_ptr<grpc::Channel> channel, rpc::Signer& s)
      : options(o), stub(pb::IngestService::NewStub(std::move(channel))), signer(s) {}

  absl::Status Enqueue(std::shared_ptr<Waiting> waiting) {
    {
      std::lock_guard lock(mu);
      if (int(queue.size()) >= options.max_waiting || queued_bytes + waiting->bytes > options.max_waiting_bytes) {
        return MakeProblem("overloaded", "too many webhooks are waiting to be stored");
      }
      queued_bytes += waiting->bytes;
      queue.push_back(std::move(waiting));
    }
    StartCalls();
    return absl::OkStatus();
  }

  void StartCalls() {
    while (true) {
      auto batch = std::make_shared<Batch>();
      {
        std::lock_guard lock(mu);
        if (queue.empty() || in_flight >= options.max_in_flight) return;
        ++in_flight;
        int64_t bytes = 0;
        while (!queue.empty() && int(batch->waiting.size()) < options.max_batch &&
               (bytes == 0 || bytes + queue.front()->bytes <= options.max_batch_bytes)) {
          bytes += queue.front()->bytes;
          queued_bytes -= queue.front()->bytes;
          batch->waiting.push_back(std::move(queue.front()));
          queue.pop_front();
        }
      }
      Send(batch);
    }
  }

  void Send(const std::shared_ptr<Batch>& batch) {
    for (const auto& waiting : batch->waiting) batch->request.add_deliveries()->Swap(&waiting->delivery);
    CallContext call;
    call.principal = {std::string(kAllTenants), "service:gateway", {}};
    call.deadline = absl::Now() + options.timeout;
    // The batch has no trace of its own; each delivery carries its request's.
    rpc::PrepareCall(batch->context, call, signer, "webhooks");
    stub->async()->Ingest(
        &batch->context, &batch->request, &batch->response,
        [self = shared_from_this(), batch](const grpc::Status& status) { self->Finish(*batch, status); });
  }

  void Finish(Batch& batch, const grpc::Status& status) {
    {
      std::lock_guard lock(mu);
      --in_flight;
    }
    StartCalls();
    const bool answered = status.ok() && batch.response.answers_size() == int(batch.waiting.size());
    for (size_t i = 0; i < batch.waiting.size(); ++i) {
      if (answered) {
        batch.waiting[i]->answer.Put(std::move(*batch.response.mutable_answers(int(i))));
      } else {
        // Perhaps stored, perhaps not: the provider sends again and the second copy is recognised.
        batch.waiting[i]->answer.Put(MakeProblem("service-unavailable", "the webhook could not be stored now"));
      }
    }
  }

  const HooksOptions options;
  const std::unique_ptr<pb::IngestService::Stub> stub;
  rpc::Signer& signer;
  std::mutex mu;
  std::deque<std::shared_ptr<Waiting>> queue;
  int64_t queued_bytes = 0;
  int in_flight = 0;
};

Hooks::Hooks(HooksOptions options, std::shared_ptr<grpc::Channel> webhooks, rpc::Signer& signer)
    : impl_(std::make_shared<Impl>(options, std::move(webhooks), signer)) {}
Hooks::~Hooks() = default;

int Hooks::waiting() const {
  std::lock_guard lock(impl_->mu);
  return int(impl_->queue.size());
}

asio::awaitable<http::Response> Hooks::Handle(http::Request& request) {
  if (request.segments.size() != 2 || request.segments[1].empty())
    co_return http::ProblemResponse(MakeProblem("not-found", ""), request);
  request.body->set_limit(impl_->options.max_body);
  absl::StatusOr<std::string> body = co_await http::ReadAll(*request.body);
  if (!body.ok()) co_return http::ProblemResponse(body.status(), request);
  auto waiting = std::make_shared<Waiting>();
  waiting->delivery = ToDelivery(request, *std::move(body));
  waiting->bytes = int64_t(waiting->delivery.ByteSizeLong());
  if (const absl::Status queued = impl_->Enqueue(waiting); !queued.ok())
    co_return http::ProblemResponse(queued, request);
  const absl::StatusOr<pb::Answer> answer = co_await waiting->answer.Take();
  if (!answer.ok()) co_return http::ProblemResponse(answer.status(), request);
  co_return ToResponse(*answer, request);
}

}  // namespace mainstay::gateway
