// SPDX-License-Identifier: Apache-2.0
#include "libs/catalog/watcher.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>

#include <pqxx/pqxx>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/catalog/introspect.h"
#include "libs/catalog/publish.h"
#include "libs/catalog/sql.h"
#include "libs/postgres/errors.h"
#include "libs/telemetry/log.h"
#include "libs/telemetry/metrics.h"

namespace mainstay::catalog {
namespace {

constexpr size_t kMaxProblemBytes = 4000;

std::string BrokenText(const Model& model) {
  std::string text;
  for (const auto& [name, resource] : model.resources)
    if (!resource.problem.empty()) StrAppend(&text, text.empty() ? "" : "\n", name, ": ", resource.problem);
  return text;
}

// The tables whose change must be noticed: those of the model, broken ones too.
std::vector<std::string> TablesOf(const Model& model) {
  std::vector<std::string> tables;
  for (const auto& [name, resource] : model.resources) {
    if (!resource.table.empty() && resource.query.empty()) tables.push_back(QuoteName(resource.schema, resource.table));
    for (const auto& [relation_name, relation] : resource.relations)
      if (!relation.through.empty()) tables.push_back(relation.through);
  }
  return tables;
}

std::map<std::string, std::string> QueriesOf(const Model& model) {
  std::map<std::string, std::string> queries;
  for (const auto& [name, resource] : model.resources)
    if (!resource.query.empty()) queries[name] = resource.query;
  return queries;
}

}  // namespace

struct Watcher::Impl {
  Impl(postgres::Pool& p, WatcherOptions o) : pool(p), options(std::move(o)) {}

  postgres::Pool& pool;
  const WatcherOptions options;
  std::vector<std::function<void(ModelPtr)>> callbacks;  // constant after Start
  std::thread thread;

  mutable absl::Mutex mu;
  ModelPtr model ABSL_GUARDED_BY(mu) = std::make_shared<const Model>();
  absl::Status status ABSL_GUARDED_BY(mu) = absl::NotFoundError("no catalog was loaded yet");
  bool stopping ABSL_GUARDED_BY(mu) = false;

  // One look at a time: the thread's own, or Refresh's. The rest belongs to whoever looks.
  absl::Mutex looking;
  std::string refused ABSL_GUARDED_BY(looking);      // hash that could not be loaded, so that it is reported once
  std::string fingerprint ABSL_GUARDED_BY(looking);  // of the tables when the model was built
  absl::Time next_schema ABSL_GUARDED_BY(looking) = absl::InfinitePast();
  absl::Time next_report ABSL_GUARDED_BY(looking) = absl::InfinitePast();
  std::string reported ABSL_GUARDED_BY(looking);

  prometheus::Counter& loads = metrics::Counter("mainstay_catalog_loads_total", "Catalogs taken over by this process.");
  prometheus::Counter& failures =
      metrics::Counter("mainstay_catalog_load_failures_total",
                       "Attempts to load a catalog that failed; the last good one kept serving.");
  prometheus::Gauge& broken =
      metrics::Gauge("mainstay_catalog_broken_resources", "Resources that do not fit their tables and answer 503.");

  ModelPtr Current() const {
    absl::ReaderMutexLock lock(&mu);
    return model;
  }
  bool Loaded() const { return !Current()->hash.empty(); }

  // Those to ask PostgreSQL about.
  std::map<std::string, std::string> Queries(const Model& of) const {
    return options.queries == QuerySource::kDatabase ? QueriesOf(of) : std::map<std::string, std::string>();
  }

  absl::StatusOr<std::string> Fingerprint(pqxx::transaction_base& tx, const Model& of,
                                          const std::map<std::string, std::string>& queries) const {
    ASSIGN_OR_RETURN(std::string out, SchemaFingerprint(tx, TablesOf(of), queries));
    if (options.queries == QuerySource::kPublished) out += tx.exec1(sql::kStoredQueryColumns)[0].c_str();
    return out;
  }

  // One round: is there another hash, or have the tables changed? Loads if so.
  absl::Status Look(bool force) ABSL_LOCKS_EXCLUDED(looking, mu) {
    absl::MutexLock lock(&looking);
    const ModelPtr now = Current();
    absl::Status result = Round(*now, force);
    {
      absl::MutexLock state(&mu);
      status = result;
    }
    Report();
    return result;
  }

  absl::Status Round(const Model& now, bool force) ABSL_EXCLUSIVE_LOCKS_REQUIRED(looking) {
    std::string active, seen;
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    const bool check_schema = force || absl::Now() >= next_schema;
    std::map<std::string, std::string> queries;  // looked at only with the schema, for which they need a transaction
    if (check_schema) queries = Queries(now);
    const auto look = [&](pqxx::transaction_base& tx) -> absl::Status {
      ASSIGN_OR_RETURN(active, ActiveHash(tx));
      if (check_schema && active == now.hash) {
        ASSIGN_OR_RETURN(seen, Fingerprint(tx, now, queries));
      }
      return absl::OkStatus();
    };
    absl::Status status = queries.empty() ? pool.Autocommit(deadline, look) : pool.Snapshot(deadline, look);
    if (!status.ok()) return status;
    if (check_schema) next_schema = absl::Now() + options.schema_poll;
    if (active == now.hash) refused.clear();
    if (active == now.hash && (seen.empty() || seen == fingerprint)) return absl::OkStatus();
    // A hash that was refused is tried again only when there is reason to hope: every schema_poll.
    if (active == refused && !check_schema) return this->LastStatus();

    Built built;
    std::string built_on;
    status = pool.Snapshot(deadline, [&](pqxx::transaction_base& tx) -> absl::Status {
      ASSIGN_OR_RETURN(built, LoadActive(tx, options.queries));
      ASSIGN_OR_RETURN(built_on, Fingerprint(tx, *built.model, Queries(*built.model)));
      return absl::OkStatus();
    });
    if (!status.ok()) {
      failures.Increment();
      if (refused != active)
        log::Error("the published catalog can't be loaded; the last good one keeps serving",
                   {{"hash", active}, {"reason", std::string(status.message())}});
      refused = active;
      return status;
    }
    refused.clear();
    fingerprint = built_on;
    ModelPtr next = built.model;
    int64_t broken_now = 0;
    for (const auto& [name, resource] : next->resources) {
      if (resource.problem.empty()) continue;
      ++broken_now;
      log::Warn("a resource does not fit its table; it answers 503 until one of the two changes",
                {{"resource", name}, {"reason", resource.problem}});
    }
    {
      absl::MutexLock state(&mu);
      model = next;
    }
    loads.Increment();
    broken.Set(static_cast<double>(broken_now));
    log::Info(
        "catalog loaded",
        {{"hash", next->hash}, {"resources", static_cast<int64_t>(next->resources.size())}, {"broken", broken_now}});
    for (const auto& callback : callbacks) callback(next);
    return absl::OkStatus();
  }

  absl::Status LastStatus() const {
    absl::ReaderMutexLock lock(&mu);
    return status;
  }

  // What this process runs, for `mainstay doctor` and the console. Best effort: without PostgreSQL there is nobody to
  // tell.
  void Report() ABSL_EXCLUSIVE_LOCKS_REQUIRED(looking) {
    const ModelPtr now = Current();
    const absl::Status last = LastStatus();
    std::string problem = last.ok() || absl::IsNotFound(last) ? BrokenText(*now) : std::string(last.message());
    problem = std::string(TruncateUtf8(problem, kMaxProblemBytes));
    const std::string text = StrCat(now->hash, "\n", problem);
    if (text == reported && absl::Now() < next_report) return;
    if (postgres::IsTransient(last)) return;
    absl::Status done =
        pool.Autocommit(absl::Now() + absl::Seconds(5), [&](pqxx::transaction_base& tx) -> absl::Status {
          tx.exec_params(sql::kReport, options.service, options.instance, now->hash, problem);
          tx.exec(sql::kClearSeen);
          return absl::OkStatus();
        });
    if (done.ok()) {
      reported = text;
      next_report = absl::Now() + options.report;
    }
  }

  void Run() {
    for (;;) {
      {
        absl::MutexLock lock(&mu);
        if (mu.AwaitWithTimeout(absl::Condition(&stopping), options.poll)) return;
      }
      Look(false).IgnoreError();
    }
  }
};

Watcher::Watcher(postgres::Pool& pool, WatcherOptions options)
    : impl_(std::make_unique<Impl>(pool, std::move(options))) {}
Watcher::~Watcher() {
  Stop();
}

absl::Status Watcher::Start() {
  absl::Status status = impl_->Look(true);
  if (!impl_->thread.joinable()) impl_->thread = std::thread([impl = impl_.get()] { impl->Run(); });
  return status;
}

void Watcher::Stop() {
  {
    absl::MutexLock lock(&impl_->mu);
    if (impl_->stopping) return;
    impl_->stopping = true;
  }
  if (!impl_->thread.joinable()) return;
  impl_->thread.join();
  // A process that ends properly leaves no row behind.
  impl_->pool
      .Autocommit(absl::Now() + absl::Seconds(1),
                  [&](pqxx::transaction_base& tx) -> absl::Status {
                    tx.exec_params(sql::kForget, impl_->options.service, impl_->options.instance);
                    return absl::OkStatus();
                  })
      .IgnoreError();
}

ModelPtr Watcher::model() const {
  return impl_->Current();
}
void Watcher::OnChange(std::function<void(ModelPtr)> callback) {
  impl_->callbacks.push_back(std::move(callback));
}
absl::Status Watcher::status() const {
  return impl_->LastStatus();
}
absl::Status Watcher::Refresh() {
  return impl_->Look(true);
}

}  // namespace mainstay::catalog
