// SPDX-License-Identifier: Apache-2.0
// From the streams to what waits for a runner: a read says what may run, one statement per read says what does.
//
// Entries of finished, cancelled and fenced jobs end here, before any handler. PostgreSQL away: what was read waits,
// kept alive by the heartbeat. Redis away or full: jobs are claimed from PostgreSQL, under a raised fence.
#include <algorithm>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "libs/base/status.h"
#include "libs/base/strings.h"
#include "libs/base/text.h"
#include "libs/jobs/engine_impl.h"
#include "libs/jobs/sealer.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"

namespace mainstay::jobs {
namespace {

constexpr absl::Duration kBlock = absl::Milliseconds(250);
// While a lane is left alone because its runner has no credit, which may come at any moment.
constexpr absl::Duration kBlockBriefly = absl::Milliseconds(10);
constexpr int kRecoverBatch = 1000;
// Jobs that wait here for workers elsewhere, which may be busy for hours: those behind them in a stream must not wait.
constexpr size_t kMaxWaitingForOthers = 200;
// Jobs that follow the holders of their keys, per read.
constexpr size_t kMaxTakenAlong = 2000;
// What is to go on here and has not for so long goes to its stream, where other workers may take it; sooner when this
// one is busy.
constexpr absl::Duration kGoesOnFor = absl::Seconds(1), kGoesOnBusyFor = absl::Milliseconds(100);

redis::Command ReadGroup(const std::string& consumer, int count, const std::vector<std::string>& names,
                         const std::string& from, std::optional<absl::Duration> block = std::nullopt) {
  redis::Command command = {"XREADGROUP", "GROUP", kGroup, consumer, "COUNT", absl::StrCat(count)};
  if (block.has_value()) {
    command.push_back("BLOCK");
    command.push_back(absl::StrCat(absl::ToInt64Milliseconds(*block)));
  }
  command.push_back("STREAMS");
  command.insert(command.end(), names.begin(), names.end());
  command.insert(command.end(), names.size(), from);
  return command;
}

InHandPtr Taken(Entry entry, std::string stream, std::string entry_id) {
  auto job = std::make_shared<InHand>();
  job->id = entry.id;
  job->fence = entry.fence;
  job->stream = std::move(stream);
  job->entry_id = std::move(entry_id);
  job->taken = Mono();
  if (entry.args.has_value()) job->args = *std::move(entry.args);
  return job;
}

}  // namespace

// Sleeps, but not past the end of reading.
void Engine::Impl::Pause(absl::Duration duration) {
  absl::MutexLock lock(&mu);
  mu.AwaitWithTimeout(absl::Condition(&stop_reading), duration);
}

absl::Status Engine::Impl::RefreshStreams() {
  if (RefreshRoutes()) RETURN_IF_ERROR(RenewLease(false));  // announced before it may be given any
  std::vector<StreamOf> found;
  std::vector<Shares::Stream> weighted;
  RETURN_IF_ERROR(pool.Autocommit(absl::Now() + absl::Seconds(5), [&](pqxx::transaction_base& tx) -> absl::Status {
    found.clear();
    weighted.clear();
    for (const auto& row : Run(tx, sql::kStreams)) {
      if (!options.takes.empty() && std::ranges::find(options.takes, row[0].c_str()) == options.takes.end()) continue;
      StreamOf stream{.key = StreamKey(row[0].c_str(), row[1].as<int>(), row[3].c_str()),
                      .queue = row[0].c_str(),
                      .lane = row[3].c_str(),
                      .priority = row[1].as<int>()};
      absl::MutexLock lock(&mu);
      if (!stream.lane.empty() && RunnerOf(stream.lane) < 0) continue;
      all_streams.insert(stream.key);
      if (row[2].as<bool>()) continue;
      const bool shared = row[5].as<bool>();
      weighted.push_back({.key = stream.key,
                          .priority = shared ? row[6].as<int>() : stream.priority,
                          .weight = row[4].as<int>(),
                          .queue = stream.queue,
                          .part = shared ? 10 - stream.priority : 1,
                          .ages = !shared});
      found.push_back(std::move(stream));
    }
    return absl::OkStatus();
  }));
  streams = std::move(found);
  shares.Set(weighted);
  return absl::OkStatus();
}

void Engine::Impl::ReaderLoop() {
  absl::Time refreshed = absl::InfinitePast();
  bool recover = true;  // own pending entries that a lost reply delivered, looked at after every reconnect
  absl::Duration trouble = absl::Milliseconds(50);
  while (true) {
    if (Mono() - refreshed > absl::Seconds(1)) {
      if (RefreshStreams().ok()) refreshed = Mono();
    }
    int credit;
    {
      absl::MutexLock lock(&mu);
      UpdateRate();
      auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return stop_reading || Credit() > 0; };
      mu.AwaitWithTimeout(absl::Condition(&ready), absl::Milliseconds(50));
      if (stop_reading) return;
      credit = std::min(Credit(), options.read_batch);
    }
    GiveUpGoingOn(credit > 0 ? kGoesOnFor : kGoesOnBusyFor);
    if (credit <= 0) continue;
    if (streams.empty()) {
      Pause(absl::Milliseconds(100));
      continue;
    }
    if (redis_full) {  // the streams give what they hold, but nothing is added
      const absl::StatusOr<int> taken = Claim(credit);
      if (taken.ok() && *taken > 0) continue;
    }
    absl::Status read = recover ? Recover() : absl::OkStatus();
    if (read.ok()) read = Read(credit);
    if (read.ok()) {
      recover = false;
      trouble = absl::Milliseconds(50);
      if (redis_down.exchange(false)) log::Info("Redis is back: jobs are read from the streams again");
      continue;
    }
    recover = true;
    GiveUpGoingOn();  // what Redis does not take is the sweeper's
    if (!redis_down.exchange(true)) {
      log::Warn("Redis is away: jobs are claimed from PostgreSQL", {{"error", std::string(read.message())}});
      mark_all = true;  // what is in hand must not look stale to others that claim
    }
    const absl::StatusOr<int> taken = Claim(credit);
    if (!taken.ok() || *taken == 0) {
      Pause(trouble);
      trouble = std::min(trouble * 2, absl::Milliseconds(500));
    } else {
      trouble = absl::Milliseconds(50);
    }
  }
}

int Engine::Impl::CreditFor(const std::string& lane) {
  int runner;
  {
    absl::MutexLock lock(&mu);
    runner = RunnerOf(lane);
    if (runner < 0) return 0;
  }
  return runners[static_cast<size_t>(runner)]->CreditFor(lane);
}

// Each stream is asked for its share first; only when all are empty the read blocks, on all of them.
absl::Status Engine::Impl::Read(int credit) {
  std::vector<redis::Command> commands;
  std::vector<Shares::Ask> asks = shares.Next(credit);
  absl::flat_hash_map<std::string, int> lanes;  // what their runners would take
  for (const StreamOf& stream : streams) {
    if (!stream.lane.empty()) lanes.emplace(stream.key, CreditFor(stream.lane));
  }
  std::erase_if(asks, [&](Shares::Ask& ask) {
    if (const auto lane = lanes.find(ask.key); lane != lanes.end()) ask.count = std::min(ask.count, lane->second);
    return ask.count <= 0;
  });
  // Keys that go on here get up to half of what a stream is asked for: those behind them there move as well.
  odd ^= 1;
  std::vector<int> on(asks.size(), 0);
  {
    absl::MutexLock lock(&mu);
    for (size_t i = 0; i < asks.size(); ++i) {
      if (const auto waiting_here = going_on.find(asks[i].key); waiting_here != going_on.end())
        on[i] = std::min((asks[i].count + odd) / 2, static_cast<int>(waiting_here->second.size()));
    }
  }
  for (size_t i = 0; i < asks.size(); ++i) {
    if (on[i] < asks[i].count) commands.push_back(ReadGroup(consumer, asks[i].count - on[i], {asks[i].key}, ">"));
  }
  std::vector<InHandPtr> batch;
  std::vector<bool> has_args;
  std::vector<redis::Reply> replies;
  if (!commands.empty()) {
    ASSIGN_OR_RETURN(replies, reader_redis.Pipeline(commands));
  }
  for (size_t i = 0, reply = 0; i < asks.size(); ++i) {
    std::map<std::string, int> got;
    if (on[i] < asks[i].count) RETURN_IF_ERROR(Entries(replies[reply++], &got, batch, has_args));
    TakeOn(asks[i].key, on[i], batch, has_args);
    shares.Took(asks[i].key, asks[i].count, got[asks[i].key] + on[i]);
  }
  if (batch.empty()) {
    {
      absl::MutexLock lock(&mu);
      if (going_on_size > 0) return absl::OkStatus();
      in_redis = true;
    }
    const absl::Cleanup awake = [this] {
      absl::MutexLock lock(&mu);
      in_redis = false;
    };
    std::vector<std::string> names;
    for (const StreamOf& stream : streams) {
      const auto lane = lanes.find(stream.key);
      if (lane != lanes.end()) credit = std::min(credit, std::max(1, lane->second));
      if (lane == lanes.end() || lane->second > 0) names.push_back(stream.key);
    }
    const absl::Duration block = names.size() == streams.size() ? kBlock : kBlockBriefly;
    if (names.empty()) {
      Pause(block);
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const redis::Reply reply,
                     reader_redis.Blocking(ReadGroup(consumer, credit, names, ">", block), block));
    std::map<std::string, int> got;
    RETURN_IF_ERROR(Entries(reply, &got, batch, has_args));
    for (const auto& [key, count] : got) shares.Took(key, count, count);
  }
  if (!batch.empty()) Check(batch, has_args);
  return absl::OkStatus();
}

void Engine::Impl::TakeOn(const std::string& stream, int count, std::vector<InHandPtr>& batch,
                          std::vector<bool>& has_args) {
  if (count == 0) return;
  absl::MutexLock lock(&mu);
  auto& entries = going_on[stream];
  for (; count > 0 && !entries.empty(); --count) {
    if (auto entry = DecodeEntry(entries.front().second); entry.has_value()) {
      has_args.push_back(entry->args.has_value());
      batch.push_back(Taken(*std::move(entry), stream, ""));
    }
    entries.pop_front();
    --going_on_size;
  }
}

absl::Status Engine::Impl::Recover() {
  std::vector<std::string> names;
  for (const StreamOf& stream : streams) names.push_back(stream.key);
  ASSIGN_OR_RETURN(const redis::Reply reply, reader_redis.Execute(ReadGroup(consumer, kRecoverBatch, names, "0")));
  std::vector<InHandPtr> all, batch;
  std::vector<bool> all_args, has_args;
  RETURN_IF_ERROR(Entries(reply, nullptr, all, all_args));
  absl::flat_hash_set<std::string> known;
  {
    absl::MutexLock lock(&mu);
    for (const auto& [key, job] : in_hand) known.insert(job->stream + job->entry_id);
  }
  for (size_t i = 0; i < all.size(); ++i) {
    if (known.contains(all[i]->stream + all[i]->entry_id)) continue;
    batch.push_back(std::move(all[i]));
    has_args.push_back(all_args[i]);
  }
  if (!batch.empty()) Check(batch, has_args);
  return absl::OkStatus();
}

absl::Status Engine::Impl::Entries(const redis::Reply& reply, std::map<std::string, int>* got,
                                   std::vector<InHandPtr>& batch, std::vector<bool>& has_args) {
  if (!reply.ok()) {
    if (reply.text.rfind("NOGROUP", 0) != 0) return absl::UnavailableError(reply.text);
    mark_all = true;
    std::vector<std::string> names;
    for (const StreamOf& stream : streams) names.push_back(stream.key);
    return CreateGroups(reader_redis, names);
  }
  std::vector<std::pair<std::string, std::string>> junk;
  for (const auto& stream : reply.elements) {
    const std::string& key = stream.elements[0].text;
    if (got != nullptr) (*got)[key] += static_cast<int>(stream.elements[1].elements.size());
    for (const auto& item : stream.elements[1].elements) {
      std::optional<Entry> entry;
      const auto& fields = item.elements[1].elements;  // nil for a pending entry that was deleted
      for (size_t i = 0; i + 1 < fields.size(); i += 2) {
        if (fields[i].text == kEntryField) entry = DecodeEntry(fields[i + 1].text);
      }
      if (!entry.has_value()) {
        junk.emplace_back(key, item.elements[0].text);
        continue;
      }
      has_args.push_back(entry->args.has_value());
      batch.push_back(Taken(*std::move(entry), key, item.elements[0].text));
    }
  }
  if (!junk.empty()) Acknowledge(junk, {});
  return absl::OkStatus();
}

// The columns that kCheck, kTakeRuns and kClaim share, from the one with this number on.
Engine::Impl::Verdict Engine::Impl::Fill(const pqxx::row& columns, InHand& job, int first) {
  const pqxx::row row = first == 0 ? columns : columns.slice(static_cast<pqxx::row_size_type>(first), columns.size());
  job.attempt = row[2].as<int>();
  job.kind = row[3].c_str();
  job.queue = row[4].c_str();
  job.priority = row[5].as<int>();
  job.tenant = row[6].c_str();
  job.principal = row[7].c_str();
  job.max_attempts = row[8].as<int>();
  if (!row[9].is_null()) job.key = row[9].as<int64_t>();
  if (!row[10].is_null()) job.traceparent = row[10].c_str();
  if (!row[11].is_null()) job.request_id = row[11].c_str();
  if (!row[12].is_null()) job.checkpoint = row[12].c_str();
  if (!row[13].is_null()) job.args = row[13].c_str();
  job.waited = absl::Seconds(row[16].as<double>());
  JobOptions own;
  if (!row[17].is_null()) {
    if (auto parsed = ParseJobOptions(row[17].c_str()); parsed.ok()) own = *std::move(parsed);
  }
  if (!row[18].is_null()) job.sealed = row[18].c_str();
  job.version = row[19].as<int>();
  job.crashes = row[20].as<int>();
  job.max_crashes = row[21].as<int>();
  job.suspect = row[22].as<int>() > 0;
  const QueuePolicy policy = PolicyOf(job.queue);
  job.backoff = own.Over(policy.backoff);
  job.soft_limit = own.soft_limit.value_or(policy.soft_limit);
  // A job that may take longer than its queue's hard limit said so by its soft limit.
  job.hard_limit = std::max(own.hard_limit.value_or(policy.hard_limit), own.soft_limit.value_or(absl::ZeroDuration()));
  if (!row[14].is_null() && row[14].as<bool>()) return Verdict::kLate;
  if (row[15].as<bool>()) return Verdict::kElsewhere;
  absl::MutexLock lock(&mu);
  const int runner = RunnerOf(Route(job.kind, job.version));
  job.runner = std::max(0, runner);
  return runner < 0 ? Verdict::kElsewhere : Verdict::kRun;
}

void Engine::Impl::Check(std::vector<InHandPtr>& batch, const std::vector<bool>& has_args) {
  {
    absl::MutexLock lock(&mu);
    checking = batch;
  }
  FencedIds ids;
  BinaryArray want(BinaryArray::kBool);
  absl::flat_hash_map<std::pair<Uuid, int64_t>, InHandPtr> wanted;  // an entry that is there twice counts once
  wanted.reserve(batch.size());
  for (size_t i = 0; i < batch.size(); ++i) {
    ids.Add(*batch[i]);
    want.AddBool(!has_args[i]);
    wanted.try_emplace({batch[i]->id, batch[i]->fence}, batch[i]);
  }
  const auto id_array = ids.ids.Finish(), fence_array = ids.fences.Finish(), want_array = want.Finish();
  absl::flat_hash_map<const InHand*, Verdict> verdicts;
  absl::Duration wait = absl::Milliseconds(50);
  while (true) {
    verdicts.clear();
    const absl::Status status =
        pool.Autocommit(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
          for (const auto& row : Run(tx, sql::kCheck, id_array, fence_array, want_array)) {
            ASSIGN_OR_RETURN(const Uuid job_id, ParseUuid(row[0].c_str()));
            const auto it = wanted.find({job_id, row[1].as<int64_t>()});
            if (it == wanted.end()) continue;
            verdicts[it->second.get()] = Fill(row, *it->second);
            it->second->followers = row[23].as<int>();
          }
          return absl::OkStatus();
        });
    if (status.ok()) break;
    log::Warn("jobs wait for their start check",
              {{"jobs", static_cast<int64_t>(batch.size())}, {"error", std::string(status.message())}});
    Pause(wait);
    wait = std::min(wait * 2, absl::Seconds(1));
    absl::MutexLock lock(&mu);
    if (stop_reading) {  // they stay pending and are reclaimed
      checking.clear();
      return;
    }
  }
  std::vector<std::pair<std::string, std::string>> gone;
  std::vector<InHandPtr> elsewhere, here;
  std::vector<Verdict> how;
  {
    absl::MutexLock lock(&mu);
    for (auto& job : batch) {
      const auto it = verdicts.find(job.get());
      if (it == verdicts.end() || in_hand.contains({job->id, job->fence})) {
        gone.emplace_back(job->stream, job->entry_id);
      } else if (it->second == Verdict::kElsewhere) {
        elsewhere.push_back(job);
      } else {
        here.push_back(job);
        how.push_back(it->second);
      }
    }
  }
  std::vector<InHandPtr> holders;
  for (size_t i = 0; i < here.size(); ++i) {
    const InHand& job = *here[i];
    if (how[i] == Verdict::kRun && job.followers > 0 && !job.suspect &&
        runners[static_cast<size_t>(job.runner)]->takes_runs())
      holders.push_back(here[i]);
  }
  if (!holders.empty()) TakeRuns(holders);
  std::map<std::string, absl::Duration> oldest;
  for (const auto& job : here)
    if (!job->entry_id.empty()) oldest[job->stream] = std::max(oldest[job->stream], job->waited);
  for (const auto& [stream, waited] : oldest) shares.Waited(stream, waited);
  Admit(here, how);
  if (!gone.empty()) Acknowledge(gone, {});
  if (!elsewhere.empty()) PutBack(elsewhere);
}

// When this fails the holders just run alone. All of one runner: there is one that takes runs.
void Engine::Impl::TakeRuns(const std::vector<InHandPtr>& jobs) {
  FencedIds ids;
  BinaryArray keys(BinaryArray::kInt8), sizes(BinaryArray::kInt4);
  PgArray may_run;
  absl::flat_hash_map<Uuid, InHandPtr> holders;
  {
    absl::MutexLock lock(&mu);
    // Short lines are taken whole, long ones share the room that is left.
    size_t room = std::min<size_t>(
        kMaxTakenAlong, static_cast<size_t>(std::max(0, options.max_in_hand - static_cast<int>(in_hand.size()))));
    const size_t equal = room / jobs.size();
    size_t long_lines = 0;
    auto short_size = [&](const InHand& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
      return std::min({static_cast<size_t>(job.followers), RunLength(job.kind) - 1, equal});
    };
    for (const auto& job : jobs) job->followers < kManyFollowers ? room -= short_size(*job) : ++long_lines;
    for (const auto& job : jobs) {
      const size_t size =
          job->followers < kManyFollowers ? short_size(*job) : std::min(RunLength(job->kind) - 1, room / long_lines);
      if (size == 0) continue;
      ids.Add(*job);
      keys.AddInt8(*job->key);
      sizes.AddInt4(static_cast<int>(size));
      holders.emplace(job->id, job);
    }
    for (const auto& [route, runner] : routes) {
      if (runner == jobs[0]->runner) may_run.Add(route);
    }
  }
  if (holders.empty()) return;
  const auto a = ids.ids.Finish(), b = ids.fences.Finish(), c = keys.Finish(), d = sizes.Finish();
  const std::string e = std::move(may_run).Finish();
  pool.Autocommit(absl::Now() + absl::Seconds(5),
                  [&](pqxx::transaction_base& tx) -> absl::Status {
                    for (auto& [id, holder] : holders) holder->rest.clear();
                    absl::flat_hash_map<Uuid, size_t> whole;  // how many of each were looked at
                    for (const auto& row : Run(tx, sql::kTakeRuns, a, b, c, d, e)) {
                      ASSIGN_OR_RETURN(const Uuid holder, ParseUuid(row[0].c_str()));
                      auto job = std::make_shared<InHand>();
                      ASSIGN_OR_RETURN(job->id, ParseUuid(row[1].c_str()));
                      job->fence = row[2].as<int64_t>();
                      // Nothing that stands behind one that may not run here.
                      InHand& first = *holders.at(holder);
                      if (first.rest.size() < whole[holder]++) continue;
                      job->follows = true;
                      if (Fill(row, *job, 1) == Verdict::kRun) first.rest.push_back(std::move(job));
                    }
                    return absl::OkStatus();
                  })
      .IgnoreError();
  for (auto& [id, holder] : holders) {
    if (holder->rest.empty()) continue;
    auto run = std::make_shared<KeyRun>();
    run->jobs.emplace_back(holder->id, holder->fence);
    for (auto& job : holder->rest) {
      job->taken = holder->taken;
      job->run = run;
      job->turn = run->jobs.size();
      run->jobs.emplace_back(job->id, job->fence);
    }
    run->length = run->jobs.size();
    holder->run = std::move(run);
  }
}

// Into what waits for a runner. Sensitive arguments are opened here, for the handler alone.
void Engine::Impl::Admit(const std::vector<InHandPtr>& jobs, const std::vector<Verdict>& verdicts) {
  std::vector<std::optional<Outcome>> refused(jobs.size());
  for (size_t i = 0; i < jobs.size(); ++i) {
    InHand& job = *jobs[i];
    if (verdicts[i] == Verdict::kLate) {
      refused[i] = Outcome::Discard("not started by its deadline");
    } else if (!job.sealed.empty()) {
      if (options.sealer == nullptr) {
        refused[i] = Outcome::Retry("sealed", "this worker has no key for sensitive arguments (secrets_key_file)");
        continue;
      }
      auto args = options.sealer->Open(job.tenant, job.id, HexDecode(job.sealed).value_or(""));
      if (args.ok()) {
        job.args = *std::move(args);
      } else {
        refused[i] = Outcome::Retry("sealed", std::string(args.status().message()));
      }
    }
  }
  {
    absl::MutexLock lock(&mu);
    checking.clear();
    for (size_t i = 0; i < jobs.size(); ++i) {
      in_hand[{jobs[i]->id, jobs[i]->fence}] = jobs[i];
      for (const auto& job : jobs[i]->rest) in_hand[{job->id, job->fence}] = job;
      const auto runner = static_cast<size_t>(jobs[i]->runner);
      if (refused[i].has_value()) {
        DropRest(*jobs[i]);
        FinishLocked({jobs[i], *std::move(refused[i])});
      } else if (runners[runner]->outlives() && waiting[runner].size() >= kMaxWaitingForOthers) {
        FinishLocked({jobs[i], Outcome(), Finished::How::kElsewhere});
      } else {
        waiting[runner].push_back(jobs[i]);
      }
    }
  }
  Pump();
}

// Paused queues and kinds that this worker does not run: back to where the dispatcher decides. A keyed job keeps its
// place and is looked at again.
void Engine::Impl::PutBack(const std::vector<InHandPtr>& jobs) {
  for (const int target : {kStateReady, kStateScheduled}) {
    const absl::Status status =
        pool.Transaction(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
          FencedIds ids;
          for (const auto& job : jobs) {
            if (job->key.has_value() == (target == kStateScheduled)) ids.Add(*job);
          }
          if (ids.ids.size() > 0) Reissue(tx, std::move(ids), target);
          return absl::OkStatus();
        });
    if (!status.ok()) return;  // they stay pending: reclaimed after the lease
  }
  std::vector<std::pair<std::string, std::string>> entries;
  for (const auto& job : jobs) entries.emplace_back(job->stream, job->entry_id);
  Acknowledge(entries, {});
}

absl::StatusOr<int> Engine::Impl::Claim(int credit) {
  int taken = 0;
  std::string kinds;
  {
    absl::MutexLock lock(&mu);
    kinds = announced;
  }
  auto take = [&](const pqxx::result& rows) -> absl::Status {
    std::vector<InHandPtr> jobs;
    std::vector<Verdict> verdicts;
    for (const auto& row : rows) {
      auto job = std::make_shared<InHand>();
      ASSIGN_OR_RETURN(job->id, ParseUuid(row[0].c_str()));
      job->fence = row[1].as<int64_t>();
      verdicts.push_back(Fill(row, *job));
      job->taken = Mono();
      job->marked = true;
      jobs.push_back(std::move(job));
    }
    Admit(jobs, verdicts);
    taken += static_cast<int>(jobs.size());
    claimed += static_cast<int64_t>(jobs.size());
    metrics.claimed.Increment(static_cast<double>(jobs.size()));
    return absl::OkStatus();
  };
  const double stale = absl::ToDoubleSeconds(options.claim_stale);
  std::set<std::pair<int, std::string>> queues;  // by priority
  for (const StreamOf& stream : streams) queues.emplace(stream.priority, stream.queue);
  for (const auto& [priority, queue] : queues) {
    if (taken >= credit) break;
    // From a position, so that the dead index entries of finished jobs aren't walked each time; from the head once the
    // end is reached.
    Uuid& position = claim_position[{queue, priority}];
    pqxx::result rows;
    const std::string& from = queue;
    const int level = priority, limit = credit - taken;
    RETURN_IF_ERROR(pool.Autocommit(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
      rows = Run(tx, sql::kClaim, from, level, position.ToString(), limit, kinds, consumer, stale);
      return absl::OkStatus();
    }));
    for (const auto& row : rows) {
      ASSIGN_OR_RETURN(const Uuid job, ParseUuid(row[0].c_str()));
      position = std::max(position, job);
    }
    if (rows.empty()) position = Uuid();
    RETURN_IF_ERROR(take(rows));
  }
  if (taken < credit) {
    pqxx::result rows;
    RETURN_IF_ERROR(pool.Transaction(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
      rows = Run(tx, sql::kClaimKeyed, credit - taken, kinds, consumer, stale, QueuesOrNull());
      PgArray keys;
      for (const auto& row : rows) keys.Add(row[9].c_str());
      Run(tx, sql::kCutRuns, std::move(keys).Finish());
      return absl::OkStatus();
    }));
    RETURN_IF_ERROR(take(rows));
  }
  return taken;
}

}  // namespace mainstay::jobs
