// SPDX-License-Identifier: Apache-2.0
#include "services/integrations/providers_service.h"

#include <grpcpp/support/error_details.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "libs/base/problem.h"
#include "libs/base/strings.h"

namespace mainstay::integrations {
namespace {

CallSpec ToSpec(const v1::CallRequest& request) {
  return {request.provider(), request.connection(), request.operation(),
          request.params(),   request.body(),       request.idempotency_key()};
}

void Fill(const CallResult& result, v1::CallResponse* response) {
  response->set_status(result.status);
  response->set_body(result.body);
  response->set_attempts(result.attempts);
  const absl::Duration elapsed = result.elapsed;
  response->mutable_elapsed()->set_seconds(absl::ToInt64Seconds(elapsed));
  response->mutable_elapsed()->set_nanos(int32_t(absl::ToInt64Nanoseconds(elapsed % absl::Seconds(1))));
}

// Puts the failure of a call beside the generic details.
grpc::Status WithFailure(grpc::Status status, const absl::Status& original) {
  std::optional<CallFailure> failure = original.ok() ? std::nullopt : GetFailure(original);
  if (!failure) return status;
  google::rpc::Status details;
  details.set_code(int(original.code()));
  details.set_message(std::string(ToStd(original.message())));
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(ClassName(failure->error)));
  info.set_domain("integrations");
  auto& metadata = *info.mutable_metadata();
  metadata["retried_by"] = "integrations";
  metadata["attempts"] = StrCat(failure->attempts);
  if (failure->http_status != 0) metadata["http_status"] = StrCat(failure->http_status);
  if (failure->retry_after) metadata["retry_after_ms"] = StrCat(absl::ToInt64Milliseconds(*failure->retry_after));
  details.add_details()->PackFrom(info);
  grpc::Status out;
  if (!grpc::SetErrorDetails(details, &out).ok()) return status;
  return out;
}

std::string_view StateName(CircuitBreaker::State state) {
  switch (state) {
    case CircuitBreaker::State::kOpen:
      return "open";
    case CircuitBreaker::State::kHalfOpen:
      return "half_open";
    default:
      return "closed";
  }
}

}  // namespace

grpc::Status ProvidersServiceImpl::Call(grpc::ServerContext* context, const v1::CallRequest* request,
                                        v1::CallResponse* response) {
  absl::Status failed;
  grpc::Status status = guard_.Handle(*context, "mainstay.integrations.v1.ProvidersService/Call",
                                      [&](const CallContext& call) -> absl::Status {
                                        absl::StatusOr<CallResult> result = egress_.Call(call, ToSpec(*request));
                                        if (!result.ok()) return failed = result.status();
                                        Fill(*result, response);
                                        return absl::OkStatus();
                                      });
  return WithFailure(std::move(status), failed);
}

grpc::Status ProvidersServiceImpl::CallPages(grpc::ServerContext* context, const v1::CallRequest* request,
                                             grpc::ServerWriter<v1::CallResponse>* writer) {
  absl::Status failed;
  grpc::Status status = guard_.Handle(
      *context, "mainstay.integrations.v1.ProvidersService/CallPages", [&](const CallContext& call) -> absl::Status {
        failed = egress_.CallPages(call, ToSpec(*request), [&](const CallResult& page) -> absl::Status {
          v1::CallResponse response;
          Fill(page, &response);
          // False: the caller is gone.
          return writer->Write(response) ? absl::OkStatus() : absl::CancelledError("the caller went away");
        });
        return failed;
      });
  return WithFailure(std::move(status), failed);
}

grpc::Status ProvidersServiceImpl::Fetch(grpc::ServerContext* context, const v1::FetchRequest* request,
                                         v1::FetchResponse* response) {
  absl::Status failed;
  grpc::Status status = guard_.Handle(
      *context, "mainstay.integrations.v1.ProvidersService/Fetch", [&](const CallContext& call) -> absl::Status {
        absl::StatusOr<FetchResult> result = egress_.Fetch(call, request->url(), request->max_bytes());
        if (!result.ok()) return failed = result.status();
        response->set_status(result->status);
        response->set_content_type(result->content_type);
        response->set_body(std::move(result->body));
        return absl::OkStatus();
      });
  return WithFailure(std::move(status), failed);
}

grpc::Status ProvidersServiceImpl::ListProviders(grpc::ServerContext* context, const v1::ListProvidersRequest*,
                                                 v1::ListProvidersResponse* response) {
  return guard_.Handle(*context, "mainstay.integrations.v1.ProvidersService/ListProviders",
                       [&](const CallContext&) -> absl::Status {
                         catalog::ModelPtr model = model_();
                         if (model == nullptr) return MakeProblem("service-unavailable", "No catalog is published yet");
                         for (const auto& [name, provider] : model->providers) {
                           v1::Provider* out = response->add_data();
                           out->set_name(name);
                           out->set_base_url(provider.base_url);
                           for (const auto& [operation, declared] : provider.operations) out->add_operations(operation);
                           out->set_circuit(std::string(StateName(egress_.Circuit(provider))));
                         }
                         return absl::OkStatus();
                       });
}

}  // namespace mainstay::integrations
