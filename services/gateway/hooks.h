// SPDX-License-Identifier: Apache-2.0
// /hooks/<source>: gathers deliveries into batches for the webhooks service.
//
// No timer: while a call is under way the next batch gathers by itself, and a call starts when one returns (two in
// flight). The truth is the webhooks service's commit: a delivery is answered only by it. Bounded in number and bytes;
// beyond that, or when the service is away, the provider gets 503 and sends again.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <memory>

#include "libs/http/server.h"
#include "libs/rpc/principal_token.h"

namespace grpc {
class Channel;
}

namespace mainstay::gateway {

struct HooksOptions {
  int max_in_flight = 2;
  int max_batch = 256;                // deliveries in one call
  int64_t max_batch_bytes = 8 << 20;  // under the 16 MiB of a message
  int max_waiting = 4096;             // deliveries waiting for a call
  int64_t max_waiting_bytes = 64 << 20;
  int64_t max_body = 1 << 20;  // the source's own, smaller limit is the service's to check
  absl::Duration timeout = absl::Seconds(10);
};

class Hooks {
 public:
  Hooks(HooksOptions options, std::shared_ptr<grpc::Channel> webhooks, rpc::Signer& signer);
  ~Hooks();
  // Thread-safe; called on the loop of the request.
  boost::asio::awaitable<http::Response> Handle(http::Request& request);
  // Deliveries that no call carries yet. Thread-safe.
  int waiting() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace mainstay::gateway
