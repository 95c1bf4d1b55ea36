// SPDX-License-Identifier: Apache-2.0
// From finished runs to rows: one fenced statement for a batch, then the entries are acknowledged and the streams
// trimmed. Nothing is acknowledged before it is stored; results wait in memory, bounded by max_in_hand, while
// PostgreSQL is away.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "libs/base/status.h"
#include "libs/base/text.h"
#include "libs/jobs/engine_impl.h"
#include "libs/postgres/errors.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"

namespace mainstay::jobs {
namespace {

constexpr absl::Duration kTrimEvery = absl::Milliseconds(20);
constexpr int64_t kTrimAfter = 1000;  // entries
constexpr absl::Duration kAside = absl::Milliseconds(500);

// Deletes what every group has been given and acknowledged. One step inside Redis, so nothing can be delivered in
// between.
constexpr char kTrim[] = R"lua(
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err or #groups == 0 then return 0 end
local function parse(id) local a, b = string.match(id, '^(%d+)-(%d+)$') return tonumber(a), tonumber(b) end
local fa, fb
for _, g in ipairs(groups) do
  local f = {}
  for i = 1, #g, 2 do f[g[i]] = g[i + 1] end
  local a, b
  if f['pending'] > 0 then
    a, b = parse(redis.call('XPENDING', KEYS[1], f['name'])[2])
  else
    a, b = parse(f['last-delivered-id'])
    b = b + 1
  end
  if not fa or a < fa or (a == fa and b < fb) then fa, fb = a, b end
end
return redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f-%.0f', fa, fb)))lua";

// A statement that may succeed when it is tried again later, with nothing wrong in what it carries.
bool MayRecover(const absl::Status& status) {
  return postgres::IsTransient(status) || absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsAborted(status) || absl::IsResourceExhausted(status);
}

}  // namespace

void Engine::Impl::StoreLoop() {
  absl::Time trimmed = Mono();
  int64_t acknowledged = 0;
  std::set<std::string> touched;
  while (true) {
    std::vector<Finished> batch;
    {
      absl::MutexLock lock(&mu);
      mu.AwaitWithTimeout(
          absl::Condition(
              +[](Impl* i) ABSL_EXCLUSIVE_LOCKS_REQUIRED(i->mu) { return i->stop_storing || !i->finished.empty(); },
              this),
          !touched.empty() ? kTrimEvery : kAside);
      const absl::Time now = Mono();
      std::vector<Finished> again;
      std::erase_if(aside, [&](auto& waiting) {
        if (now < waiting.first) return false;
        again.push_back(std::move(waiting.second));
        return true;
      });
      // Before the results of those behind them.
      finished.insert(finished.begin(), std::make_move_iterator(again.begin()), std::make_move_iterator(again.end()));
      const size_t n = std::min(finished.size(), static_cast<size_t>(options.store_batch));
      const auto end = finished.begin() + static_cast<std::ptrdiff_t>(n);
      batch.assign(std::make_move_iterator(finished.begin()), std::make_move_iterator(end));
      finished.erase(finished.begin(), end);
      if (batch.empty() && stop_storing && (aside.empty() || give_up)) break;
    }
    WaitBehind(batch);
    if (!batch.empty()) {
      for (const auto& f : batch) {
        if (!f.job->entry_id.empty()) touched.insert(f.job->stream), ++acknowledged;
      }
      StoreBatch(batch);
    }
    if (!touched.empty() && (acknowledged >= kTrimAfter || Mono() - trimmed > kTrimEvery)) {
      for (const auto& stream : touched) redis.Script(kTrim, {stream}, {}).status().IgnoreError();
      touched.clear();
      acknowledged = 0;
      trimmed = Mono();
    }
  }
}

void Engine::Impl::StoreBatch(std::vector<Finished>& batch) {
  using How = Finished::How;
  std::vector<Handout> handouts;
  std::vector<int64_t> freed;
  std::vector<InHandPtr> leaving;
  std::vector<Finished> own_transaction, plain, keyed, back, elsewhere, crashed, lost;
  for (auto& f : batch) {
    if (f.how == How::kReturned) {
      back.push_back(f);
    } else if (f.how == How::kElsewhere) {
      elsewhere.push_back(f);
    } else if (f.how == How::kLost) {
      lost.push_back(f);
    } else if (f.how == How::kLeft) {
      if (!f.job->marked) leaving.push_back(f.job);
      left = true;
    } else if (f.how == How::kSuspect || f.how == How::kCrashed) {
      crashed.push_back(f);
    } else if (f.job->finished_in) {
      own_transaction.push_back(f);
    } else {
      (f.job->key.has_value() ? keyed : plain).push_back(f);
    }
  }
  bool stored = true;
  if (!own_transaction.empty()) stored &= Verify(own_transaction, plain, keyed, handouts, freed);
  if (!plain.empty()) stored &= StoreOutcomes(plain, freed, handouts);
  if (!keyed.empty()) stored &= StoreOutcomes(keyed, freed, handouts);
  for (auto* list : {&crashed, &lost, &back, &elsewhere}) WaitBehind(*list);
  if (!crashed.empty()) stored &= StoreCrashes(crashed, freed, handouts);
  if (!lost.empty()) stored &= StoreLost(lost, freed, handouts);
  if (!back.empty()) stored &= GiveBack(back, redis_down ? kStateReady : kStatePublished, handouts);
  if (!elsewhere.empty()) stored &= GiveBack(elsewhere, kStateScheduled, handouts);
  if (!leaving.empty()) stored &= Mark(leaving);
  if (!freed.empty()) {
    // A job of the key may have been committed meanwhile and have met the old slot: look again, in a later statement.
    PgArray keys;
    for (const int64_t key : freed) keys.Add(absl::StrCat(key));
    const std::string array = std::move(keys).Finish();
    const absl::Status status =
        pool.Autocommit(absl::Now() + absl::Seconds(5), [&](pqxx::transaction_base& tx) -> absl::Status {
          for (const auto& row : Run(tx, sql::kPromoteKeys, array)) handouts.push_back(ReadHandout(row));
          return absl::OkStatus();
        });
    if (!status.ok())
      log::Warn("keys not looked at again, the sweeper will", {{"error", std::string(status.message())}});
  }
  std::erase_if(batch, [this](const Finished& f) {
    return std::ranges::any_of(aside, [&](const auto& waiting) { return waiting.second.job == f.job; });
  });
  std::vector<std::pair<std::string, std::string>> entries;
  if (stored) {
    for (const auto& f : batch) {
      if (!f.job->entry_id.empty() && !f.job->marked) entries.emplace_back(f.job->stream, f.job->entry_id);
    }
  }
  Acknowledge(entries, handouts, /*remove=*/false);
  absl::MutexLock lock(&mu);
  for (const auto& f : batch) in_hand.erase({f.job->id, f.job->fence});
  metrics.in_hand.Set(static_cast<double>(in_hand.size()));
}

// Runs `body` until PostgreSQL has taken it, without those whose rows somebody else holds. False: it cannot (or the
// process is ending): nothing may be acknowledged.
bool Engine::Impl::Persist(std::vector<Finished>& batch, bool transaction,
                           absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body, absl::Status* refused) {
  absl::Duration wait = absl::Milliseconds(50);
  while (true) {
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    const absl::Status status = transaction ? pool.Transaction(deadline, body) : pool.Autocommit(deadline, body);
    if (status.ok()) return true;
    if (!MayRecover(status)) {
      *refused = status;
      return false;
    }
    if (const size_t before = batch.size(); postgres::IsLockTimeout(status)) {
      SetAside(batch);
      if (batch.size() < before) continue;
    }
    log::Warn("results wait for PostgreSQL",
              {{"jobs", static_cast<int64_t>(batch.size())}, {"error", std::string(status.message())}});
    absl::MutexLock lock(&mu);
    if (mu.AwaitWithTimeout(absl::Condition(&give_up), wait)) {
      *refused = status;
      return false;
    }
    wait = std::min(wait * 2, absl::Seconds(1));
  }
}

// A transaction that stays open on a job's row (a handler cut off before its commit, somebody at a console) holds this
// job up, and not those beside it. What follows in its run waits with it.
void Engine::Impl::SetAside(std::vector<Finished>& batch) {
  BinaryArray ids(BinaryArray::kUuid);
  for (const Finished& f : batch) ids.Add(f.job->id);
  const auto locked = LockedByOthers(pool, std::move(ids));
  if (!locked.ok() || locked->empty()) return;
  absl::flat_hash_map<const KeyRun*, size_t> from;  // the first member of a run that waits
  for (const Finished& f : batch) {
    if (f.job->run == nullptr || !locked->contains(f.job->id)) continue;
    const auto [first, fresh] = from.try_emplace(f.job->run.get(), f.job->turn);
    if (!fresh) first->second = std::min(first->second, f.job->turn);
  }
  const absl::Time again = Mono() + kAside;
  const size_t before = aside.size();
  std::erase_if(batch, [&](Finished& f) {
    const auto first = from.find(f.job->run.get());
    if (!locked->contains(f.job->id) && (first == from.end() || f.job->turn < first->second)) return false;
    aside.emplace_back(again, std::move(f));
    return true;
  });
  log::Warn("results wait for a row that another transaction holds",
            {{"jobs", static_cast<int64_t>(aside.size() - before)}, {"job", FormatId("job", *locked->begin())}});
}

// Nothing of a run is stored while what ran before it stands aside: that may yet be handed out anew, with all behind
// it.
void Engine::Impl::WaitBehind(std::vector<Finished>& batch) {
  absl::flat_hash_map<const KeyRun*, absl::Time> runs;
  for (const auto& [again, f] : aside) {
    if (f.job->run != nullptr) runs.try_emplace(f.job->run.get(), again);
  }
  if (runs.empty()) return;
  std::erase_if(batch, [&](Finished& f) {
    const auto run = runs.find(f.job->run.get());
    if (run == runs.end()) return false;
    aside.emplace_back(run->second, std::move(f));
    return true;
  });
}

// Whose turn it is once these are stored, in the runs that go on here.
std::vector<std::pair<Uuid, int64_t>> Engine::Impl::Turns(const std::vector<Finished>& batch) {
  absl::flat_hash_map<KeyRun*, size_t> done;  // members stored
  for (const Finished& f : batch) {
    if (f.job->run != nullptr && f.outcome.kind == Outcome::Kind::kDone) {
      size_t& count = done[f.job->run.get()];
      count = std::max(count, f.job->turn + 1);
    }
  }
  std::vector<std::pair<Uuid, int64_t>> turns;
  absl::MutexLock lock(&mu);
  for (const auto& [run, count] : done) {
    if (count < run->length) turns.push_back(run->jobs[count]);
  }
  return turns;
}

// A statement that PostgreSQL refuses for what it carries is cut in two until the culprit is alone.
bool Engine::Impl::StoreOutcomes(std::vector<Finished>& batch, std::vector<int64_t>& freed,
                                 std::vector<Handout>& handouts) {
  int64_t matched = 0;
  std::vector<int64_t> keys;
  std::vector<Handout> next;
  std::vector<Uuid> again;
  absl::Status refused;
  const bool ok = Persist(
      batch, /*transaction=*/true,  // keys and flows move on together with it
      [&](pqxx::transaction_base& tx) -> absl::Status {
        CompleteArrays complete;
        RetryArrays retry;
        const int64_t now = MonoMicros();
        for (const Finished& f : batch) {
          const int64_t began = f.job->Started(), ran = f.job->ran_us;
          Sort(*f.job, f.outcome, began == 0 ? -1 : static_cast<double>(ran != 0 ? ran : now - began) / 1e6, complete,
               retry);
        }
        keys.clear();
        next.clear();
        again.clear();
        matched = 0;
        if (complete.size > 0)
          matched += Complete(tx, std::move(complete), &id, options.name, &keys, &next, Turns(batch));
        if (retry.size > 0) matched += Retry(tx, std::move(retry), options.name, &again);
        return absl::OkStatus();
      },
      &refused);
  if (ok) {
    freed.insert(freed.end(), keys.begin(), keys.end());
    GoOn(next);
    handouts.insert(handouts.end(), std::make_move_iterator(next.begin()), std::make_move_iterator(next.end()));
    const int64_t lost = static_cast<int64_t>(batch.size()) - matched;
    fenced += lost;
    metrics.fenced.Increment(static_cast<double>(lost));
    for (const Finished& f : batch) Count(f);
    TellStored(batch, lost == 0, again);
    return true;
  }
  if (absl::IsCancelled(refused) || MayRecover(refused)) return false;
  if (batch.size() > 1) {
    const auto middle = batch.begin() + static_cast<std::ptrdiff_t>(batch.size() / 2);
    std::vector<Finished> half(std::make_move_iterator(middle), std::make_move_iterator(batch.end()));
    batch.erase(middle, batch.end());
    const bool first = StoreOutcomes(batch, freed, handouts);
    return StoreOutcomes(half, freed, handouts) && first;
  }
  log::Error("a result was refused by the database", {{"job", FormatId("job", batch[0].job->id)},
                                                      {"kind", batch[0].job->kind},
                                                      {"error", std::string(refused.message())}});
  if (batch[0].outcome.code == "result_refused") return false;
  batch[0].outcome = Outcome::Retry("result_refused", "the database refused the job's result");
  return StoreOutcomes(batch, freed, handouts);
}

void Engine::Impl::TellStored(const std::vector<Finished>& batch, bool all, const std::vector<Uuid>& retried_ids) {
  std::map<size_t, std::vector<std::pair<InHandPtr, bool>>> by_runner;
  FencedIds unknown;
  for (const Finished& f : batch) {
    const auto runner = static_cast<size_t>(f.job->runner);
    if (!runners[runner]->outlives()) continue;
    const bool stored = all || std::ranges::find(retried_ids, f.job->id) != retried_ids.end();
    by_runner[runner].emplace_back(f.job, stored);
    if (!stored) unknown.Add(*f.job);
  }
  if (by_runner.empty()) return;
  if (unknown.ids.size() > 0) {
    // Some of the batch had lost their fence: those that have not are in history under it. When this cannot be read, a
    // runner hears of one too few, not of one too many.
    absl::flat_hash_set<Uuid> found;
    const auto ids = unknown.ids.Finish(), fences = unknown.fences.Finish();
    pool.Autocommit(absl::Now() + absl::Seconds(5),
                    [&](pqxx::transaction_base& tx) -> absl::Status {
                      found.clear();
                      for (const auto& row : Run(tx, sql::kFinishedUnder, ids, fences)) {
                        ASSIGN_OR_RETURN(const Uuid job, ParseUuid(row[0].c_str()));
                        found.insert(job);
                      }
                      return absl::OkStatus();
                    })
        .IgnoreError();
    for (auto& [runner, jobs] : by_runner) {
      for (auto& [job, stored] : jobs) stored = stored || found.contains(job->id);
    }
  }
  for (const auto& [runner, jobs] : by_runner) runners[runner]->Stored(jobs);
}

// Jobs whose worker at the end of a stream fell silent: as the reclaimer does it with a whole worker of the suite. One
// that was alone there pays; the others are suspects.
bool Engine::Impl::StoreLost(std::vector<Finished>& batch, std::vector<int64_t>& freed,
                             std::vector<Handout>& handouts) {
  std::vector<int64_t> keys;
  std::vector<Handout> next;
  absl::Status refused;
  const bool ok = Persist(
      batch, /*transaction=*/true,
      [&](pqxx::transaction_base& tx) -> absl::Status {
        keys.clear();
        next.clear();
        FencedIds ids;
        BinaryArray crashes(BinaryArray::kInt2), suspicions(BinaryArray::kInt2);
        std::map<Uuid, const Finished*> of;
        for (const Finished& f : batch) {
          of[f.job->id] = &f;
          ids.Add(*f.job);
          crashes.AddInt2(f.alone ? 1 : 0);
          suspicions.AddInt2(f.alone ? 0 : 1);
        }
        CompleteArrays complete;
        for (const auto& row :
             Reissue(tx, std::move(ids), kStatePublished, std::move(crashes), std::move(suspicions))) {
          Entry entry;
          Handout handout = ReadHandout(row, &entry);
          if (row[8].as<int>() >= row[9].as<int>()) {
            complete.Add(
                entry.id, entry.fence, kStateDead, nullptr, "crashed",
                absl::StrCat("its worker was lost while it ran, as often as max_crashes allows; the last time ",
                             CleanText(of.at(entry.id)->outcome.message, 500)),
                0, 0);
          } else if (row[7].as<int>() == kStatePublished || row[7].as<int>() == kStateBlocked) {
            next.push_back(std::move(handout));
          }
        }
        if (complete.size > 0) Complete(tx, std::move(complete), &id, options.name, &keys, &next);
        return absl::OkStatus();
      },
      &refused);
  if (!ok) return false;
  for (const Finished& f : batch) {
    metrics.crashed.Increment();
    log::Warn("job's worker was lost", {{"job", FormatId("job", f.job->id)},
                                        {"kind", f.job->kind},
                                        {"alone", f.alone},
                                        {"evidence", f.outcome.message}});
  }
  freed.insert(freed.end(), keys.begin(), keys.end());
  handouts.insert(handouts.end(), std::make_move_iterator(next.begin()), std::make_move_iterator(next.end()));
  return true;
}

// Jobs whose process died. One that ran alone pays; those that have used up their crashes are dead.
bool Engine::Impl::StoreCrashes(std::vector<Finished>& batch, std::vector<int64_t>& freed,
                                std::vector<Handout>& handouts) {
  std::vector<int64_t> keys;
  std::vector<Handout> next;
  absl::Status refused;
  const bool ok = Persist(
      batch, /*transaction=*/true,
      [&](pqxx::transaction_base& tx) -> absl::Status {
        keys.clear();
        next.clear();
        FencedIds ids;
        BinaryArray delays(BinaryArray::kFloat8);
        RareArray evidence(BinaryArray::kText);
        std::map<Uuid, const Finished*> of;
        for (const Finished& f : batch) {
          of[f.job->id] = &f;
          ids.Add(*f.job);
          delays.AddFloat8(absl::ToDoubleSeconds(
              RetryDelay(f.job->backoff, f.job->crashes + 1, [] { return 0.75; })));  // jitter is for many at once
          f.how == Finished::How::kCrashed ? evidence.Add(CleanText(f.outcome.message, 500)) : evidence.AddNull();
        }
        CompleteArrays complete;
        const pqxx::result rows = Run(tx, sql::kCrash, ids.ids.Finish(), ids.fences.Finish(), delays.Finish(),
                                      evidence.Finish(), options.name);
        CutRuns(tx, rows, 10);
        for (const auto& row : rows) {
          Entry entry;
          Handout handout = ReadHandout(row, &entry);
          if (row[8].as<int>() >= row[9].as<int>()) {
            complete.Add(entry.id, entry.fence, kStateDead, nullptr, "crashed",
                         absl::StrCat("it took its process down ", row[8].as<int>(), " times; the last time ",
                                      CleanText(of.at(entry.id)->outcome.message, 500)),
                         0, 0);
          } else if (row[7].as<int>() == kStatePublished || row[7].as<int>() == kStateBlocked) {
            next.push_back(std::move(handout));
          }
        }
        if (complete.size > 0) Complete(tx, std::move(complete), &id, options.name, &keys, &next);
        return absl::OkStatus();
      },
      &refused);
  if (!ok) return false;
  for (const Finished& f : batch) {
    metrics.crashed.Increment();
    log::Warn(f.how == Finished::How::kCrashed ? "job took its process down" : "job's process died under several jobs",
              {{"job", FormatId("job", f.job->id)},
               {"kind", f.job->kind},
               {"crashes", f.job->crashes + (f.how == Finished::How::kCrashed ? 1 : 0)},
               {"evidence", f.outcome.message}});
  }
  freed.insert(freed.end(), keys.begin(), keys.end());
  handouts.insert(handouts.end(), std::make_move_iterator(next.begin()), std::make_move_iterator(next.end()));
  return true;
}

void Engine::Impl::Count(const Finished& f) {
  const Outcome& o = f.outcome;
  const bool last =
      o.kind == Outcome::Kind::kDead || (o.kind == Outcome::Kind::kRetry && f.job->attempt + 1 >= f.job->max_attempts);
  if (const int64_t began = f.job->Started(); began != 0) {
    const int64_t ran_us = f.job->ran_us;
    const absl::Duration ran = ran_us != 0 ? absl::Microseconds(ran_us) : Mono() - absl::FromUnixMicros(began);
    metrics.run.Observe(absl::ToDoubleSeconds(ran));
    figures.Add(f.job->queue, f.job->kind,
                o.kind == Outcome::Kind::kDone      ? RunOutcome::kSucceeded
                : o.kind == Outcome::Kind::kDiscard ? RunOutcome::kDiscarded
                : o.kind == Outcome::Kind::kSnooze  ? RunOutcome::kSnoozed
                : last                              ? RunOutcome::kDead
                                                    : RunOutcome::kFailed,
                f.job->waited + (absl::FromUnixMicros(began) - f.job->taken), ran);
  }
  if (o.kind == Outcome::Kind::kDone) {
    ++succeeded;
    metrics.succeeded.Increment();
  } else if (o.kind == Outcome::Kind::kDiscard) {
    metrics.discarded.Increment();
  } else if (o.kind == Outcome::Kind::kSnooze) {
    metrics.snoozed.Increment();
  } else {
    ++(last ? dead : retried);
    (last ? metrics.dead : metrics.retried).Increment();
    log::Write(last ? log::Level::kWarn : log::Level::kInfo, last ? "job is dead" : "job failed, will be tried again",
               {{"job", FormatId("job", f.job->id)},
                {"kind", f.job->kind},
                {"attempt", f.job->attempt + 1},
                {"code", o.code},
                {"error", CleanText(o.message, 500)},
                {"request_id", f.job->request_id}});
  }
}

// Jobs that were finished in the handler's own transaction: gone, if it committed. Still there under our fence: it did
// not, whatever the handler thinks.
bool Engine::Impl::Verify(std::vector<Finished>& batch, std::vector<Finished>& plain, std::vector<Finished>& keyed,
                          std::vector<Handout>& handouts, std::vector<int64_t>& freed) {
  absl::flat_hash_set<Uuid> still;
  absl::Status refused;
  if (!Persist(
          batch, false,
          [&](pqxx::transaction_base& tx) -> absl::Status {
            FencedIds ids;
            for (const auto& f : batch) ids.Add(*f.job);
            still.clear();
            for (const auto& row : Run(tx, sql::kHeld, ids.ids.Finish(), ids.fences.Finish())) {
              ASSIGN_OR_RETURN(const Uuid job, ParseUuid(row[0].c_str()));
              still.insert(job);
            }
            return absl::OkStatus();
          },
          &refused)) {
    return false;
  }
  for (auto& f : batch) {
    if (still.contains(f.job->id)) {
      if (f.outcome.kind == Outcome::Kind::kDone || f.outcome.kind == Outcome::Kind::kDiscard) {
        f.outcome = Outcome::Retry("not_committed",
                                   "the handler's transaction that should have finished the job was not committed");
      }
      (f.job->key.has_value() ? keyed : plain).push_back(f);
      continue;
    }
    Count(f);
    absl::MutexLock lock(&f.job->mu);
    handouts.insert(handouts.end(), f.job->successors.begin(), f.job->successors.end());
    if (f.job->key.has_value()) freed.push_back(*f.job->key);
  }
  return true;
}

bool Engine::Impl::GiveBack(std::vector<Finished>& batch, int target, std::vector<Handout>& handouts) {
  std::vector<Handout> next;
  absl::Status refused;
  if (!Persist(
          batch, /*transaction=*/true,
          [&](pqxx::transaction_base& tx) -> absl::Status {
            FencedIds ids;
            for (const auto& f : batch) ids.Add(*f.job);
            next.clear();
            for (const auto& row : Reissue(tx, std::move(ids), target)) {
              if (row[7].as<int>() == kStatePublished || row[7].as<int>() == kStateBlocked)
                next.push_back(ReadHandout(row));
            }
            return absl::OkStatus();
          },
          &refused)) {
    return false;
  }
  reissued += static_cast<int64_t>(batch.size());
  metrics.returned.Increment(static_cast<double>(batch.size()));
  handouts.insert(handouts.end(), std::make_move_iterator(next.begin()), std::make_move_iterator(next.end()));
  return true;
}

// At the end of a long stream a key would move once per walk through it. While the reader waits in Redis there is
// nothing in the streams to wait behind.
void Engine::Impl::GoOn(std::vector<Handout>& successors) {
  if (successors.empty() || redis_down || redis_full) return;
  const absl::Time now = Mono();
  absl::MutexLock lock(&mu);
  if (in_redis || stop_reading) return;
  std::erase_if(successors, [&](Handout& next) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    if (going_on_size >= static_cast<size_t>(options.max_in_hand) / 2 || !all_streams.contains(next.stream))
      return false;
    going_on[next.stream].emplace_back(now, std::move(next.entry));
    ++going_on_size;
    return true;
  });
}

void Engine::Impl::GiveUpGoingOn(absl::Duration after) {
  std::vector<Handout> handouts;
  {
    absl::MutexLock lock(&mu);
    const absl::Time until = Mono() - after;
    for (auto& [stream, entries] : going_on) {
      for (; !entries.empty() && entries.front().first <= until; entries.pop_front()) {
        handouts.push_back({stream, std::move(entries.front().second)});
        --going_on_size;
      }
    }
  }
  if (!handouts.empty()) Acknowledge({}, handouts);
}

// XADD of what follows, XACK of what is stored, in one round trip. Redis away: entries stay pending, their rows say
// that they are done.
void Engine::Impl::Acknowledge(const std::vector<std::pair<std::string, std::string>>& entries,
                               const std::vector<Handout>& handouts, bool remove) {
  std::map<std::string, std::vector<std::string>> by_stream;
  for (const auto& [stream, entry] : entries) {
    if (!entry.empty()) by_stream[stream].push_back(entry);
  }
  std::vector<redis::Command> commands;
  for (const auto& h : handouts) commands.push_back({"XADD", h.stream, "*", kEntryField, h.entry});
  for (auto& [stream, list] : by_stream) {
    redis::Command ack = {"XACK", stream, kGroup};
    ack.insert(ack.end(), list.begin(), list.end());
    commands.push_back(std::move(ack));
    if (!remove) continue;
    redis::Command del = {"XDEL", stream};
    del.insert(del.end(), list.begin(), list.end());
    commands.push_back(std::move(del));
  }
  if (!commands.empty()) redis.Pipeline(commands).status().IgnoreError();
}

}  // namespace mainstay::jobs
