// SPDX-License-Identifier: Apache-2.0
// records.v1 for internal services: the operations of the HTTP API over gRPC, run on the same loops and connections.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "libs/catalog/model.h"
#include "libs/rpc/call.h"

namespace boost::asio {
class io_context;
}
namespace grpc {
class Service;
}
namespace mainstay::postgres {
class AsyncPostgres;
}
namespace mainstay::records {
class HttpApi;
}

namespace mainstay::gateway {

class RecordsService {
 public:
  struct Loop {
    boost::asio::io_context* context;
    postgres::AsyncPostgres* postgres;
  };
  // Calls go round the loops. All of it outlives this.
  RecordsService(const rpc::Guard& guard, records::HttpApi& records, std::function<catalog::ModelPtr()> model,
                 std::vector<Loop> loops);
  ~RecordsService();
  grpc::Service& service();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mainstay::gateway
