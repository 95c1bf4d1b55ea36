// SPDX-License-Identifier: Apache-2.0
// mainstay-webhooks: takes deliveries from the gateway, verifies and stores them, and lets operators look at them. Any
// number of copies; killed at any moment it loses nothing that was acknowledged.
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <thread>

#include "absl/synchronization/notification.h"
#include "libs/base/clock.h"
#include "libs/base/ids.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/catalog/watcher.h"
#include "libs/jobs/enqueue.h"
#include "libs/postgres/pool.h"
#include "libs/rpc/server.h"
#include "libs/secrets/secrets.h"
#include "libs/telemetry/log.h"
#include "libs/webhooks/inbox.h"
#include "services/webhooks/events_service.h"
#include "services/webhooks/ingest_service.h"

namespace mainstay::webhooks {
namespace {

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "mainstay-webhooks: %s\n", std::string(ToStd(status.message())).c_str());
  return 1;
}

int Main(int argc, char** argv) {
  rpc::MainArguments arguments;
  if (auto code = rpc::ParseMainArguments(argc, argv, "webhooks", &arguments)) return *code;
  rpc::ServiceOptions options;
  options.name = "webhooks";
  InboxOptions inbox_options;
  std::string secrets_key_file, cursor_key;
  int64_t pool_size = 6, max_batch = inbox_options.max_batch, max_waiting = inbox_options.max_waiting;
  absl::Duration purge_interval = absl::Minutes(1);
  auto code = rpc::LoadConfig(arguments, [&](ConfigReader& reader) {
    options.Declare(reader);
    reader.Required("secrets_key_file", &secrets_key_file, "file with the key-encryption keys of the secrets");
    reader.Secret("cursor_key", &cursor_key, "base64 of 32 bytes, the same for all copies: seals the cursors of lists");
    cursor_key = Base64Decode(cursor_key).value_or("");
    reader.Check(cursor_key.size() == 32, "cursor_key: base64 of 32 bytes is expected");
    reader.String("public_url", &inbox_options.public_url,
                  "our address as senders call it, without a path, for schemes that sign the URL");
    reader.String("queue", &inbox_options.queue, "queue of the jobs that process events");
    reader.Int("database_connections", &pool_size, 2, 100, "connections to PostgreSQL");
    reader.Int("max_batch", &max_batch, 1, 5000, "events per commit");
    reader.Int("max_waiting", &max_waiting, 1, 1000000, "events that may wait for a commit; above it senders get 503");
    reader.Duration("purge_interval", &purge_interval, absl::Seconds(1), absl::Hours(24),
                    "how often dedup keys past their window are forgotten");
    reader.Check(max_waiting >= max_batch, "max_waiting: must be at least max_batch");
  });
  if (code) return *code;
  inbox_options.max_batch = int(max_batch);
  inbox_options.max_waiting = int(max_waiting);
  log::Init(options.name, options.log_level);
  if (absl::Status status = Validate(inbox_options); !status.ok()) return Fail(status);
  absl::StatusOr<secrets::KeyRing> keys = secrets::KeyRing::Load(secrets_key_file);
  if (!keys.ok()) return Fail(keys.status());
  absl::StatusOr<rpc::Verifier> verifier = options.MakeVerifier();
  if (!verifier.ok()) return Fail(verifier.status());

  postgres::Pool pool({.url = options.database_url, .application_name = "mainstay-webhooks", .size = int(pool_size)});
  secrets::Store secrets(pool, *std::move(keys));
  jobs::RedisHandoff handoff({.url = options.redis_url}, pool);
  catalog::Watcher watcher(pool, {.service = options.name, .instance = NewId("src")});
  if (absl::Status status = watcher.Start(); !status.ok())
    log::Warn("no catalog yet", {{"reason", ToStd(status.message())}});
  auto model = [&watcher] { return watcher.model(); };

  Inbox inbox(inbox_options,
              {pool, model, [&](std::string_view tenant, std::string_view name) { return secrets.Get(tenant, name); },
               handoff, Clock::Real()});
  rpc::Guard guard(
      options.name, *std::move(verifier),
      [&](const std::vector<std::string>& roles, std::string_view scope) { return model()->HasScope(roles, scope); });
  IngestServiceImpl ingest(guard, inbox);
  EventsServiceImpl events(guard, pool, handoff, model, cursor_key);

  rpc::ServiceServer server(options);
  server.Add(&ingest);
  server.Add(&events);
  server.AddDependency({"postgresql", [&] { return pool.Health(); }});
  server.AddInfo("catalog", [&] { return model()->hash; });
  if (absl::Status status = server.Start(); !status.ok()) return Fail(status);

  absl::Notification ending;
  std::thread upkeep([&] {
    while (!ending.WaitForNotificationWithTimeout(purge_interval)) {
      while (!ending.HasBeenNotified()) {
        absl::StatusOr<int64_t> purged = inbox.PurgeDedup(1000);
        // Away: the next round will do.
        if (!purged.ok() || *purged < 1000) break;
      }
    }
  });
  server.SetReady();
  int exit_code = server.Run([&](absl::Duration) {
    ending.Notify();
    inbox.Stop();
  });
  if (!ending.HasBeenNotified()) ending.Notify();
  upkeep.join();
  watcher.Stop();
  return exit_code;
}

}  // namespace
}  // namespace mainstay::webhooks

int main(int argc, char** argv) {
  return mainstay::webhooks::Main(argc, argv);
}
