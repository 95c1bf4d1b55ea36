// SPDX-License-Identifier: Apache-2.0
// Keeps a service's model current: polls the active hash, builds the new model aside, swaps it in whole.
//
// What cannot be loaded is refused: the last good model keeps serving, the failure is logged, counted
// (mainstay_catalog_load_failures_total) and reported in mainstay.catalog_seen. Changes of the user's tables are
// noticed too, by a fingerprint of what was introspected. PostgreSQL away: the model stays. model() is thread-safe and
// costs a shared lock; callbacks run on the watcher's own thread.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "libs/base/clock.h"
#include "libs/catalog/introspect.h"
#include "libs/catalog/model.h"
#include "libs/postgres/pool.h"

namespace mainstay::catalog {

struct WatcherOptions {
  std::string service;   // "gateway"
  std::string instance;  // host and process, as in catalog_seen
  // How often to look for another hash: one look-up by key.
  absl::Duration poll = absl::Seconds(1);
  // How often to look for changed tables: one statement over pg_catalog.
  absl::Duration schema_poll = absl::Seconds(10);
  // How often to renew this process's row in catalog_seen when nothing changes.
  absl::Duration report = absl::Seconds(30);
  // Of services that may not read everything: those that serve records look for themselves.
  QuerySource queries = QuerySource::kPublished;
};

class Watcher {
 public:
  Watcher(postgres::Pool& pool, WatcherOptions options);
  ~Watcher();  // Stop()

  // Tries to load once, then keeps watching from a thread of its own, whatever the outcome. OK: loaded. NotFound:
  // nothing is published yet (the model is empty). Unavailable and others: not loaded yet, for this reason.
  absl::Status Start();
  void Stop();  // harmless twice

  ModelPtr model() const;  // never null; empty until the first load
  // Called after each swap with the new model; add before Start.
  void OnChange(std::function<void(ModelPtr)> callback);
  // OK, or why the last attempt failed; for readiness and the log.
  absl::Status status() const;
  // Looks now, on the calling thread (tests, SIGHUP).
  absl::Status Refresh();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mainstay::catalog
