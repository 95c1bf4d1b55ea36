// SPDX-License-Identifier: Apache-2.0
// Signals are blocked in every thread and taken by Run alone, so no handler runs in a signal's context. MainArguments
// blocks them before the first thread starts.
#include "libs/rpc/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "libs/base/crypto.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/http/server.h"
#include "libs/telemetry/log.h"
#include "libs/telemetry/metrics.h"

namespace mainstay::rpc {
namespace {

namespace asio = boost::asio;

constexpr char kVersion[] = "0.1.0";
constexpr int kMaxMessage = 16 << 20;

absl::StatusOr<std::string> Key32(std::string_view what, std::string_view base64) {
  const auto key = Base64Decode(base64);
  if (!key || key->size() != 32) return absl::InvalidArgumentError(StrCat(what, ": base64 of 32 bytes is expected"));
  return *key;
}

sigset_t EndSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

void BlockEndSignals() {
  const sigset_t set = EndSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

}  // namespace

absl::StatusOr<std::pair<std::string, int>> SplitHostPort(std::string_view text) {
  const size_t colon = text.rfind(':');
  int port = 0;
  if (colon == std::string_view::npos || !absl::SimpleAtoi(ToAbsl(text.substr(colon + 1)), &port) || port < 0 ||
      port > 65535) {
    return absl::InvalidArgumentError(StrCat("\"", text, "\" is not of the form host:port"));
  }
  return std::make_pair(std::string(text.substr(0, colon)), port);
}

std::string InstanceName() {
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  return StrCat(host, ":", getpid());
}

void ServiceOptions::Declare(ConfigReader& reader) {
  reader.String("listen", &listen, "gRPC: host:port or unix:/path");
  reader.String("admin_listen", &admin_listen, "HTTP for /metrics, /healthz, /readyz: host:port");
  reader.Required("database_url", &database_url, "PostgreSQL, as this service's role: a libpq URL");
  reader.String("redis_url", &redis_url, "redis://host:port or unix:///path");
  reader.Secret("principal_key", &principal_key, "this service's Ed25519 private key: base64, or file:/path");
  std::map<std::string, std::string> keys;
  reader.Map("trusted_keys", &keys, "public keys of the services it trusts: name=base64");
  for (auto& [issuer, key] : keys) {
    if (key.compare(0, 5, "file:") == 0) {
      std::ifstream file(key.substr(5));
      std::string text;
      reader.Check(bool(std::getline(file, text)), StrCat("trusted_keys.", issuer, ": cannot read ", key.substr(5)));
      key = std::string(absl::StripAsciiWhitespace(text));
    }
    trusted_keys[issuer] = std::move(key);
  }
  reader.String("log_level", &log_level, "debug, info, warn or error");
  reader.Check(log_level == "debug" || log_level == "info" || log_level == "warn" || log_level == "error",
               "log_level: one of debug, info, warn, error is expected");
  reader.Duration("drain_delay", &drain_delay, absl::ZeroDuration(), absl::Minutes(2),
                  "after SIGTERM: how long to keep serving while load balancers learn of it");
  reader.Duration("drain_deadline", &drain_deadline, absl::ZeroDuration(), absl::Minutes(30),
                  "how long running work may take to finish");
  int64_t threads = max_threads;
  reader.Int("max_threads", &threads, 2, 256, "threads that serve RPCs");
  max_threads = int(threads);
  reader.Check(Key32("principal_key", principal_key).ok(),
               "principal_key: base64 of 32 bytes is expected (mainstay keys generate-signing)");
  for (const auto& [issuer, key] : trusted_keys) {
    reader.Check(Key32(issuer, key).ok(), StrCat("trusted_keys.", issuer, ": base64 of 32 bytes is expected"));
  }
  reader.Check(SplitHostPort(admin_listen).ok(), "admin_listen: host:port is expected");
}

absl::StatusOr<Signer> ServiceOptions::MakeSigner() const {
  ASSIGN_OR_RETURN(std::string key, Key32("principal_key", principal_key));
  return Signer(name, std::move(key), Clock::Real());
}

absl::StatusOr<Verifier> ServiceOptions::MakeVerifier() const {
  std::map<std::string, std::string> keys;
  for (const auto& [issuer, text] : trusted_keys) {
    ASSIGN_OR_RETURN(keys[issuer], Key32(StrCat("trusted_keys.", issuer), text));
  }
  return Verifier(name, std::move(keys), Clock::Real());
}

void DeclareCursorKey(ConfigReader& reader, std::string* key) {
  reader.Secret("cursor_key", key,
                "seals the cursors of lists, the same in every service: base64 of 32 bytes, or file:/path");
  *key = Base64Decode(*key).value_or("");
  reader.Check(key->size() == 32, "cursor_key: base64 of 32 bytes is expected");
}

struct ServiceServer::Impl {
  explicit Impl(ServiceOptions o) : options(std::move(o)) {}

  std::string HealthJson(bool* ready) {
    *ready = is_ready && !draining;
    std::string body;
    JsonWriter json(body);
    json.BeginObject()
        .Key("service")
        .String(options.name)
        .Key("status")
        .String(draining   ? "draining"
                : is_ready ? "ready"
                           : "starting");
    json.Key("dependencies").BeginObject();
    for (const Dependency& dependency : dependencies)
      json.Key(dependency.name).String(dependency.health().ok() ? "ok" : "degraded");
    json.EndObject();
    for (const auto& [name, value] : info) json.Key(name).String(value());
    json.EndObject();
    return body;
  }

  asio::awaitable<http::Response> Admin(http::Request& request) {
    if (request.method != "GET" && request.method != "HEAD")
      co_return http::ProblemResponse(MakeProblem("method-not-allowed", "only GET"), request);
    if (request.path == "/healthz") co_return http::Response::Json(200, "{\"status\":\"ok\"}");
    if (request.path == "/readyz") {
      bool ready = false;
      std::string body = HealthJson(&ready);
      co_return http::Response::Json(ready ? 200 : 503, std::move(body));
    }
    if (request.path == "/catalog") {
      std::string body;
      JsonWriter json(body);
      json.BeginObject();
      for (const auto& [name, value] : info) json.Key(name).String(value());
      json.EndObject();
      co_return http::Response::Json(200, std::move(body));
    }
    if (request.path == "/metrics") {
      http::Response response;
      response.headers.emplace_back("content-type", "text/plain; version=0.0.4; charset=utf-8");
      response.body = metrics::Render();
      co_return response;
    }
    co_return http::ProblemResponse(MakeProblem("not-found", ""), request);
  }

  const ServiceOptions options;
  std::vector<grpc::Service*> services;
  std::vector<Dependency> dependencies;
  std::vector<std::pair<std::string, std::function<std::string()>>> info;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<http::Server> admin;
  int port = 0;
  std::atomic<bool> is_ready{false}, draining{false};
};

ServiceServer::ServiceServer(ServiceOptions options) : impl_(new Impl(std::move(options))) {}
ServiceServer::~ServiceServer() {
  if (impl_->server) impl_->server->Shutdown(std::chrono::system_clock::now());
  if (impl_->admin) impl_->admin->Drain(absl::ZeroDuration());
}

void ServiceServer::Add(grpc::Service* service) {
  impl_->services.push_back(service);
}
void ServiceServer::AddDependency(Dependency dependency) {
  impl_->dependencies.push_back(std::move(dependency));
}
void ServiceServer::AddInfo(std::string name, std::function<std::string()> value) {
  impl_->info.emplace_back(std::move(name), std::move(value));
}
bool ServiceServer::draining() const {
  return impl_->draining;
}
int ServiceServer::port() const {
  return impl_->port;
}
int ServiceServer::admin_port() const {
  return impl_->admin->port();
}

absl::Status ServiceServer::Start() {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.AddListeningPort(impl_->options.listen, grpc::InsecureServerCredentials(), &impl_->port);
  for (grpc::Service* service : impl_->services) builder.RegisterService(service);
  grpc::ResourceQuota quota;
  quota.SetMaxThreads(impl_->options.max_threads + 4);
  builder.SetResourceQuota(quota);
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 2);
  builder.SetMaxReceiveMessageSize(kMaxMessage);
  builder.SetMaxSendMessageSize(kMaxMessage);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // Clients look up and balance again from time to time (gRPC adds 10 % of jitter); running calls have their own
  // deadlines.
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, 300000);
  // Room for a problem with all its errors in the trailers.
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 64 << 10);
  // Two processes on one port would each get half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  impl_->server = builder.BuildAndStart();
  if (!impl_->server)
    return absl::UnavailableError(StrCat("cannot listen on ", impl_->options.listen, " (is the port in use?)"));
  if (auto* health = impl_->server->GetHealthCheckService()) {
    health->SetServingStatus("liveness", true);
    health->SetServingStatus("readiness", false);
  }
  ASSIGN_OR_RETURN(const auto address, SplitHostPort(impl_->options.admin_listen));
  http::ServerOptions admin;
  admin.name = "admin";
  admin.address = address.first;
  admin.port = address.second;
  admin.threads = 1;
  admin.max_connections = 100;
  impl_->admin = std::make_unique<http::Server>(
      admin, [impl = impl_.get()](http::Request& request) { return impl->Admin(request); });
  RETURN_IF_ERROR(impl_->admin->Start());
  log::Info("listening",
            {{"grpc", impl_->options.listen}, {"grpc_port", impl_->port}, {"admin_port", impl_->admin->port()}});
  return absl::OkStatus();
}

void ServiceServer::SetReady() {
  impl_->is_ready = true;
  if (auto* health = impl_->server->GetHealthCheckService()) health->SetServingStatus("readiness", true);
  log::Info("ready");
}

int ServiceServer::Run(const std::function<void(absl::Duration)>& stop) {
  const sigset_t set = EndSignals();
  int number = 0;
  sigwait(&set, &number);
  // The second signal ends the process at once: its default action, no longer blocked.
  signal(SIGTERM, SIG_DFL);
  signal(SIGINT, SIG_DFL);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);

  const absl::Time start = absl::Now();
  const auto left = [&] {
    return std::max(absl::ZeroDuration(),
                    impl_->options.drain_deadline - (absl::Now() - start - impl_->options.drain_delay));
  };
  log::Info("draining", {{"signal", number}});
  impl_->draining = true;
  if (auto* health = impl_->server->GetHealthCheckService()) health->SetServingStatus("readiness", false);
  absl::SleepFor(impl_->options.drain_delay);
  if (stop) stop(left());
  impl_->server->Shutdown(absl::ToChronoTime(absl::Now() + left()));
  impl_->server->Wait();
  impl_->admin->Drain(absl::ZeroDuration());
  log::Info("stopped", {{"seconds", absl::ToDoubleSeconds(absl::Now() - start)}});
  return 0;
}

std::optional<int> ParseMainArguments(int argc, char** argv, std::string_view service, MainArguments* arguments) {
  BlockEndSignals();
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--config" && i + 1 < argc) {
      arguments->config_file = argv[++i];
    } else if (argument == "--check-config") {
      arguments->check_config = true;
    } else if (argument == "--help-config") {
      arguments->help_config = true;
    } else if (argument == "--version") {
      std::printf("mainstay-%s %s\n", std::string(service).c_str(), kVersion);
      return 0;
    } else {
      const bool help = argument == "--help" || argument == "-h";
      std::fprintf(help ? stdout : stderr,
                   "%sUsage: mainstay-%s --config FILE\n\n"
                   "  --config FILE    read the configuration; MAINSTAY_* in the environment wins over it\n"
                   "  --check-config   check it, connect to nothing; exit status 0 or 1\n"
                   "  --help-config    list every key with its default\n"
                   "  --version\n",
                   help ? "" : StrCat("unknown argument ", argument, "\n\n").c_str(), std::string(service).c_str());
      return help ? 0 : 2;
    }
  }
  return std::nullopt;
}

std::optional<int> LoadConfig(const MainArguments& arguments, const std::function<void(ConfigReader&)>& declare) {
  if (arguments.help_config) {
    ConfigReader reader({}, {});
    declare(reader);
    std::fputs(reader.Help().c_str(), stdout);
    return 0;
  }
  absl::StatusOr<ConfigReader> reader = ConfigReader::Open(arguments.config_file);
  absl::Status status = reader.status();
  if (status.ok()) {
    declare(*reader);
    status = reader->Finish();
  }
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return 1;
  }
  if (arguments.check_config) return 0;
  return std::nullopt;
}

int RunService(const ServiceOptions& options, const std::function<absl::StatusOr<int>()>& serve) {
  log::Init(options.name, options.log_level);
  const absl::StatusOr<int> code = serve();
  if (code.ok()) return *code;
  log::Error("cannot start", {{"reason", ToStd(code.status().message())}});
  std::fprintf(stderr, "mainstay-%s: %s\n", options.name.c_str(), std::string(code.status().message()).c_str());
  return 1;
}

}  // namespace mainstay::rpc
