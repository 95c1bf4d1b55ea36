// SPDX-License-Identifier: Apache-2.0
// mainstay-webhooks: takes deliveries from the gateway, verifies and stores them, and lets operators look at them. Any
// number of copies; killed at any moment it loses nothing that was acknowledged.
#include <grpcpp/grpcpp.h>

#include <thread>

#include "absl/synchronization/notification.h"
#include "libs/base/clock.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
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

struct Options {
  rpc::ServiceOptions service{.name = "webhooks"};
  InboxOptions inbox;
  std::string secrets_key_file, cursor_key;
  int64_t database_connections = 6;
  absl::Duration purge_interval = absl::Minutes(1);

  void Declare(ConfigReader& reader) {
    service.Declare(reader);
    reader.Required("secrets_key_file", &secrets_key_file, "file with the key-encryption keys of the secrets");
    rpc::DeclareCursorKey(reader, &cursor_key);
    reader.String("public_url", &inbox.public_url,
                  "our address as senders call it, without a path, for schemes that sign the URL");
    reader.String("queue", &inbox.queue, "queue of the jobs that process events");
    reader.Int("database_connections", &database_connections, 2, 100, "connections to PostgreSQL");
    int64_t max_batch = inbox.max_batch, max_waiting = inbox.max_waiting;
    reader.Int("max_batch", &max_batch, 1, 5000, "events per commit");
    reader.Int("max_waiting", &max_waiting, 1, 1000000, "events that may wait for a commit; above it senders get 503");
    reader.Check(max_waiting >= max_batch, "max_waiting: must be at least max_batch");
    inbox.max_batch = int(max_batch);
    inbox.max_waiting = int(max_waiting);
    reader.Duration("purge_interval", &purge_interval, absl::Seconds(1), absl::Hours(24),
                    "how often dedup keys past their window are forgotten");
  }
};

absl::StatusOr<int> Serve(const Options& options) {
  RETURN_IF_ERROR(Validate(options.inbox));
  ASSIGN_OR_RETURN(secrets::KeyRing keys, secrets::KeyRing::Load(options.secrets_key_file));
  ASSIGN_OR_RETURN(rpc::Verifier verifier, options.service.MakeVerifier());

  postgres::Pool pool({.url = options.service.database_url,
                       .application_name = "mainstay-webhooks",
                       .size = int(options.database_connections)});
  secrets::Store secrets(pool, std::move(keys));
  jobs::RedisHandoff handoff({.url = options.service.redis_url}, pool);
  catalog::Watcher watcher(pool, {.service = options.service.name, .instance = rpc::InstanceName()});
  if (absl::Status status = watcher.Start(); !status.ok())
    log::Warn("no catalog yet", {{"reason", ToStd(status.message())}});
  auto model = [&watcher] { return watcher.model(); };

  Inbox inbox(options.inbox,
              {pool, model, [&](std::string_view tenant, std::string_view name) { return secrets.Get(tenant, name); },
               handoff, Clock::Real()});
  rpc::Guard guard(
      options.service.name, std::move(verifier),
      [&](const std::vector<std::string>& roles, std::string_view scope) { return model()->HasScope(roles, scope); });
  IngestServiceImpl ingest(guard, inbox);
  EventsServiceImpl events(guard, pool, handoff, model, options.cursor_key);

  rpc::ServiceServer server(options.service);
  server.Add(&ingest);
  server.Add(&events);
  server.AddDependency({"postgresql", [&] { return pool.Health(); }});
  server.AddInfo("catalog", [&] { return model()->hash; });
  RETURN_IF_ERROR(server.Start());

  absl::Notification ending;
  std::thread upkeep([&] {
    while (!ending.WaitForNotificationWithTimeout(options.purge_interval)) {
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
  return mainstay::rpc::ServiceMain(argc, argv, mainstay::webhooks::Serve);
}
