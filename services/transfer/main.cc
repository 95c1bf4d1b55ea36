// SPDX-License-Identifier: Apache-2.0
// mainstay-transfer: takes uploads, keeps the files, and holds the records of imports and exports; the worker runs
// them. This file is the wiring.
//
// Any number of copies on one blob store. Killed at any moment it loses nothing that was acknowledged: an upload that
// broke off leaves a temporary file, which upkeep removes.
#include <grpcpp/grpcpp.h>

#include <pqxx/pqxx>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/catalog/watcher.h"
#include "libs/jobs/enqueue.h"
#include "libs/postgres/pool.h"
#include "libs/rpc/call.h"
#include "libs/rpc/server.h"
#include "libs/telemetry/log.h"
#include "libs/transfer/blobs.h"
#include "libs/transfer/sql.h"
#include "services/transfer/services.h"

namespace mainstay::transfer {
namespace {

struct Options {
  rpc::ServiceOptions service{.name = "transfer", .max_threads = 32};
  std::string blob_dir, cursor_key;
  int64_t max_upload_bytes = int64_t{1} << 30, streams = 16, database_connections = 8;
  absl::Duration upkeep_interval = absl::Minutes(1);
  TransferOptions transfer;

  void Declare(ConfigReader& reader) {
    service.Declare(reader);
    reader.Required("blob_dir", &blob_dir, "directory for uploads and results, absolute; shared by all copies");
    rpc::DeclareCursorKey(reader, &cursor_key);
    reader.Int("max_upload_bytes", &max_upload_bytes, 1, int64_t{1} << 40, "largest file");
    reader.Int("streams", &streams, 1, 1000, "uploads, downloads and files of jobs in transit at once");
    reader.Int("database_connections", &database_connections, 2, 200, "connections to PostgreSQL");
    reader.Duration("import_retention", &transfer.import_retention, absl::Hours(1), absl::Hours(24 * 3650),
                    "how long imports, their files and reports are kept");
    reader.Duration("export_retention", &transfer.export_retention, absl::Minutes(1), absl::Hours(24 * 3650),
                    "how long exports and their files are kept");
    reader.Duration("upkeep_interval", &upkeep_interval, absl::Seconds(1), absl::Hours(24),
                    "how often expired files and leftovers are removed");
    reader.Check(!service.redis_url.empty(), "redis_url: required");
    reader.Check(streams < service.max_threads, "streams: fewer than max_threads, or short calls find no thread");
  }
};

// Each step on its own: one that fails must not keep the others from running.
void Upkeep(postgres::Pool& pool, Blobs& blobs, bool leftovers) {
  const absl::Time deadline = absl::Now() + absl::Minutes(1);
  const auto run = [&](const char* what, const char* statement) {
    const absl::Status status = pool.Transaction(deadline, [&](pqxx::transaction_base& tx) {
      tx.exec(statement);
      return absl::OkStatus();
    });
    if (!status.ok()) log::Warn("upkeep failed", {{"step", what}, {"error", ToStd(status.message())}});
  };
  run("settle", sql::kSettle);
  run("staging", sql::kDropLeakedStaging);
  run("imports", sql::kDeleteExpiredImports);
  run("exports", sql::kDeleteExpiredExports);
  const auto report = [](const char* what, const absl::StatusOr<int64_t>& removed) {
    if (!removed.ok()) {
      log::Warn("upkeep failed", {{"step", what}, {"error", ToStd(removed.status().message())}});
    } else if (*removed > 0) {
      log::Info("files removed", {{"why", what}, {"count", *removed}});
    }
  };
  report("expired", blobs.RemoveExpired(deadline));
  if (leftovers) report("leftover", blobs.RemoveLeftovers(deadline));
}

absl::StatusOr<int> Serve(const Options& options) {
  RETURN_IF_ERROR(Validate(options.transfer));
  ASSIGN_OR_RETURN(rpc::Verifier verifier, options.service.MakeVerifier());
  ASSIGN_OR_RETURN(const std::unique_ptr<BlobStore> store, OpenDirectoryStore(options.blob_dir));

  postgres::Pool pool({.url = options.service.database_url,
                       .application_name = "mainstay-transfer",
                       .size = static_cast<int>(options.database_connections)});
  catalog::Watcher watcher(pool, {.service = options.service.name, .instance = rpc::InstanceName()});
  if (const absl::Status status = watcher.Start(); !status.ok())
    log::Info("no catalog yet", {{"reason", ToStd(status.message())}});
  const auto model = [&watcher] { return watcher.model(); };

  Blobs blobs(pool, *store, {.max_bytes = options.max_upload_bytes});
  jobs::RedisHandoff handoff({.url = options.service.redis_url}, pool);
  const rpc::Guard guard(
      options.service.name, std::move(verifier),
      [&](const std::vector<std::string>& roles, std::string_view scope) { return model()->HasScope(roles, scope); });
  StreamPermits permits(static_cast<int>(options.streams));
  const ServiceParts parts{.guard = guard,
                           .pool = pool,
                           .blobs = blobs,
                           .handoff = handoff,
                           .model = model,
                           .permits = permits,
                           .cursor_key = options.cursor_key,
                           .options = options.transfer};
  ImportsServiceImpl imports(parts);
  ExportsServiceImpl exports(parts);
  BlobsServiceImpl blob_service(parts);

  rpc::ServiceServer server(options.service);
  server.Add(&imports);
  server.Add(&exports);
  server.Add(&blob_service);
  server.AddDependency({"postgresql", [&] { return pool.Health(); }});
  server.AddInfo("catalog", [&] { return model()->hash; });
  RETURN_IF_ERROR(server.Start());

  absl::Notification ending;
  std::thread upkeep([&] {
    absl::Time next_leftovers = absl::InfinitePast();
    do {
      const bool leftovers = absl::Now() >= next_leftovers;
      if (leftovers) next_leftovers = absl::Now() + absl::Hours(1);
      Upkeep(pool, blobs, leftovers);
    } while (!ending.WaitForNotificationWithTimeout(options.upkeep_interval));
  });
  server.SetReady();
  const int code = server.Run([&](absl::Duration) { ending.Notify(); });
  if (!ending.HasBeenNotified()) ending.Notify();
  upkeep.join();
  watcher.Stop();
  return code;
}

}  // namespace
}  // namespace mainstay::transfer

int main(int argc, char** argv) {
  return mainstay::rpc::ServiceMain(argc, argv, mainstay::transfer::Serve);
}
