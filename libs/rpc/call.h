// SPDX-License-Identifier: Apache-2.0
// The two ends of every RPC: what a server checks before a handler runs, and what a client sends along.
//
// Server:  grpc::Status GetJob(grpc::ServerContext* context, const GetJobRequest* request, Job* response) override {
//            return guard_.Handle(*context, "mainstay.jobs.v1.JobsService/GetJob", [&](const CallContext& call) ->
//            absl::Status { … });
//          }
// Client:  grpc::ClientContext context;
//          PrepareCall(context, call, signer, "integrations");
//          absl::Status status = FromGrpc(stub->Call(&context, request, &response));
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "libs/base/principal.h"
#include "libs/rpc/principal_token.h"

namespace grpc {
class ChannelInterface;
class ClientContext;
class ServerContextBase;
class Status;
class Channel;
}  // namespace grpc

namespace mainstay::rpc {

// The problem travels as google.rpc.Status details (ErrorInfo reason = slug, BadRequest field violations, RetryInfo)
// and comes back as the same problem.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

class Guard {
 public:
  // `has_scope` asks the catalog whether any of the roles grants the scope.
  using HasScope = std::function<bool(const std::vector<std::string>& roles, std::string_view scope)>;
  Guard(std::string service, Verifier verifier, HasScope has_scope);
  ~Guard();

  // Verifies the principal, the method's declared scope (proto option) and the deadline (none sent: 30 s), and reads
  // traceparent and request id from the metadata.
  absl::StatusOr<CallContext> Admit(const grpc::ServerContextBase& context, std::string_view method) const;
  // The same for a caller who proved in another way who it is.
  absl::StatusOr<CallContext> Admit(const grpc::ServerContextBase& context, std::string_view method,
                                    Principal principal) const;
  // Admit, then `body`; exceptions become Internal. One access log line and the method's metrics.
  grpc::Status Handle(const grpc::ServerContextBase& context, std::string_view method,
                      absl::FunctionRef<absl::Status(const CallContext&)> body) const;
  // What Handle does at the end, for calls that end elsewhere than they began: the access log line and the metrics.
  grpc::Status Conclude(std::string_view method, const absl::StatusOr<CallContext>& call, absl::Time began,
                        const absl::Status& status) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Adds principal, deadline, traceparent (a child span) and request id.
void PrepareCall(grpc::ClientContext& context, const CallContext& call, Signer& signer, std::string_view audience);

// "dns:///host:port", round_robin, keepalive, bounded message size (16 MiB), reconnect backoff capped at 2 s.
std::shared_ptr<grpc::Channel> Connect(const std::string& address);

}  // namespace mainstay::rpc
