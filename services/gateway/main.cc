// SPDX-License-Identifier: Apache-2.0
// The gateway: the one HTTP edge of the suite. Configuration, parts, serve, drain.
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/catalog/watcher.h"
#include "libs/http/server.h"
#include "libs/postgres/async.h"
#include "libs/postgres/pool.h"
#include "libs/records/http.h"
#include "libs/rpc/call.h"
#include "libs/rpc/server.h"
#include "libs/telemetry/log.h"
#include "services/gateway/gateway.h"
#include "services/gateway/hooks.h"
#include "services/gateway/options.h"
#include "services/gateway/records_service.h"
#include "services/gateway/suite_api.h"
#include "services/gateway/upstream.h"

namespace mainstay::gateway {
namespace {

// Opens the asynchronous connections of every loop.
std::vector<std::unique_ptr<postgres::AsyncPostgres>> ConnectLoops(const Options& options, http::Server& server) {
  postgres::AsyncOptions async;
  async.url = options.service.database_url;
  async.application_name = "mainstay-gateway";
  async.exclusive_connections = int(options.database_connections);
  async.short_connections = int(options.database_short_connections);
  async.prepare = options.prepared_statements;
  std::vector<std::unique_ptr<postgres::AsyncPostgres>> connections;
  for (boost::asio::io_context* loop : server.loops())
    connections.push_back(postgres::AsyncPostgres::Create(*loop, async));
  return connections;
}

absl::StatusOr<int> Serve(const Options& options) {
  ASSIGN_OR_RETURN(rpc::Signer signer, options.service.MakeSigner());
  ASSIGN_OR_RETURN(rpc::Verifier verifier, options.service.MakeVerifier());

  postgres::Pool pool({.url = options.service.database_url, .application_name = "mainstay-gateway", .size = 2});
  catalog::Watcher watcher(
      pool, {.service = "gateway", .instance = rpc::InstanceName(), .queries = catalog::QuerySource::kDatabase});
  if (const absl::Status loaded = watcher.Start(); !loaded.ok())
    log::Warn("no catalog yet", {{"reason", ToStd(loaded.message())}});

  std::map<std::string, std::unique_ptr<Upstream>> upstreams;
  std::map<std::string, Upstream*> by_name;
  std::map<std::string, std::shared_ptr<grpc::Channel>> channels;
  for (const auto& [name, address] : options.peers) {
    channels[name] = rpc::Connect(address);
    upstreams[name] = std::make_unique<Upstream>(name, channels[name], signer);
    by_name[name] = upstreams[name].get();
  }
  Hooks hooks({}, channels["webhooks"], signer);
  SuiteApi suite(by_name);
  records::HttpApi records({.cursor_key = options.cursor_key});

  http::ServerOptions edge;
  ASSIGN_OR_RETURN(const auto address, rpc::SplitHostPort(options.http_listen));
  edge.address = address.first;
  edge.port = address.second;
  edge.threads = int(options.http_threads);
  edge.hosts = options.hosts;
  edge.request_timeout = options.request_timeout;
  Gateway* gateway_pointer = nullptr;
  http::Server server(edge, [&gateway_pointer](http::Request& request) { return gateway_pointer->Handle(request); });
  const auto connections = ConnectLoops(options, server);

  std::vector<rpc::Dependency> dependencies;
  dependencies.push_back({"postgresql", [&connections] {
                            for (const auto& connection : connections) RETURN_IF_ERROR(connection->Health());
                            return absl::OkStatus();
                          }});
  for (const auto& [name, upstream] : upstreams)
    dependencies.push_back({name, [u = upstream.get()] { return u->Health(); }});

  rpc::ServiceServer rpc_server(options.service);
  Gateway gateway([&watcher] { return watcher.model(); }, records, suite, hooks, dependencies,
                  [&rpc_server] { return rpc_server.draining(); });
  gateway_pointer = &gateway;
  for (size_t i = 0; i < connections.size(); ++i) gateway.AddLoop(*server.loops()[i], *connections[i]);

  rpc::Guard guard("gateway", std::move(verifier), [&watcher](const auto& roles, std::string_view scope) {
    return watcher.model()->HasScope(roles, scope);
  });
  std::vector<RecordsService::Loop> loops;
  for (size_t i = 0; i < connections.size(); ++i) loops.push_back({server.loops()[i], connections[i].get()});
  RecordsService records_service(
      guard, records, [&watcher] { return watcher.model(); }, loops);
  rpc_server.Add(&records_service.service());
  for (rpc::Dependency& dependency : dependencies) rpc_server.AddDependency(dependency);
  rpc_server.AddInfo("catalog", [&watcher] { return watcher.model()->hash; });
  RETURN_IF_ERROR(rpc_server.Start());
  RETURN_IF_ERROR(server.Start());
  rpc_server.SetReady();
  log::Info("serving", {{"http_port", server.port()}});

  const int code = rpc_server.Run([&](absl::Duration deadline) {
    server.Drain(deadline);
    watcher.Stop();
  });
  // Only now: calls of records.v1 ran on the same loops until gRPC had shut down.
  server.Stop();
  return code;
}

}  // namespace
}  // namespace mainstay::gateway

int main(int argc, char** argv) {
  return mainstay::rpc::ServiceMain(argc, argv, mainstay::gateway::Serve);
}
