// SPDX-License-Identifier: Apache-2.0
// mainstay-worker: runs background jobs, keeps the queues in order, serves jobs.v1. This file is the wiring.
//
// Killed at any moment it loses nothing: another worker (or this one, started again) takes its jobs over once its lease
// has run out. SIGTERM: finishes or hands back what it runs.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <mutex>
#include <optional>
#include <pqxx/pqxx>
#include <thread>

#include "libs/base/crypto.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/catalog/watcher.h"
#include "libs/jobs/child.h"
#include "libs/jobs/children.h"
#include "libs/jobs/engine.h"
#include "libs/jobs/enqueue.h"
#include "libs/jobs/kinds.h"
#include "libs/jobs/merging.h"
#include "libs/jobs/sealer.h"
#include "libs/postgres/pool.h"
#include "libs/records/trimmer.h"
#include "libs/rpc/call.h"
#include "libs/rpc/server.h"
#include "libs/telemetry/log.h"
#include "libs/transfer/handlers.h"
#include "libs/webhooks/processing.h"
#include "services/worker/audit_service.h"
#include "services/worker/flows.h"
#include "services/worker/job_query.h"
#include "services/worker/kinds_service.h"
#include "services/worker/monitoring.h"
#include "services/worker/noop.h"
#include "services/worker/operators.h"
#include "services/worker/queues.h"
#include "services/worker/schedules.h"
#include "services/worker/services.h"
#include "services/worker/stream_runner.h"
#include "services/worker/work_service.h"

namespace mainstay::worker {
namespace {

struct Options {
  // Single enqueues that share a commit wait for it on their threads.
  rpc::ServiceOptions service{.name = "worker", .max_threads = 64};
  std::string integrations, transfer, cursor_key, secrets_key_file;
  std::vector<std::string> queues;
  int64_t executors = 16, children = 2, child_memory_mb = 2048, window = 20000, database_connections = 0,
          streams = 5000;
  absl::Duration heartbeat = absl::Seconds(5), lease = absl::Seconds(15), sweep = absl::Seconds(30),
                 retention = absl::Hours(24 * 7);

  void Declare(ConfigReader& reader) {
    service.Declare(reader);
    reader.Required("integrations", &integrations, "address of the integrations service");
    reader.Required("transfer", &transfer, "address of the transfer service");
    reader.Secret("cursor_key", &cursor_key,
                  "32 bytes in base64 that seal the cursors of lists; the same in every service");
    reader.Check(Base64Decode(cursor_key).value_or("").size() == 32, "cursor_key: base64 of 32 bytes is expected");
    reader.String(
        "secrets_key_file", &secrets_key_file,
        "file with the key-encryption keys, as of the other services; without it jobs with sensitive arguments "
        "are refused");
    reader.Int("executors", &executors, 1, 1024, "jobs run at once, in all children together");
    reader.Int("children", &children, 1, 64, "processes that run them; a crash takes down what runs in one");
    reader.Int("child_memory_mb", &child_memory_mb, 64, 1 << 20, "a child's own memory, at most");
    reader.Check(children <= executors, "children: no more than executors");
    reader.Int("streams", &streams, 0, 100000, "workers outside the suite that may be connected at once");
    reader.List("queues", &queues, "queues this worker takes jobs from; none named: all");
    reader.Int("window", &window, 100, 1000000, "live entries per Redis stream");
    reader.Int("database_connections", &database_connections, 0, 1000,
               "of each child, for handlers; 0: one per executor");
    reader.Duration("heartbeat", &heartbeat, absl::Milliseconds(100), absl::Minutes(5),
                    "how often leases are renewed and cancellations noticed");
    reader.Duration("lease", &lease, absl::Milliseconds(300), absl::Hours(1),
                    "jobs of a worker that was silent for so long are taken over");
    reader.Duration("sweep", &sweep, absl::Milliseconds(200), absl::Hours(1),
                    "how often published jobs are compared with Redis");
    reader.Duration("retention", &retention, absl::Hours(1), absl::Hours(24 * 3650), "how long finished jobs are kept");
    reader.Check(lease >= 2 * heartbeat, "lease: expected at least two heartbeats");
    reader.Check(!service.redis_url.empty(), "redis_url: required");
  }
};

std::string ProcessName() {
  char host[256] = "localhost";
  gethostname(host, sizeof(host) - 1);
  return StrCat(host, ":", getpid());
}

int Fail(const absl::Status& status) {
  log::Error("the worker cannot start", {{"error", std::string(status.message())}});
  return 1;
}

int Main(int argc, char** argv) {
  // The same program is its own child, which only runs handlers.
  const std::optional<jobs::ChildArgument> child = jobs::TakeChildArgument(argc, argv);
  rpc::MainArguments arguments;
  if (const auto code = rpc::ParseMainArguments(argc, argv, "worker", &arguments)) return *code;
  Options options;
  if (const auto code = rpc::LoadConfig(arguments, [&](ConfigReader& reader) { options.Declare(reader); }))
    return *code;
  log::Init(child.has_value() ? "worker-child" : "worker", options.service.log_level);

  auto signer = options.service.MakeSigner();
  auto verifier = options.service.MakeVerifier();
  if (!signer.ok()) return Fail(signer.status());
  if (!verifier.ok()) return Fail(verifier.status());

  const std::string name = child.has_value() ? child->worker_name : ProcessName();
  const int threads = static_cast<int>((options.executors + options.children - 1) / options.children);
  auto pool_options = [&](const char* purpose, int size) {
    return postgres::PoolOptions{
        .url = options.service.database_url, .application_name = StrCat("mainstay-worker ", purpose), .size = size};
  };
  // The engine's statements never wait for a handler's: a pool for each.
  postgres::Pool engine_pool(jobs::EnginePool(options.service.database_url, "mainstay-worker engine"));
  postgres::Pool handler_pool(pool_options(
      "handlers", options.database_connections > 0 ? static_cast<int>(options.database_connections) : threads));
  postgres::Pool api_pool(pool_options("api", 6));

  catalog::Watcher watcher(api_pool,
                           {.service = "worker", .instance = name, .queries = catalog::QuerySource::kDatabase});
  std::once_flag watching;
  auto watch = [&watcher] {
    if (const absl::Status status = watcher.Start(); !status.ok())
      log::Info("no catalog yet", {{"reason", std::string(status.message())}});
  };
  if (!child.has_value()) std::call_once(watching, watch);
  // A child connects only when a handler asks for something.
  auto model = [&] {
    std::call_once(watching, watch);
    return watcher.model();
  };

  auto providers = webhooks::MakeGrpcProviderClient(rpc::Connect(options.integrations), *signer);
  auto blobs = transfer::MakeBlobClient(rpc::Connect(options.transfer), *signer);

  const redis::ClientOptions redis{.url = options.service.redis_url};
  jobs::RedisHandoff handoff(redis, child.has_value() ? handler_pool : engine_pool);
  jobs::Registry registry;
  RegisterNoop(registry);
  webhooks::RegisterHandlers(registry, {.pool = handler_pool, .model = model, .providers = *providers});
  transfer::RegisterHandlers(registry,
                             {.pool = &handler_pool, .model = model, .blobs = blobs.get(), .handoff = &handoff});
  JobQueries queries(model, *Base64Decode(options.cursor_key));
  RegisterOperations(registry, handler_pool, handoff, queries);
  if (child.has_value()) jobs::RunChild(*child, registry, handler_pool);

  std::optional<jobs::Sealer> sealer;
  if (!options.secrets_key_file.empty()) {
    absl::StatusOr<secrets::KeyRing> keys = secrets::KeyRing::Load(options.secrets_key_file);
    if (!keys.ok()) return Fail(keys.status());
    sealer.emplace(*std::move(keys));
  }
  const jobs::Sealer* const sealer_or_null = sealer.has_value() ? &*sealer : nullptr;
  jobs::MergingEnqueuer merging(api_pool, handoff, sealer_or_null);
  jobs::EngineOptions engine_options;
  engine_options.name = name;
  engine_options.redis = redis;
  engine_options.sealer = sealer_or_null;
  engine_options.window = static_cast<int>(options.window);
  engine_options.takes = options.queues;
  engine_options.heartbeat = options.heartbeat;
  engine_options.lease = options.lease;
  engine_options.sweep = options.sweep;
  engine_options.retention = options.retention;
  engine_options.policy = [&watcher](std::string_view queue) {
    const catalog::ModelPtr current = watcher.model();
    const auto it = current->queues.find(std::string(queue));
    if (it == current->queues.end()) return jobs::QueuePolicy();
    return jobs::QueuePolicy{.backoff = {.base = it->second.backoff.base, .cap = it->second.backoff.cap},
                             .soft_limit = it->second.soft_limit,
                             .hard_limit = it->second.hard_limit};
  };
  engine_options.queues = [&watcher] {
    std::vector<jobs::QueueSettings> queues;
    const catalog::ModelPtr current = watcher.model();
    for (const auto& [queue_name, queue] : current->queues) {
      queues.push_back({.name = queue_name,
                        .priority = queue.priority,
                        .weighted = queue.priorities == "weighted",
                        .max_attempts = queue.max_attempts,
                        .max_crashes = queue.max_crashes,
                        .weight = queue.weight,
                        .concurrency = queue.concurrency,
                        .rate = queue.rate,
                        .tenant_rate = queue.tenant_rate,
                        .retention = queue.retention});
    }
    for (const char* own : {"default", "mainstay"}) {
      if (!current->queues.contains(own)) queues.push_back({.name = own});
    }
    return queues;
  };
  engine_options.schedules = [&watcher] { return DeclaredSchedules(*watcher.model()); };
  engine_options.handoff = &handoff;
  const auto children =
      std::make_shared<jobs::ChildPool>(jobs::ChildPoolOptions{.routes = registry.routes(),
                                                               .children = static_cast<int>(options.children),
                                                               .threads = threads,
                                                               .memory_bytes = options.child_memory_mb << 20,
                                                               .worker = engine_options.worker,
                                                               .worker_name = name});
  StreamRunnerOptions stream_options{.server = name,
                                     // Its own, from what all copies share.
                                     .receipt_key = HmacSha256(*Base64Decode(options.cursor_key), "work receipts"),
                                     .heartbeat = std::min(options.heartbeat, options.lease / 3),
                                     .lease = options.lease,
                                     .max_streams = static_cast<int>(options.streams)};
  for (const std::string& route : registry.routes()) stream_options.reserved.insert(route);
  stream_options.announce = [&api_pool](const std::string& by, const std::vector<jobs::KindSpec>& kinds) {
    return api_pool.Transaction(absl::Now() + absl::Seconds(5),
                                [&](pqxx::transaction_base& tx) { return jobs::AnnounceKinds(tx, by, kinds); });
  };
  const auto streams = std::make_shared<StreamRunner>(std::move(stream_options));
  jobs::Engine engine(engine_options, {children, streams}, engine_pool);

  jobs::KindBook kinds(api_pool, registry.specs());
  const rpc::Guard guard("worker", *std::move(verifier),
                         [&watcher](const std::vector<std::string>& roles, std::string_view scope) {
                           return watcher.model()->HasScope(roles, scope);
                         });
  const ServiceParts parts{.pool = api_pool,
                           .handoff = handoff,
                           .merging = merging,
                           .sealer = sealer_or_null,
                           .guard = guard,
                           .model = model,
                           .kinds = kinds,
                           .queries = queries};
  jobs::Watcher job_watcher(api_pool);
  Depths depths(api_pool);
  Desk desk(/*threads=*/4);
  const records::Trimmer trimmer(api_pool, model);
  const MonitoringParts monitoring{.service = parts, .watcher = job_watcher, .desk = desk, .depths = depths};
  JobsService jobs_service(parts, [&monitoring](auto* context, auto* request, auto* response) {
    return StartGetJob(monitoring, context, request, response);
  });
  QueuesService queues_service(parts);
  KindsService kinds_service(parts);
  DeadLettersService dead_letters_service(parts);
  OperationsService operations_service(parts);
  PausesService pauses_service(parts);
  ExplainService explain_service(parts);
  QueueStatsService queue_stats_service(monitoring);
  WorkersService workers_service(monitoring);
  WatchService watch_service(monitoring);
  SchedulesService schedules_service(parts, *Base64Decode(options.cursor_key));
  FlowsService flows_service(parts, *Base64Decode(options.cursor_key));
  AuditService audit_service(parts, *Base64Decode(options.cursor_key));
  Desk work_desk(/*threads=*/2);
  WorkService work_service(parts, work_desk, *streams, static_cast<int>(options.streams + 1000));

  rpc::ServiceServer server(options.service);
  server.Add(&jobs_service);
  server.Add(&queues_service);
  server.Add(&kinds_service);
  server.Add(&dead_letters_service);
  server.Add(&operations_service);
  server.Add(&pauses_service);
  server.Add(&explain_service);
  server.Add(&queue_stats_service);
  server.Add(&workers_service);
  server.Add(&watch_service);
  server.Add(&schedules_service);
  server.Add(&flows_service);
  server.Add(&audit_service);
  server.Add(&work_service);
  server.AddDependency({"postgresql", [&] { return engine_pool.Health(); }});
  server.AddDependency({"redis", [&] {
                          return engine.stats().redis_down ? absl::UnavailableError("jobs are claimed from PostgreSQL")
                                                           : absl::OkStatus();
                        }});
  server.AddInfo("catalog", [&] { return watcher.model()->hash; });
  if (const absl::Status status = server.Start(); !status.ok()) return Fail(status);
  KeepDepthMetrics(monitoring, [&engine] { return engine.stats().leading; });

  // PostgreSQL may be away at the start: the process stays, and becomes ready when it can hold a lease.
  std::atomic<bool> stopping{false};
  std::thread starter([&] {
    std::string last;
    while (!stopping) {
      absl::Status status = api_pool.Transaction(absl::Now() + absl::Seconds(5), [&](pqxx::transaction_base& tx) {
        return jobs::AnnounceKinds(tx, name, registry.specs());
      });
      if (status.ok()) status = engine.Start();
      if (status.ok()) {
        server.SetReady();
        log::Info("the worker takes jobs",
                  {{"worker", engine.id().ToString()}, {"executors", options.executors}, {"port", server.port()}});
        return;
      }
      if (last != status.message())
        log::Warn("waiting for PostgreSQL", {{"error", last = std::string(status.message())}});
      absl::SleepFor(absl::Milliseconds(200));
    }
  });
  const int code = server.Run([&](absl::Duration left) {
    stopping = true;
    job_watcher.Stop();
    starter.join();
    engine.Drain(left);
    streams->Close();
  });
  desk.Stop();
  work_desk.Stop();
  watcher.Stop();
  return code;
}

}  // namespace
}  // namespace mainstay::worker

int main(int argc, char** argv) {
  return mainstay::worker::Main(argc, argv);
}
