// SPDX-License-Identifier: Apache-2.0
// What keeps the jobs in hand ours: the worker's lease row, renewed once per heartbeat for all that is written
// `running`; the pending entries' idle time for what is not; and the limits of handlers.
//
// On a thread of its own, so that no handler and no slow statement of another part holds a renewal up. PostgreSQL away:
// entries are kept alive, nothing is given up.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/status.h"
#include "libs/jobs/engine_impl.h"
#include "libs/postgres/errors.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"

namespace mainstay::jobs {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(200);

}  // namespace

void Engine::Impl::HeartbeatLoop() {
  absl::Time beat = absl::InfinitePast();
  std::string epoch;
  while (true) {
    const absl::Time now = Mono();
    Limits(now);
    if (const auto replies = redis.Pipeline({{"GET", kEpochKey}, MemoryProbe()}); replies.ok() && (*replies)[0].ok()) {
      const std::string& text = (*replies)[0].text;
      if (!epoch.empty() && text != epoch)
        mark_all = true;  // flushed: our entries are gone, so the rows must say who holds these jobs
      epoch = text;
      const bool full = (*replies)[1].text.rfind("OOM", 0) == 0;
      if (redis_full.exchange(full) != full)
        log::Warn(full ? "Redis is full: jobs are claimed from PostgreSQL" : "Redis has room again");
      if (full) mark_all = true;  // others claim what looks stale
    }
    const bool all = mark_all.exchange(false);
    if (now - beat >= options.heartbeat || all) {
      beat = now;
      if (Beat(all)) {
        ListRemote();
        // Figures for people: what PostgreSQL does not take now is added the next time.
        figures.Flush(pool, absl::Now() + std::min(options.lease / 4, absl::Seconds(5))).IgnoreError();
      } else if (all) {
        mark_all = true;
      }
    }
    metrics.leading.Set(upkeep.leading() ? 1 : 0);
    absl::MutexLock lock(&mu);
    if (mu.AwaitWithTimeout(absl::Condition(&stop_heartbeat), std::min(kTick, options.heartbeat / 2))) return;
  }
}

absl::Status Engine::Impl::RenewLease(bool draining) {
  int count;
  std::string kinds, lanes;
  {
    absl::MutexLock lock(&mu);
    count = static_cast<int>(in_hand.size());
    kinds = announced;
    lanes = announced_lanes;
  }
  return pool.Autocommit(
      absl::Now() + std::min(options.lease / 2, absl::Seconds(5)), [&](pqxx::transaction_base& tx) -> absl::Status {
        Run(tx, sql::kRenewWorker, consumer, options.name, kinds, count, absl::ToDoubleSeconds(options.lease),
            draining ? "t" : "f", QueuesOrNull(), options.upkeep && !redis_down ? "t" : "f", lanes);
        return absl::OkStatus();
      });
}

// For people, so a failure waits for the next heartbeat.
void Engine::Impl::ListRemote() {
  std::string remote = "[]";
  for (const auto& runner : runners) {
    if (runner->outlives()) remote = runner->Remote();
  }
  if (remote == listed_remote) return;
  const absl::Status status = pool.Autocommit(absl::Now() + std::min(options.lease / 4, absl::Seconds(5)),
                                              [&](pqxx::transaction_base& tx) -> absl::Status {
                                                Run(tx, sql::kSetStreams, consumer, remote);
                                                return absl::OkStatus();
                                              });
  if (status.ok()) listed_remote = std::move(remote);
}

// One heartbeat: the lease, jobs that last, jobs that are no longer ours. False: PostgreSQL is away.
bool Engine::Impl::Beat(bool all) {
  bool draining;
  {
    absl::MutexLock lock(&mu);
    draining = stop_reading;
  }
  const absl::Status lease = RenewLease(draining);
  if (!lease.ok()) log::Warn("lease not renewed", {{"error", std::string(lease.message())}});
  std::vector<InHandPtr> lasting, marked, alive;
  const absl::Time now = Mono();
  {
    absl::MutexLock lock(&mu);
    for (const auto& [key, job] : in_hand) {
      if (job->marked) {
        if (!job->finished) marked.push_back(job);
        continue;
      }
      const int64_t began = job->Started();
      if (!job->finished && (all || (began != 0 && now - absl::FromUnixMicros(began) >= options.heartbeat))) {
        lasting.push_back(job);
      } else if (now - job->taken >= options.heartbeat / 2) {
        alive.push_back(job);  // waiting for a handler or to be stored
      }
    }
    alive.insert(alive.end(), checking.begin(), checking.end());
    if (!lease.ok()) alive.insert(alive.end(), lasting.begin(), lasting.end());
  }
  KeepAlive(alive);
  if (!lease.ok()) return false;
  if (!lasting.empty() && !Mark(lasting)) return false;
  if (!marked.empty()) {
    const auto held = Held(marked);
    if (!held.ok()) return false;
    for (const auto& job : marked) {
      if (!held->contains(job->id)) Fence(job);
    }
  }
  return true;
}

// The pending entries of what is not written `running`.
void Engine::Impl::KeepAlive(const std::vector<InHandPtr>& jobs) {
  std::map<std::string, redis::Command> keep;
  for (const auto& job : jobs) {
    if (job->entry_id.empty()) continue;
    auto [it, fresh] = keep.try_emplace(job->stream);
    if (fresh) it->second = {"XCLAIM", job->stream, kGroup, consumer, "0"};
    it->second.push_back(job->entry_id);
  }
  std::vector<redis::Command> commands;
  for (auto& [stream, command] : keep) {
    command.push_back("JUSTID");
    commands.push_back(std::move(command));
  }
  if (!commands.empty()) redis.Pipeline(commands).status().IgnoreError();
}

bool Engine::Impl::Mark(const std::vector<InHandPtr>& jobs) {
  FencedIds ids;
  BinaryArray since(BinaryArray::kFloat8);
  const int64_t now = MonoMicros();
  for (const auto& job : jobs) {
    ids.Add(*job);
    const int64_t at = job->Started();
    since.AddFloat8(at == 0 ? 0.0 : static_cast<double>(now - at) / 1e6);
  }
  const auto a = ids.ids.Finish(), b = ids.fences.Finish(), c = since.Finish();
  absl::flat_hash_set<Uuid> ok;
  const absl::Status status =
      pool.Autocommit(absl::Now() + absl::Seconds(5), [&](pqxx::transaction_base& tx) -> absl::Status {
        ok.clear();
        for (const auto& row : Run(tx, sql::kMarkRunning, a, b, consumer, c)) {
          ASSIGN_OR_RETURN(const Uuid job, ParseUuid(row[0].c_str()));
          ok.insert(job);
        }
        return absl::OkStatus();
      });
  if (postgres::IsLockTimeout(status)) {
    BinaryArray held(BinaryArray::kUuid);
    for (const auto& job : jobs) held.Add(job->id);
    if (const auto locked = LockedByOthers(pool, std::move(held)); locked.ok() && !locked->empty()) {
      std::vector<InHandPtr> others, later;
      for (const auto& job : jobs) (locked->contains(job->id) ? later : others).push_back(job);
      KeepAlive(later);
      return others.empty() || Mark(others);
    }
  }
  if (!status.ok()) {
    log::Warn("lasting jobs not written as running", {{"error", std::string(status.message())}});
    return false;
  }
  std::vector<std::pair<std::string, std::string>> entries;
  for (const auto& job : jobs) {
    if (!ok.contains(job->id)) {
      if (!job->finished) Fence(job);
      continue;
    }
    job->marked = true;
    if (!job->entry_id.empty()) entries.emplace_back(job->stream, job->entry_id);
  }
  Acknowledge(entries, {});  // they would pin trimming and memory; their lease is the worker's row now
  return true;
}

absl::StatusOr<absl::flat_hash_set<Uuid>> Engine::Impl::Held(const std::vector<InHandPtr>& jobs) {
  FencedIds ids;
  for (const auto& job : jobs) ids.Add(*job);
  const auto a = ids.ids.Finish(), b = ids.fences.Finish();
  absl::flat_hash_set<Uuid> held;
  RETURN_IF_ERROR(pool.Autocommit(absl::Now() + absl::Seconds(5), [&](pqxx::transaction_base& tx) -> absl::Status {
    held.clear();
    for (const auto& row : Run(tx, sql::kHeld, a, b)) {
      ASSIGN_OR_RETURN(const Uuid job, ParseUuid(row[0].c_str()));
      held.insert(job);
    }
    return absl::OkStatus();
  }));
  return held;
}

absl::StatusOr<RunnerHost::Adopted> Engine::Impl::Adopt(const Runner& by,
                                                        const std::vector<std::pair<Uuid, int64_t>>& jobs) {
  Adopted adopted;
  if (jobs.empty()) return adopted;
  const auto runner = std::ranges::find(runners, &by, [](const auto& r) { return r.get(); });
  if (runner == runners.end()) return absl::InternalError("not a runner of this engine");
  BinaryArray ids(BinaryArray::kUuid), fences(BinaryArray::kInt8);
  for (const auto& [job, fence] : jobs) ids.Add(job), fences.AddInt8(fence);
  const auto a = ids.Finish(), b = fences.Finish();
  RETURN_IF_ERROR(pool.Autocommit(absl::Now() + absl::Seconds(5), [&](pqxx::transaction_base& tx) -> absl::Status {
    adopted = Adopted();
    for (const auto& row : Run(tx, sql::kFinishedUnder, a, b)) {
      ASSIGN_OR_RETURN(const Uuid job, ParseUuid(row[0].c_str()));
      adopted.stored.insert(job);
    }
    for (const auto& row : Run(tx, sql::kAdopt, a, b, consumer)) {
      auto job = std::make_shared<InHand>();
      ASSIGN_OR_RETURN(job->id, ParseUuid(row[0].c_str()));
      job->fence = row[1].as<int64_t>();
      Fill(row, *job);
      job->runner = static_cast<int>(runner - runners.begin());
      job->taken = Mono();
      job->started_us = std::max<int64_t>(1, MonoMicros() - static_cast<int64_t>(row[23].as<double>() * 1e6));
      job->marked = true;
      adopted.jobs.push_back(std::move(job));
    }
    return absl::OkStatus();
  }));
  absl::MutexLock lock(&mu);
  for (const auto& job : adopted.jobs) {
    in_hand[{job->id, job->fence}] = job;
    ++given[static_cast<size_t>(job->runner)];
  }
  return adopted;
}

// Cancelled, or handed to someone else. A handler is told; a job that waits is dropped.
void Engine::Impl::Fence(const InHandPtr& job) {
  if (job->finished_in || job->finished) return;  // finishing changes the row too
  Stop none = Stop::kNone;
  job->stop.compare_exchange_strong(none, Stop::kFenced);
  {
    absl::MutexLock lock(&mu);
    auto& list = waiting[static_cast<size_t>(job->runner)];
    if (const auto it = std::find(list.begin(), list.end(), job); it != list.end()) {
      list.erase(it);
      DropRest(*job);
      FinishLocked({job, Outcome::Snooze(absl::ZeroDuration())});  // stores nothing under a stale fence; acknowledges
      return;
    }
  }
  runners[static_cast<size_t>(job->runner)]->Tell(job);
}

void Engine::Impl::Limits(absl::Time now) {
  std::vector<InHandPtr> tell, kill;
  {
    absl::MutexLock lock(&mu);
    for (const auto& [key, job] : in_hand) {
      const int64_t at = job->Started();
      if (at == 0 || job->finished) continue;
      const absl::Duration age = now - absl::FromUnixMicros(at);
      if (age >= job->soft_limit) {
        Stop none = Stop::kNone;
        if (job->stop.compare_exchange_strong(none, Stop::kSoftLimit)) tell.push_back(job);
      }
      if (age >= job->hard_limit) kill.push_back(job);
    }
    // What has waited here for a heartbeat, because its runner is busy, may find another worker idle.
    for (auto& list : waiting) {
      while (!list.empty() && now - list.front()->taken > options.heartbeat) {
        DropRest(*list.front());
        FinishLocked({std::move(list.front()), Outcome(), Finished::How::kReturned});
        list.pop_front();
      }
    }
  }
  for (const auto& job : tell) runners[static_cast<size_t>(job->runner)]->Tell(job);
  for (const auto& job : kill) {
    runners[static_cast<size_t>(job->runner)]->Kill(
        job, Outcome::Retry("hard_limit", absl::StrCat("still running after ", absl::FormatDuration(job->hard_limit))));
  }
}

}  // namespace mainstay::jobs
