// SPDX-License-Identifier: Apache-2.0
// The one HTTP edge: from a request to the part that answers it.
//
//   /v1/…            records, from PostgreSQL on this loop
//   /mainstay/v1/…   the other services' RPCs, transcoded
//   /hooks/<source>  webhooks in, unauthenticated here: the webhooks service verifies them
//   /healthz /readyz /problems/<slug>
//
// One Gateway for the process; what belongs to one loop (PostgreSQL connections, the cache of keys) it keeps per loop.
// Nothing here blocks.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "libs/catalog/model.h"
#include "libs/http/server.h"
#include "libs/postgres/async.h"
#include "libs/records/http.h"
#include "libs/rpc/server.h"
#include "services/gateway/authenticator.h"
#include "services/gateway/hooks.h"
#include "services/gateway/suite_api.h"

namespace mainstay::gateway {

class Gateway {
 public:
  using ModelSource = std::function<catalog::ModelPtr()>;
  // `draining` tells readiness that the process is about to end.
  Gateway(ModelSource model, records::HttpApi& records, SuiteApi& suite, Hooks& hooks,
          std::vector<rpc::Dependency> dependencies, std::function<bool()> draining);

  // Once per loop, before it serves.
  void AddLoop(boost::asio::io_context& loop, postgres::AsyncPostgres& postgres);
  boost::asio::awaitable<http::Response> Handle(http::Request& request);

 private:
  struct Loop {
    boost::asio::io_context* context;
    postgres::AsyncPostgres* postgres;
    std::unique_ptr<Authenticator> authenticator;
  };
  boost::asio::awaitable<http::Response> Route(http::Request& request);
  http::Response Readiness() const;

  const ModelSource model_;
  records::HttpApi& records_;
  SuiteApi& suite_;
  Hooks& hooks_;
  const std::vector<rpc::Dependency> dependencies_;
  const std::function<bool()> draining_;
  std::vector<Loop> loops_;
};

}  // namespace mainstay::gateway
