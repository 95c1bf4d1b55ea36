// SPDX-License-Identifier: Apache-2.0
// What every service's main shares: the gRPC server with health, reflection and limits, the admin listener, and the
// orderly end.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "libs/base/config.h"
#include "libs/rpc/call.h"

namespace grpc {
class Service;
}

namespace mainstay::rpc {

// The fields of a service's configuration that are the same everywhere. Declare() them, then the service's own, then
// reader.Finish().
struct ServiceOptions {
  std::string name;                          // "webhooks"; set by main
  std::string listen = "127.0.0.1:0";        // gRPC, host:port or unix:/path
  std::string admin_listen = "127.0.0.1:0";  // /metrics /healthz /readyz /catalog
  std::string database_url;
  std::string redis_url;
  std::string principal_key;                        // this service's Ed25519 private key, base64 (or file:/path)
  std::map<std::string, std::string> trusted_keys;  // issuer → base64 public key (or file:/path)
  std::string log_level = "info";
  absl::Duration drain_delay = absl::Seconds(0), drain_deadline = absl::Seconds(20);
  int max_threads = 16;
  void Declare(ConfigReader& reader);
  absl::StatusOr<Signer> MakeSigner() const;
  absl::StatusOr<Verifier> MakeVerifier() const;
};
// The key that seals the cursors of lists, for services that have any: 32 bytes.
void DeclareCursorKey(ConfigReader& reader, std::string* key);

// "127.0.0.1:9090" → host and port.
absl::StatusOr<std::pair<std::string, int>> SplitHostPort(std::string_view text);
// "host:pid": this process, for rows and logs.
std::string InstanceName();

struct Dependency {
  std::string name;                      // "postgresql"
  std::function<absl::Status()> health;  // cheap, thread-safe
};

class ServiceServer {
 public:
  explicit ServiceServer(ServiceOptions options);
  ~ServiceServer();
  void Add(grpc::Service* service);           // before Start
  void AddDependency(Dependency dependency);  // listed by readiness as ok or degraded, never makes it unready
  // Extra line of readiness' body, as ("catalog", hash).
  void AddInfo(std::string name, std::function<std::string()> value);
  absl::Status Start();  // serving, health NOT_SERVING until SetReady
  void SetReady();
  // From the first signal on; thread-safe.
  bool draining() const;
  int port() const;
  int admin_port() const;
  // Blocks until SIGTERM or SIGINT (a second one ends the process at once), then drains: NOT_SERVING, drain_delay,
  // `stop` (the service's own parts, given what is left of the deadline), gRPC shutdown. Returns the exit code.
  int Run(const std::function<void(absl::Duration)>& stop);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The top of every main, before any thread starts (it blocks the signals that Run waits for): --config FILE,
// --check-config, --help-config, --version. Returns the exit code to leave with, or nullopt to go on.
struct MainArguments {
  std::string config_file;
  bool check_config = false;
  bool help_config = false;
};
std::optional<int> ParseMainArguments(int argc, char** argv, std::string_view service, MainArguments* arguments);
// Reads the configuration by `declare`, prints mistakes to stderr. Exit code, or nullopt to go on. With --check-config
// always an exit code.
std::optional<int> LoadConfig(const MainArguments& arguments, const std::function<void(ConfigReader&)>& declare);
// The log, then `serve`, whose exit code it returns; why it could not serve goes to the log and to stderr.
int RunService(const ServiceOptions& options, const std::function<absl::StatusOr<int>()>& serve);

// All of these for a service whose Options have the member `service`, with its name, and Declare(ConfigReader&).
template <typename Options>
int ServiceMain(int argc, char** argv, absl::StatusOr<int> (*serve)(const Options&)) {
  Options options;
  MainArguments arguments;
  if (const auto code = ParseMainArguments(argc, argv, options.service.name, &arguments)) return *code;
  if (const auto code = LoadConfig(arguments, [&](ConfigReader& reader) { options.Declare(reader); })) return *code;
  return RunService(options.service, [&] { return serve(options); });
}

}  // namespace mainstay::rpc
