// SPDX-License-Identifier: Apache-2.0
#include "libs/webhooks/provider_client.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/error_details.h>

#include "absl/strings/numbers.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "libs/base/problem.h"
#include "libs/base/strings.h"
#include "libs/rpc/call.h"
#include "mainstay/integrations/v1/integrations.grpc.pb.h"

namespace mainstay::webhooks {
namespace {

// The service's own words about a failed call; the generic translation would lose when to come back.
absl::Status Translate(const grpc::Status& status) {
  google::rpc::Status details;
  if (!status.error_details().empty() && grpc::ExtractErrorDetails(status, &details).ok()) {
    for (const auto& any : details.details()) {
      google::rpc::ErrorInfo info;
      if (!any.UnpackTo(&info) || info.domain() != "integrations") continue;
      std::string message = StrCat(info.reason(), ": ", status.error_message());
      const absl::StatusCode code = absl::StatusCode(status.error_code());
      if (code != absl::StatusCode::kUnavailable && code != absl::StatusCode::kResourceExhausted)
        return absl::Status(code, message);
      Problem problem;
      problem.type = code == absl::StatusCode::kUnavailable ? "service-unavailable" : "quota-exceeded";
      problem.detail = std::move(message);
      auto hint = info.metadata().find("retry_after_ms");
      int64_t millis = 0;
      if (hint != info.metadata().end() && absl::SimpleAtoi(hint->second, &millis) && millis >= 0)
        problem.retry_after = absl::Milliseconds(millis);
      return MakeProblem(std::move(problem));
    }
  }
  return rpc::FromGrpc(status);
}

class GrpcProviderClient : public ProviderClient {
 public:
  GrpcProviderClient(const std::shared_ptr<grpc::Channel>& channel, rpc::Signer& signer)
      : stub_(integrations::v1::ProvidersService::NewStub(channel)), signer_(signer) {}

  absl::StatusOr<std::string> Call(const CallContext& context, const ProviderCall& call) override {
    integrations::v1::CallRequest request;
    request.set_provider(call.provider);
    request.set_connection(call.connection);
    request.set_operation(call.operation);
    request.set_params(call.params);
    request.set_body(call.body);
    request.set_idempotency_key(call.idempotency_key);
    grpc::ClientContext client;
    rpc::PrepareCall(client, context, signer_, "integrations");
    integrations::v1::CallResponse response;
    grpc::Status status = stub_->Call(&client, request, &response);
    if (!status.ok()) return Translate(status);
    return std::move(*response.mutable_body());
  }

 private:
  const std::unique_ptr<integrations::v1::ProvidersService::Stub> stub_;
  rpc::Signer& signer_;
};

}  // namespace

std::unique_ptr<ProviderClient> MakeGrpcProviderClient(const std::shared_ptr<grpc::Channel>& channel,
                                                       rpc::Signer& signer) {
  return std::make_unique<GrpcProviderClient>(channel, signer);
}

}  // namespace mainstay::webhooks
