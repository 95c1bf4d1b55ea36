// SPDX-License-Identifier: Apache-2.0
// The door to other companies' APIs for code that is no part of the integrations service: an interface, and its one
// real form over integrations.v1.
//
// Errors: Unavailable, ResourceExhausted, DeadlineExceeded may be tried again by the job (with the problem's
// retry_after); FailedPrecondition, NotFound, InvalidArgument, PermissionDenied, AlreadyExists will not get better by
// themselves. The service has already retried what could be: callers do not retry in place.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "libs/base/principal.h"

namespace grpc {
class Channel;
}
namespace mainstay::rpc {
class Signer;
}

namespace mainstay::webhooks {

struct ProviderCall {
  std::string provider, connection, operation;
  std::string params = "{}";  // JSON object
  std::string body;           // JSON or empty
  std::string idempotency_key;
};

class ProviderClient {
 public:
  virtual ~ProviderClient() = default;
  // The response's body, JSON. Acts as context.principal and honours context.deadline. Thread-safe.
  virtual absl::StatusOr<std::string> Call(const CallContext& context, const ProviderCall& call) = 0;
};

std::unique_ptr<ProviderClient> MakeGrpcProviderClient(const std::shared_ptr<grpc::Channel>& channel,
                                                       rpc::Signer& signer);

}  // namespace mainstay::webhooks
