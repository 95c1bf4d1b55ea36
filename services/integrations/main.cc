// SPDX-License-Identifier: Apache-2.0
// mainstay-integrations: the only process of the suite that dials out to providers and to addresses that a user can
// name. Any number of copies; rate limits are shared through Redis, everything else is decided here.
#include <grpcpp/grpcpp.h>

#include "absl/strings/numbers.h"
#include "libs/base/clock.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/catalog/watcher.h"
#include "libs/integrations/connections.h"
#include "libs/integrations/egress.h"
#include "libs/postgres/pool.h"
#include "libs/redis/client.h"
#include "libs/rpc/server.h"
#include "libs/secrets/secrets.h"
#include "libs/telemetry/log.h"
#include "services/integrations/connections_service.h"
#include "services/integrations/providers_service.h"

namespace mainstay::integrations {
namespace {

struct Options {
  // A call waits on its thread while the bytes move elsewhere: this bounds the calls of the process.
  rpc::ServiceOptions service{.name = "integrations", .max_threads = 256};
  EgressOptions egress;
  std::string secrets_key_file, cursor_key, ca_file;
  int64_t database_connections = 4, copies = 1;

  void Declare(ConfigReader& reader) {
    service.Declare(reader);
    reader.Required("secrets_key_file", &secrets_key_file, "file with the key-encryption keys of the secrets");
    rpc::DeclareCursorKey(reader, &cursor_key);
    reader.Int("database_connections", &database_connections, 1, 100, "connections to PostgreSQL");
    std::vector<std::string> allow, nat64, self, schemes = egress.guard.schemes, ports = {"443", "8443"};
    reader.Int("copies", &copies, 1, 1000,
               "copies of this service: each one's share of a rate limit while Redis is away");
    reader.String("ca_file", &ca_file, "certificate authorities to trust instead of the system's");
    reader.List(
        "egress_allow", &allow,
        "networks that may be called although they are private, as 10.20.0.0/24; metadata addresses stay closed");
    reader.List("egress_schemes", &schemes, "schemes that may be called");
    reader.List("egress_ports", &ports, "ports that may be called");
    reader.List("egress_nat64", &nat64, "NAT64 prefixes in use, as 64:ff9b::/96");
    reader.List("egress_self", &self, "our own public addresses, which are never called");
    auto cidrs = [&](const std::vector<std::string>& texts, std::string_view key, std::vector<Cidr>* out) {
      for (const std::string& text : texts) {
        absl::StatusOr<Cidr> cidr = Cidr::Parse(text);
        reader.Check(cidr.ok(), cidr.ok() ? std::string() : StrCat(key, ": ", cidr.status().message()));
        if (cidr.ok()) out->push_back(*cidr);
      }
    };
    cidrs(allow, "egress_allow", &egress.guard.allow);
    cidrs(nat64, "egress_nat64", &egress.guard.nat64);
    for (const std::string& text : self) {
      auto address = Address::Parse(text);
      reader.Check(address.has_value(), StrCat("egress_self: \"", text, "\" is no address"));
      if (address) egress.guard.self.push_back(*address);
    }
    egress.guard.ports.clear();
    for (const std::string& text : ports) {
      int port = 0;
      bool good = absl::SimpleAtoi(text, &port) && port > 0 && port < 65536;
      reader.Check(good, StrCat("egress_ports: \"", text, "\" is no port"));
      egress.guard.ports.push_back(port);
    }
    for (const std::string& scheme : schemes)
      reader.Check(scheme == "https" || scheme == "http",
                   StrCat("egress_schemes: \"", scheme, "\" is not https or http"));
    egress.guard.schemes = schemes;
  }
};

absl::StatusOr<int> Serve(const Options& options) {
  ASSIGN_OR_RETURN(secrets::KeyRing keys, secrets::KeyRing::Load(options.secrets_key_file));
  ASSIGN_OR_RETURN(rpc::Verifier verifier, options.service.MakeVerifier());

  postgres::Pool pool({.url = options.service.database_url,
                       .application_name = "mainstay-integrations",
                       .size = int(options.database_connections)});
  secrets::Store secrets(pool, std::move(keys));
  // A limiter that answers late is worth less than the fallback.
  redis::Client redis({.url = options.service.redis_url,
                       .connect_timeout = absl::Milliseconds(200),
                       .command_timeout = absl::Milliseconds(200)});
  catalog::Watcher watcher(pool, {.service = options.service.name, .instance = rpc::InstanceName()});
  if (absl::Status status = watcher.Start(); !status.ok())
    log::Warn("no catalog yet", {{"reason", ToStd(status.message())}});
  auto model = [&watcher] { return watcher.model(); };

  std::unique_ptr<Transport> transport = MakeCurlTransport({.ca_file = options.ca_file});
  std::unique_ptr<Resolver> resolver = MakeSystemResolver();
  RedisRateLimiter limiter(redis, Clock::Real(), int(options.copies));
  ConnectionDirectory connections(pool, Clock::Real());
  Egress egress(options.egress,
                {*transport, *resolver, limiter, model,
                 [&](std::string_view tenant, const catalog::Provider& provider, std::string_view name) {
                   return connections.Find(tenant, provider, name);
                 },
                 [&](std::string_view tenant, std::string_view name) { return secrets.Get(tenant, name); },
                 Clock::Real(), SystemRandom()});

  rpc::Guard guard(
      options.service.name, std::move(verifier),
      [&](const std::vector<std::string>& roles, std::string_view scope) { return model()->HasScope(roles, scope); });
  ProvidersServiceImpl providers(guard, egress, model);
  ConnectionsServiceImpl connections_service(guard, pool, model, options.cursor_key);
  rpc::ServiceServer server(options.service);
  server.Add(&providers);
  server.Add(&connections_service);
  server.AddDependency({"postgresql", [&] { return pool.Health(); }});
  server.AddDependency({"redis", [&] { return redis.Health(); }});
  server.AddInfo("catalog", [&] { return model()->hash; });
  RETURN_IF_ERROR(server.Start());
  server.SetReady();
  int exit_code = server.Run([](absl::Duration) {});
  watcher.Stop();
  return exit_code;
}

}  // namespace
}  // namespace mainstay::integrations

int main(int argc, char** argv) {
  return mainstay::rpc::ServiceMain(argc, argv, mainstay::integrations::Serve);
}
