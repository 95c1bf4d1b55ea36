// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/engine.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/jobs/engine_impl.h"
#include "libs/jobs/running.h"
#include "libs/jobs/threads.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"
#include "libs/telemetry/metrics.h"

namespace mainstay::jobs {
namespace {

// How much may wait here for runners, at the recent rate: enough to bridge a read, little enough that a worker holds
// nothing back from others.
constexpr double kAheadSeconds = 0.05;
// How long and how many the jobs of a run may be together: it has one thread, and none of them is anybody else's
// meanwhile.
constexpr double kRunMicros = 20000;
constexpr size_t kMaxRun = 1000;

prometheus::Counter& RunsBy(const char* outcome) {
  return metrics::Counter("mainstay_jobs_finished_total", "Runs by outcome", {{"outcome", outcome}});
}

std::string ArrayOf(const std::vector<std::string>& words) {
  PgArray array;
  for (const auto& word : words) array.Add(word);
  return std::move(array).Finish();
}

// Deletes the consumer, unless it still has something pending, which would go with it.
constexpr char kLeaveGroup[] = R"lua(
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if consumers.err then return 0 end
for _, c in ipairs(consumers) do
  local f = {}
  for i = 1, #c, 2 do f[c[i]] = c[i + 1] end
  if f['name'] == ARGV[2] and f['pending'] == 0 then return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
end
return 0)lua";

}  // namespace

EngineMetrics::EngineMetrics()
    : succeeded(RunsBy("succeeded")),
      discarded(RunsBy("discarded")),
      dead(RunsBy("dead")),
      retried(RunsBy("retried")),
      snoozed(RunsBy("snoozed")),
      returned(RunsBy("returned")),
      crashed(RunsBy("crashed")),
      fenced(metrics::Counter("mainstay_jobs_fenced_total",
                              "Results refused because the job had been handed to someone else or cancelled")),
      claimed(metrics::Counter("mainstay_jobs_claimed_total", "Jobs taken from PostgreSQL while Redis was away")),
      in_hand(metrics::Gauge("mainstay_jobs_in_hand", "Jobs this worker holds: waiting, running or not yet stored")),
      leading(metrics::Gauge("mainstay_jobs_upkeep_leader", "1 on the worker that does the upkeep")),
      run(metrics::Histogram("mainstay_jobs_run_seconds", "Time in the handler", metrics::LatencyBuckets())) {}

absl::Status Validate(const EngineOptions& o) {
  std::string errors;
  auto check = [&](bool ok, const char* message) {
    if (!ok) absl::StrAppend(&errors, errors.empty() ? "" : "\n", message);
  };
  check(o.executors >= 1 && o.executors <= 1024, "executors: expected 1 to 1024");
  check(o.read_batch >= 1 && o.read_batch <= 10000, "read_batch: expected 1 to 10000");
  check(o.max_in_hand >= o.read_batch && o.max_in_hand >= o.executors,
        "max_in_hand: expected at least read_batch and executors");
  check(o.store_batch >= 1 && o.store_batch <= 10000, "store_batch: expected 1 to 10000");
  check(o.heartbeat >= absl::Milliseconds(50) && o.lease >= 2 * o.heartbeat, "lease: expected at least two heartbeats");
  check(o.sweep > absl::ZeroDuration() && o.dispatch_interval > absl::ZeroDuration(),
        "sweep, dispatch_interval: expected more than nothing");
  check(o.window >= 100, "window: expected 100 or more");
  return errors.empty() ? absl::OkStatus() : absl::InvalidArgumentError(errors);
}

Engine::Impl::Impl(EngineOptions o, std::vector<std::shared_ptr<Runner>> r, postgres::Pool& p)
    : options(std::move(o)),
      runners(std::move(r)),
      pool(p),
      id(options.worker),
      consumer(id.ToString()),
      queues(ArrayOf(options.takes)),
      reader_redis(options.redis),
      redis(options.redis),
      upkeep(options, id, p),
      shares(options.shares),
      waiting(runners.size()),
      given(runners.size()) {}

// ---- waiting → runner → finished ----

bool Engine::Impl::RefreshRoutes() {
  std::map<std::string, int, std::less<>> found;
  for (size_t i = 0; i < runners.size(); ++i) {
    for (std::string& route : runners[i]->routes()) found.emplace(std::move(route), static_cast<int>(i));
  }
  PgArray array, lanes;
  for (const auto& [route, runner] : found) {
    array.Add(route);
    if (runners[static_cast<size_t>(runner)]->outlives()) lanes.Add(route);
  }
  absl::MutexLock lock(&mu);
  if (found == routes && !announced.empty()) return false;
  routes = std::move(found);
  announced = std::move(array).Finish();
  announced_lanes = std::move(lanes).Finish();
  return true;
}

int Engine::Impl::RunnerOf(const std::string& route) {
  const auto it = routes.find(route);
  return it == routes.end() ? -1 : it->second;
}

void Engine::Impl::UpdateRate() {
  const absl::Time now = Mono();
  const double seconds = absl::ToDoubleSeconds(now - rate_at);
  if (seconds < 0.02) return;
  const double recent = static_cast<double>(executed - rate_count) / seconds;
  rate = recent > rate ? recent : rate + (recent - rate) * std::min(1.0, seconds * 4);
  rate_at = now;
  rate_count = executed;
}

int Engine::Impl::Credit() {
  // What waits for one runner is no reason to keep another idle.
  int room = 0;
  for (size_t i = 0; i < runners.size(); ++i) {
    const int ahead = runners[i]->outlives() ? 0 : static_cast<int>(rate * kAheadSeconds);
    room += std::max(0, runners[i]->Credit() + ahead - static_cast<int>(waiting[i].size()));
  }
  // Nor to run faster than results are stored: they would wait in line here, and what follows them with them.
  const int unstored = 2 * options.store_batch - static_cast<int>(finished.size());
  return std::min({room, unstored, options.max_in_hand - static_cast<int>(in_hand.size()) + Given(/*outliving=*/true)});
}

int Engine::Impl::Given(bool outliving) const {
  int count = 0;
  for (size_t i = 0; i < runners.size(); ++i) {
    if (runners[i]->outlives() == outliving) count += given[i];
  }
  return count;
}

size_t Engine::Impl::RunLength(const std::string& kind) const {
  const auto it = run_micros.find(kind);
  return it == run_micros.end() ? 1 : std::clamp<size_t>(static_cast<size_t>(kRunMicros / it->second), 1, kMaxRun);
}

bool Engine::Impl::EndsRun(InHand& job) {
  const bool first = job.turn < job.run->length;
  job.run->length = std::min(job.run->length, job.turn);
  return first || job.marked;
}

void Engine::Impl::DropRest(InHand& job) {
  for (auto& member : job.rest) {
    if (EndsRun(*member) && member->marked) {
      FinishLocked({std::move(member), Outcome(), Finished::How::kReturned});
    } else {
      in_hand.erase({member->id, member->fence});
    }
  }
  job.rest.clear();
}

void Engine::Impl::Pump() {
  absl::MutexLock pumping(&pump_mu);
  for (size_t i = 0; i < runners.size(); ++i) {
    const int credit = runners[i]->Credit();
    std::vector<InHandPtr> jobs;
    {
      absl::MutexLock lock(&mu);
      if (stop_running || credit <= 0) continue;
      auto& from = waiting[i];
      while (!from.empty() && static_cast<int>(jobs.size()) < credit) {
        // Fenced while it waited: the heartbeat has dealt with it.
        if (!from.front()->finished && from.front()->stop == Stop::kNone) {
          from.front()->runner = static_cast<int>(i);
          given[i] += 1 + static_cast<int>(from.front()->rest.size());
          jobs.push_back(std::move(from.front()));
        }
        from.pop_front();
      }
    }
    if (!jobs.empty()) runners[i]->Give(std::move(jobs));
  }
}

void Engine::Impl::Wake() {
  Pump();
}

void Engine::Impl::FinishLocked(Finished f) {
  if (!f.job->finished.exchange(true)) finished.push_back(std::move(f));
}

void Engine::Impl::Finish(std::vector<Finished> runs) {
  using How = Finished::How;
  absl::MutexLock lock(&mu);
  for (Finished& f : runs) {
    InHand& job = *f.job;
    --given[static_cast<size_t>(job.runner)];
    if (job.turn > 0 && job.Started() == 0 && (f.how == How::kUnstarted || f.how == How::kReturned)) {
      if (EndsRun(job)) {
        FinishLocked({f.job, Outcome(), How::kReturned});
      } else {
        in_hand.erase({job.id, job.fence});
      }
      continue;
    }
    if (f.how == How::kRan) {
      ++executed;
      if (job.key.has_value()) {
        // What ends a run anyway is not worth one.
        const bool goes_on = f.outcome.kind == Outcome::Kind::kDone && !job.finished_in;
        double& micros = run_micros.try_emplace(job.kind, kRunMicros).first->second;
        // One that its machine held up for a moment says little of the next thousand; several in a row do.
        const double took = std::min(static_cast<double>(job.ran_us) + 10, 8 * micros);
        micros += ((goes_on ? took : 2 * kRunMicros) - micros) / 8;
      }
      if (job.stop == Stop::kShutdown &&
          (f.outcome.kind == Outcome::Kind::kRetry || f.outcome.kind == Outcome::Kind::kSnooze))
        f.how = How::kReturned;
    } else if (f.how == How::kUnstarted) {
      if (job.stop == Stop::kFenced) {
        f = {f.job, Outcome::Snooze(absl::ZeroDuration())};  // stores nothing under a stale fence; acknowledges
      } else if (stop_reading) {
        f.how = How::kReturned;
      } else {
        waiting[static_cast<size_t>(job.runner)].push_front(std::move(f.job));
        continue;
      }
    }
    FinishLocked(std::move(f));
  }
  UpdateRate();
}

// ---- progress and checkpoints ----

void Engine::Impl::Store(InHandPtr job, Note note, std::string json, std::function<void(absl::Status)> done) {
  {
    absl::MutexLock lock(&notes_mu);
    if (!stop_notes) {
      notes.push_back({std::move(job), note, std::move(json), std::move(done)});
      return;
    }
  }
  // The engine has stopped; the caller's lock may be held, so not from here.
  std::thread([done = std::move(done)] { done(absl::UnavailableError("the worker is stopping")); }).detach();
}

void Engine::Impl::NotesLoop() {
  while (true) {
    std::vector<PendingNote> batch;
    {
      absl::MutexLock lock(&notes_mu);
      notes_mu.Await(absl::Condition(
          +[](Impl* i) ABSL_EXCLUSIVE_LOCKS_REQUIRED(i->notes_mu) { return i->stop_notes || !i->notes.empty(); },
          this));
      if (notes.empty()) return;
      batch.swap(notes);
    }
    // The last of each sort counts for a job.
    struct Row {
      const std::string *progress = nullptr, *checkpoint = nullptr;
    };
    std::map<InHandPtr, Row> rows;
    for (const PendingNote& note : batch) {
      Row& row = rows[note.job];
      (note.note == Note::kCheckpoint ? row.checkpoint : row.progress) = &note.json;
    }
    absl::flat_hash_set<Uuid> ours;
    const absl::Status status =
        pool.Autocommit(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
          FencedIds ids;
          RareArray progress(BinaryArray::kText), checkpoint(BinaryArray::kText);
          for (const auto& [job, row] : rows) {
            ids.Add(*job);
            row.progress != nullptr ? progress.Add(*row.progress) : progress.AddNull();
            row.checkpoint != nullptr ? checkpoint.Add(*row.checkpoint) : checkpoint.AddNull();
          }
          ours.clear();
          for (const auto& row :
               Run(tx, sql::kNotes, ids.ids.Finish(), ids.fences.Finish(), progress.Finish(), checkpoint.Finish())) {
            ASSIGN_OR_RETURN(const Uuid job, ParseUuid(row[0].c_str()));
            ours.insert(job);
          }
          return absl::OkStatus();
        });
    for (PendingNote& note : batch) {
      absl::Status answer = status;
      if (status.ok() && !ours.contains(note.job->id)) {
        note.job->stop = Stop::kFenced;
        answer = FencedError();
      }
      note.done(std::move(answer));
    }
  }
}

// ---- start and end ----

postgres::PoolOptions EnginePool(std::string url, std::string application_name) {
  return {.url = std::move(url),
          .application_name = std::move(application_name),
          .size = 8,
          .lock_timeout = absl::Seconds(1),
          .pin_plans = true};
}

absl::Status Engine::Impl::StartAll() {
  RETURN_IF_ERROR(Validate(options));
  RefreshRoutes();
  RETURN_IF_ERROR(RenewLease(false));
  auto self = shared_from_this();
  for (const auto& runner : runners) RETURN_IF_ERROR(runner->Start(*this));
  beating = std::thread([self] { self->HeartbeatLoop(); });
  storing = std::thread([self] { self->StoreLoop(); });
  noting = std::thread([self] { self->NotesLoop(); });
  reading = std::thread([self] { self->ReaderLoop(); });
  if (options.upkeep) upkeep.Start();
  started_ok = true;
  return absl::OkStatus();
}

bool Engine::Impl::DrainAll(absl::Duration deadline) {
  if (!started_ok || drained.exchange(true)) return true;
  const absl::Time end = Mono() + deadline;
  {
    absl::MutexLock lock(&mu);
    stop_reading = true;
  }
  reading.join();
  GiveUpGoingOn();
  if (options.upkeep) upkeep.Stop();  // another worker takes over at once
  {
    absl::MutexLock pumping(&pump_mu);
    absl::MutexLock lock(&mu);
    stop_running = true;
    for (auto& list : waiting) {
      for (auto& job : list) {
        DropRest(*job);
        FinishLocked({std::move(job), Outcome(), Finished::How::kReturned});
      }
      list.clear();
    }
  }
  for (const auto& runner : runners) runner->Recall();
  {
    auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return Given(/*outliving=*/false) <= 0; };
    const absl::Duration grace = std::min(deadline / 4, absl::Seconds(2));
    std::vector<InHandPtr> tell;
    {
      absl::MutexLock lock(&mu);
      if (!mu.AwaitWithTimeout(absl::Condition(&idle), end - grace - Mono())) {
        for (const auto& [key, job] : in_hand) {
          Stop none = Stop::kNone;
          if (runners[static_cast<size_t>(job->runner)]->outlives()) continue;
          if (!job->finished && job->stop.compare_exchange_strong(none, Stop::kShutdown)) tell.push_back(job);
        }
      }
    }
    for (const auto& job : tell) runners[static_cast<size_t>(job->runner)]->Tell(job);
    absl::MutexLock lock(&mu);
    mu.AwaitWithTimeout(absl::Condition(&idle), end - Mono());
  }
  bool clean = true;
  for (const auto& runner : runners) clean &= runner->Stop();  // what still runs comes back as returned or left
  {
    absl::MutexLock lock(&mu);
    // Results are stored even past the deadline, but not for ever.
    auto stored = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return in_hand.empty(); };
    if (!mu.AwaitWithTimeout(absl::Condition(&stored), absl::Seconds(3))) give_up = true;
    stop_storing = true;
    stop_heartbeat = true;
  }
  {
    absl::MutexLock lock(&notes_mu);
    stop_notes = true;
  }
  storing.join();
  beating.join();
  noting.join();
  figures.Flush(pool, absl::Now() + absl::Seconds(1)).IgnoreError();
  pool.Autocommit(absl::Now() + absl::Seconds(1),
                  [&](pqxx::transaction_base& tx) -> absl::Status {
                    // What lives on elsewhere has one more lease to turn to another worker.
                    if (left)
                      Run(tx, sql::kRenewWorker, consumer, options.name, "{}", 0, absl::ToDoubleSeconds(options.lease),
                          "t", QueuesOrNull(), "f", "{}");
                    Run(tx, sql::kRemoveWorker, consumer);
                    return absl::OkStatus();
                  })
      .IgnoreError();
  if (!redis_down) {
    std::set<std::string> names;
    {
      absl::MutexLock lock(&mu);
      names = all_streams;
    }
    for (const auto& stream : names) {
      if (!redis.Script(kLeaveGroup, {stream}, {kGroup, consumer}).ok()) break;
    }
  }
  return clean;
}

EngineStats Engine::Impl::Stats() {
  EngineStats s;
  s.succeeded = succeeded;
  s.retried = retried;
  s.dead = dead;
  s.fenced = fenced;
  s.claimed = claimed;
  s.reissued = reissued + upkeep.reissued();
  s.leading = upkeep.leading();
  s.redis_down = redis_down || redis_full;
  absl::MutexLock lock(&mu);
  for (const auto& list : waiting) s.waiting += static_cast<int>(list.size());
  s.running = Given(true) + Given(false);
  s.unstored = static_cast<int>(finished.size());
  return s;
}

Engine::Engine(EngineOptions options, std::vector<std::shared_ptr<Runner>> runners, postgres::Pool& pool)
    : impl_(std::make_shared<Impl>(std::move(options), std::move(runners), pool)) {}
Engine::Engine(EngineOptions options, const Registry& registry, postgres::Pool& pool)
    : impl_([&] {
        options.worker = NewUuid();
        auto threads = std::make_shared<ThreadRunner>(HandlerHome{registry, options.worker, options.name, pool},
                                                      options.executors);
        return std::make_shared<Impl>(std::move(options), std::vector<std::shared_ptr<Runner>>{std::move(threads)},
                                      pool);
      }()) {}
Engine::~Engine() {
  Drain(absl::ZeroDuration());
}
absl::Status Engine::Start() {
  return impl_->StartAll();
}
bool Engine::Drain(absl::Duration deadline) {
  return impl_->DrainAll(deadline);
}
const Uuid& Engine::id() const {
  return impl_->id;
}
EngineStats Engine::stats() const {
  return impl_->Stats();
}

}  // namespace mainstay::jobs
