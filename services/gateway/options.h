// SPDX-License-Identifier: Apache-2.0
// The gateway's configuration: what every service has, and its own edge.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "libs/base/config.h"
#include "libs/rpc/server.h"

namespace mainstay::gateway {

struct Options {
  rpc::ServiceOptions service{.name = "gateway"};  // its `listen` is records.v1 over gRPC
  std::string http_listen = "127.0.0.1:8080";
  int64_t http_threads = 2;
  std::vector<std::string> hosts;            // allowed Host values; empty: any
  std::map<std::string, std::string> peers;  // service → host:port
  std::string cursor_key;                    // 32 bytes, the same for all copies
  absl::Duration request_timeout = absl::Seconds(30);
  int64_t database_connections = 8;        // exclusive ones, per loop
  int64_t database_short_connections = 2;  // beside them, for short transactions
  bool prepared_statements = true;         // false behind a transaction pooler that does not follow them

  void Declare(ConfigReader& reader);
};

}  // namespace mainstay::gateway
