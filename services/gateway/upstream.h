// SPDX-License-Identifier: Apache-2.0
// Calls from the gateway's coroutines to the services behind it, with serialized messages: no stub per RPC, so a new
// RPC needs no code here.
//
// gRPC's threads only hand results over; everything of the caller runs on the caller's own loop. Deadline, principal,
// trace and request id of the CallContext travel along. A coroutine that is destroyed while it waits cancels its call.
// A service that is away answers service-unavailable at once.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "libs/base/principal.h"
#include "libs/rpc/principal_token.h"

namespace grpc {
class Channel;
}

namespace mainstay::gateway {

// The messages of a server stream, one at a time: the next is asked of the service only when the last was taken (flow
// control end to end).
class UpstreamReader {
 public:
  virtual ~UpstreamReader() = default;
  // A serialized message; nullopt at the end of a stream that ended well.
  virtual boost::asio::awaitable<absl::StatusOr<std::optional<std::string>>> Next() = 0;
  // Ends the call: Next returns soon, with Cancelled.
  virtual void Cancel() = 0;
};

// The messages of a client stream.
class UpstreamWriter {
 public:
  virtual ~UpstreamWriter() = default;
  // Returns when the message was taken by the transport. An error means that the service ended the call: Finish tells
  // why.
  virtual boost::asio::awaitable<absl::Status> Write(std::string message) = 0;
  // Ends the stream and waits for the answer.
  virtual boost::asio::awaitable<absl::StatusOr<std::string>> Finish() = 0;
};

class Upstream {
 public:
  // `service`: its name, the audience of the principal's token.
  Upstream(std::string service, const std::shared_ptr<grpc::Channel>& channel, rpc::Signer& signer);
  ~Upstream();

  // `method`: "/mainstay.jobs.v1.JobsService/GetJob". `on_cancel`, if any, is given a function that ends the call (see
  // http::Request::on_disconnect).
  boost::asio::awaitable<absl::StatusOr<std::string>> Call(
      std::string method, std::string request, const CallContext& context,
      std::function<void(std::function<void()>)> on_cancel = nullptr);
  std::unique_ptr<UpstreamReader> Read(const std::string& method, const std::string& request,
                                       const CallContext& context);
  std::unique_ptr<UpstreamWriter> Write(const std::string& method, const CallContext& context);

  // For readiness; looks at the channel, sends nothing.
  absl::Status Health() const;
  const std::string& service() const { return service_; }

 private:
  struct Impl;
  const std::string service_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mainstay::gateway
