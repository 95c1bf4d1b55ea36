// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/worker_main.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <pqxx/pqxx>

#include "absl/time/clock.h"
#include "libs/base/config.h"
#include "libs/base/strings.h"
#include "libs/jobs/child.h"
#include "libs/jobs/children.h"
#include "libs/jobs/engine.h"
#include "libs/jobs/kinds.h"
#include "libs/jobs/sealer.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"

namespace mainstay::jobs {
namespace {

struct WorkerOptions {
  std::vector<std::string> queues;
  std::string database_url, redis_url, log_level = "info", secrets_key_file;
  int64_t executors = 16, children = 2, child_memory_mb = 2048, database_connections = 0;
  bool may_fork = false;
  absl::Duration heartbeat = absl::Seconds(5), lease = absl::Seconds(15), drain_deadline = absl::Seconds(20);
  absl::Duration backoff_base = absl::Seconds(1), backoff_cap = absl::Hours(1), soft_limit = absl::Minutes(30),
                 hard_limit = absl::Minutes(35);

  void Declare(ConfigReader& reader) {
    reader.Secret("database_url", &database_url, "PostgreSQL with the suite's schema, as the role mainstay_worker");
    reader.Secret("redis_url", &redis_url, "Redis of the suite");
    reader.String("log_level", &log_level, "debug, info, warn or error");
    reader.String("secrets_key_file", &secrets_key_file, "opens sensitive arguments; as of the suite's services");
    reader.List("queues", &queues, "queues this worker takes jobs from; none named: all");
    reader.Int("executors", &executors, 1, 1024, "jobs run at once, in all children together");
    reader.Int("children", &children, 1, 64, "processes that run them; a crash takes down what runs in one");
    reader.Int("child_memory_mb", &child_memory_mb, 0, 1 << 20, "a child's own memory, at most; 0: unlimited");
    reader.Bool("may_fork", &may_fork, "whether handlers may start processes");
    reader.Int("database_connections", &database_connections, 0, 1000,
               "of each child, for handlers; 0: one per executor");
    reader.Duration("heartbeat", &heartbeat, absl::Milliseconds(100), absl::Minutes(1), "how often leases are renewed");
    reader.Duration("lease", &lease, absl::Milliseconds(200), absl::Minutes(10),
                    "jobs of a worker that was silent for so long are taken over");
    reader.Duration("drain_deadline", &drain_deadline, absl::ZeroDuration(), absl::Hours(1),
                    "how long jobs may go on after SIGTERM");
    reader.Duration("backoff_base", &backoff_base, absl::Milliseconds(1), absl::Hours(24),
                    "upper end of the first retry's delay; doubled with each");
    reader.Duration("backoff_cap", &backoff_cap, absl::Milliseconds(1), absl::Hours(24 * 30), "of the retries' delays");
    reader.Duration("soft_limit", &soft_limit, absl::Milliseconds(1), absl::Hours(24 * 30),
                    "a handler is told to stop after so long");
    reader.Duration("hard_limit", &hard_limit, absl::Milliseconds(1), absl::Hours(24 * 30),
                    "and loses its process after so long");
    reader.Check(lease >= 2 * heartbeat, "lease: expected at least two heartbeats");
    reader.Check(children <= executors, "children: no more than executors");
    reader.Check(hard_limit >= soft_limit, "hard_limit: no less than soft_limit");
    reader.Check(!database_url.empty(), "database_url: required");
    reader.Check(!redis_url.empty(), "redis_url: required");
  }
};

constexpr char kUsage[] =
    "Usage: %s [--config FILE]\n\n"
    "  --config FILE    read the configuration; MAINSTAY_* in the environment wins over it\n"
    "  --check-config   check it, connect to nothing; exit status 0 or 1\n"
    "  --help-config    list every key with its default\n"
    "  --kinds          list the kinds of jobs that this worker runs\n";

}  // namespace

int WorkerMain(int argc, char** argv, const Registry& registry) {
  const std::optional<ChildArgument> child = TakeChildArgument(argc, argv);
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  signal(SIGPIPE, SIG_IGN);

  std::string file;
  bool check = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--config" && i + 1 < argc) {
      file = argv[++i];
    } else if (argument == "--check-config") {
      check = true;
    } else if (argument == "--kinds") {
      for (const auto& route : registry.routes()) std::puts(route.c_str());
      return 0;
    } else if (argument == "--help-config") {
      ConfigReader reader({}, {});
      WorkerOptions().Declare(reader);
      std::fputs(reader.Help().c_str(), stdout);
      return 0;
    } else {
      const bool help = argument == "--help" || argument == "-h";
      std::fprintf(help ? stdout : stderr, kUsage, argv[0]);
      return help ? 0 : 2;
    }
  }
  WorkerOptions options;
  auto reader = ConfigReader::Open(file);
  absl::Status status = reader.status();
  if (status.ok()) {
    options.Declare(*reader);
    status = reader->Finish();
  }
  if (!status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return 1;
  }
  if (check) return 0;

  log::Init(child.has_value() ? "worker-child" : "worker", options.log_level);
  auto fail = [](const absl::Status& why) {
    log::Error("the worker cannot start", {{"error", std::string(why.message())}});
    return 1;
  };
  const int threads = static_cast<int>((options.executors + options.children - 1) / options.children);
  if (child.has_value()) {
    postgres::Pool pool(
        {.url = options.database_url,
         .application_name = "mainstay-worker handlers",
         .size = options.database_connections > 0 ? static_cast<int>(options.database_connections) : threads});
    RunChild(*child, registry, pool);
  }
  std::optional<Sealer> sealer;
  if (!options.secrets_key_file.empty()) {
    auto keys = secrets::KeyRing::Load(options.secrets_key_file);
    if (!keys.ok()) return fail(keys.status());
    sealer.emplace(*std::move(keys));
  }
  char host[256] = "localhost";
  gethostname(host, sizeof(host) - 1);
  postgres::Pool pool(EnginePool(options.database_url, "mainstay-worker engine"));
  EngineOptions engine_options;
  engine_options.name = StrCat(host, ":", getpid());
  engine_options.redis = {.url = options.redis_url};
  engine_options.sealer = sealer.has_value() ? &*sealer : nullptr;
  engine_options.heartbeat = options.heartbeat;
  engine_options.lease = options.lease;
  engine_options.takes = options.queues;
  engine_options.upkeep = false;
  engine_options.policy = [&options](std::string_view) {
    return QueuePolicy{.backoff = {.base = options.backoff_base, .cap = options.backoff_cap},
                       .soft_limit = options.soft_limit,
                       .hard_limit = options.hard_limit};
  };
  const auto children = std::make_shared<ChildPool>(ChildPoolOptions{.routes = registry.routes(),
                                                                     .children = static_cast<int>(options.children),
                                                                     .threads = threads,
                                                                     .memory_bytes = options.child_memory_mb << 20,
                                                                     .may_fork = options.may_fork,
                                                                     .worker = engine_options.worker,
                                                                     .worker_name = engine_options.name});
  Engine engine(engine_options, {children}, pool);
  // PostgreSQL may be away at the start: the process stays.
  const timespec again = {.tv_sec = 0, .tv_nsec = 200'000'000};
  std::string last;
  while (true) {
    status = pool.Transaction(absl::Now() + absl::Seconds(5), [&](pqxx::transaction_base& tx) {
      return AnnounceKinds(tx, engine_options.name, registry.specs());
    });
    if (status.ok()) status = engine.Start();
    if (status.ok()) break;
    if (absl::IsInvalidArgument(status)) return fail(status);  // the name of a kind
    if (last != status.message())
      log::Warn("waiting for PostgreSQL", {{"error", last = std::string(status.message())}});
    if (sigtimedwait(&ends, nullptr, &again) > 0) return 0;
  }
  log::Info("the worker takes jobs", {{"worker", engine.id().ToString()}, {"executors", options.executors}});
  int signal = 0;
  sigwait(&ends, &signal);
  log::Info("draining", {{"deadline_seconds", absl::ToInt64Seconds(options.drain_deadline)}});
  engine.Drain(options.drain_deadline);
  return 0;
}

}  // namespace mainstay::jobs
