// SPDX-License-Identifier: Apache-2.0
// /mainstay/v1: the other services' RPCs over HTTP, by the annotations of their protos alone.
//
// Checks the scope, turns JSON into the request message and the answer into JSON, and carries files: an upload's body
// becomes a stream of chunks, a download's chunks become the body, both at the pace of the slower side. Other server
// streams are JSON Lines, or server-sent events where Accept asks for them. Stateless; used on all loops.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <map>
#include <memory>
#include <string>

#include "libs/base/principal.h"
#include "libs/catalog/model.h"
#include "libs/http/server.h"
#include "libs/rpc/transcoder.h"
#include "services/gateway/upstream.h"

namespace mainstay::gateway {

class SuiteApi {
 public:
  // `upstreams` by service name; they outlive this.
  explicit SuiteApi(std::map<std::string, Upstream*> upstreams);
  boost::asio::awaitable<http::Response> Handle(http::Request& request, const CallContext& call,
                                                const catalog::Model& model);

 private:
  boost::asio::awaitable<absl::StatusOr<http::Response>> Dispatch(http::Request& request, const CallContext& call,
                                                                  const catalog::Model& model, std::string* allow);
  boost::asio::awaitable<absl::StatusOr<http::Response>> Unary(http::Request& request, const CallContext& call,
                                                               const rpc::Transcoder::Match& match, Upstream& upstream);
  boost::asio::awaitable<absl::StatusOr<http::Response>> Upload(http::Request& request, const CallContext& call,
                                                                const rpc::Transcoder::Match& match,
                                                                Upstream& upstream);
  boost::asio::awaitable<absl::StatusOr<http::Response>> Stream(http::Request& request, const CallContext& call,
                                                                const rpc::Transcoder::Match& match,
                                                                Upstream& upstream);

  const rpc::Transcoder transcoder_;
  const std::map<std::string, Upstream*> upstreams_;
};

}  // namespace mainstay::gateway
