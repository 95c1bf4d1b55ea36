// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/upkeep.h"

#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "libs/base/status.h"
#include "libs/jobs/flows.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"
#include "libs/telemetry/metrics.h"
#include "prometheus/counter.h"

namespace mainstay::jobs {
namespace {

constexpr int kDispatchBatch = 500, kDueBatch = 500;
constexpr absl::Duration kWindowLife = absl::Seconds(10);  // an open window closes by itself when nobody renews it

// Removes a consumer that is idle and owns nothing, in one step: deletion drops pending entries.
constexpr char kForgetConsumer[] = R"lua(
for _, c in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local f = {}
  for i = 1, #c, 2 do f[c[i]] = c[i + 1] end
  if f['name'] == ARGV[2] and f['pending'] == 0 and f['idle'] >= tonumber(ARGV[3]) then return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
end
return -1)lua";

std::string Field(const redis::Reply& flat, std::string_view name) {
  for (size_t i = 0; i + 1 < flat.elements.size(); i += 2) {
    if (flat.elements[i].text == name)
      return flat.elements[i + 1].type == redis::Reply::Type::kInteger ? std::to_string(flat.elements[i + 1].integer)
                                                                       : flat.elements[i + 1].text;
  }
  return "";
}

// The entry's own field; nullopt for foreign entries and those deleted under a pending id.
std::optional<Entry> EntryOf(const redis::Reply& item) {
  if (item.elements.size() < 2) return std::nullopt;
  const auto& fields = item.elements[1].elements;
  for (size_t i = 0; i + 1 < fields.size(); i += 2) {
    if (fields[i].text == kEntryField) return DecodeEntry(fields[i + 1].text);
  }
  return std::nullopt;
}

}  // namespace

absl::Status CreateGroups(redis::Client& redis, const std::vector<std::string>& streams) {
  std::vector<redis::Command> commands;
  for (const auto& stream : streams) commands.push_back({"XGROUP", "CREATE", stream, kGroup, "0", "MKSTREAM"});
  if (commands.empty()) return absl::OkStatus();
  return redis.Pipeline(commands).status();
}

Upkeep::Upkeep(const EngineOptions& options, const Uuid& worker, postgres::Pool& pool)
    : options_(options),
      worker_(worker),
      pool_(pool),
      lease_(pool,
             {.name = "jobs-upkeep", .holder = worker.ToString(), .ttl = options.lease, .margin = options.lease / 5}),
      redis_(options.redis),
      scheduler_({.declared = options.schedules,
                  .handoff = options.handoff,
                  .grace = 2 * options.lease,
                  .retention = options.retention},
                 pool) {}

Upkeep::~Upkeep() {
  Stop();
}

void Upkeep::Start() {
  thread_ = std::thread([this] { Run(); });
}

void Upkeep::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

bool Upkeep::leading() const {
  return leading_;
}

absl::Status Upkeep::Query(absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body) {
  absl::Status status = pool_.Autocommit(absl::Now() + absl::Seconds(10), body);
  if (!status.ok()) trouble_ = Mono();
  return status;
}

void Upkeep::Run() {
  absl::Time last_lead = absl::InfinitePast(), last_streams = absl::InfinitePast(), last_sweep = absl::InfinitePast(),
             last_reclaim = absl::InfinitePast(), last_minute = absl::InfinitePast(), last_loose = absl::InfinitePast();
  std::string last_error;
  while (true) {
    bool busy = false;
    const absl::Time now = Mono();
    absl::Status status;
    auto step = [&](absl::Status s) {
      if (status.ok()) status = std::move(s);
    };
    if (now - last_lead > options_.lease / 3) {
      last_lead = now;
      const bool led = leading_;
      step(Lead());
      // PostgreSQL away: nobody else can take the lease, but nothing can be done either.
      if (leading_ && !led) {
        log::Info("this worker does the upkeep now", {{"worker", worker_.ToString()}});
        last_streams = last_reclaim = last_minute = last_loose = absl::InfinitePast();
        last_sweep = now - options_.sweep + std::min(absl::Seconds(1), options_.sweep / 2);
        trouble_ = now - options_.lease + options_.heartbeat;  // workers that are alive have had time for a renewal
        streams_.clear();
        scheduler_.Restart();
        epoch_.clear();
        windows_closed_ = false;
      }
    }
    if (leading_ && !lease_.held()) leading_ = false;
    if (leading_) {
      if (now - last_streams > absl::Seconds(1)) {
        const absl::Status refreshed = RefreshStreams();
        if (refreshed.ok()) last_streams = now;
        step(refreshed);
      }
      if (now - last_minute > absl::Minutes(1)) {
        const absl::Status kept = History();
        if (kept.ok()) last_minute = now;
        step(kept);
        if (kept.ok()) step(ForgetConsumers());
      }
      step(PromoteDue());
      step(scheduler_.Step());
      const absl::Status redis = CheckEpoch();
      if (!redis.ok()) {
        CloseWindows();
        if (status.ok()) status = redis;
      } else {
        auto more = Dispatch();
        if (more.ok()) busy = *more;
        step(more.status());
        if (now >= full_sweep_at_) {
          const absl::Status swept = Sweep(absl::ZeroDuration());
          if (swept.ok()) full_sweep_at_ = absl::InfiniteFuture(), last_sweep = now;
          step(swept);
        } else if (now - last_sweep > options_.sweep) {
          const absl::Status swept = Sweep(options_.sweep);
          if (swept.ok()) last_sweep = now;
          step(swept);
        }
        if (now - last_reclaim > options_.lease / 3) step(ReclaimPending());
      }
      if (now - last_loose > std::min(options_.sweep, absl::Seconds(5))) {
        last_loose = now;
        step(LooseKeys());
        step(SettleFlows(pool_));
      }
      if (now - last_reclaim > options_.lease / 3) {
        last_reclaim = now;
        if (now - trouble_ > options_.lease) step(ReclaimExpired());
      }
    }
    if (!status.ok() && status.message() != last_error) {
      last_error = std::string(status.message());
      log::Warn("upkeep of the queues is held up", {{"error", last_error}});
    } else if (status.ok() && !last_error.empty()) {
      last_error.clear();
      log::Info("upkeep of the queues goes on");
    }
    absl::MutexLock lock(&mu_);
    const absl::Duration pause = busy          ? absl::ZeroDuration()
                                 : status.ok() ? options_.dispatch_interval
                                               : std::max(options_.dispatch_interval, absl::Milliseconds(200));
    if (mu_.AwaitWithTimeout(absl::Condition(&stopping_), pause)) break;
  }
  leading_ = false;
  lease_.Release().IgnoreError();
}

absl::Status Upkeep::Lead() {
  const absl::StatusOr<bool> won = lease_.TryAcquire();
  leading_ = lease_.held();
  return won.status();
}

absl::Status Upkeep::RefreshStreams() {
  std::map<StreamId, bool> found;
  std::string kinds;
  RETURN_IF_ERROR(Query([&](pqxx::transaction_base& tx) -> absl::Status {
    if (options_.queues) {
      PgArray names, priorities, attempts, crashes, concurrency;
      for (const QueueSettings& q : options_.queues()) {
        names.Add(q.name);
        priorities.Add(absl::StrCat(q.priority));
        attempts.Add(absl::StrCat(q.max_attempts));
        crashes.Add(absl::StrCat(q.max_crashes));
        concurrency.Add(absl::StrCat(q.concurrency));
      }
      jobs::Run(tx, sql::kSyncQueues, std::move(names).Finish(), std::move(priorities).Finish(),
                std::move(attempts).Finish(), std::move(crashes).Finish(), std::move(concurrency).Finish());
    }
    jobs::Run(tx, sql::kFindStreams);
    found.clear();
    for (const auto& row : jobs::Run(tx, sql::kStreams)) found[{row[0].c_str(), row[1].as<int>()}] = row[2].as<bool>();
    PgArray array;
    for (const auto& row : jobs::Run(tx, sql::kLiveKinds)) array.Add(row[0].c_str());
    kinds = std::move(array).Finish();
    return absl::OkStatus();
  }));
  if (kinds != kinds_) {
    kinds_ = std::move(kinds);
    for (auto& [id, stream] : streams_)
      stream.position = Uuid(), stream.backlog = true, stream.head_again = absl::InfinitePast();
  }
  std::vector<std::string> fresh;
  for (const auto& [id, paused] : found) {
    auto [it, added] = streams_.try_emplace(id);
    if (added) fresh.push_back(StreamKey(id.first, id.second));
    if (it->second.paused && !paused) it->second.position = Uuid(), it->second.head_again = absl::InfinitePast();
    it->second.paused = paused;
  }
  std::erase_if(streams_, [&](const auto& item) { return !found.contains(item.first); });
  CreateGroups(redis_, fresh).IgnoreError();  // Redis away: readers make them too
  return absl::OkStatus();
}

absl::Status Upkeep::PromoteDue() {
  for (int round = 0; round < 20; ++round) {
    std::vector<Handout> handouts;
    PgArray keys;
    bool any_key = false;
    size_t n = 0;
    RETURN_IF_ERROR(Query([&](pqxx::transaction_base& tx) -> absl::Status {
      const pqxx::result rows = jobs::Run(tx, sql::kPromoteDue, kDueBatch, kinds_);
      n = rows.size();
      for (const auto& row : rows) {
        if (row[7].as<int>() == kStatePublished || row[9].as<bool>()) {
          handouts.push_back(ReadHandout(row));
        } else if (!row[8].is_null()) {
          keys.Add(row[8].c_str());
          any_key = true;
        }
      }
      return absl::OkStatus();
    }));
    if (any_key) {
      const std::string array = std::move(keys).Finish();
      RETURN_IF_ERROR(Query([&](pqxx::transaction_base& tx) -> absl::Status {
        for (const auto& row : jobs::Run(tx, sql::kPromoteKeys, array)) handouts.push_back(ReadHandout(row));
        return absl::OkStatus();
      }));
    }
    Publish(handouts).IgnoreError();  // what Redis did not take is the sweeper's
    if (n < kDueBatch) break;
  }
  return absl::OkStatus();
}

absl::Status Upkeep::SetWindow(const StreamId& id, Stream& stream, bool open) {
  const absl::Time now = Mono();
  if (stream.open == open && (!open || now - stream.renewed < kWindowLife / 3) && stream.renewed != absl::Time())
    return absl::OkStatus();
  RETURN_IF_ERROR(Query([&](pqxx::transaction_base& tx) -> absl::Status {
    jobs::Run(tx, sql::kSetWindow, id.first, id.second, open ? absl::ToDoubleSeconds(kWindowLife) : 0.0);
    return absl::OkStatus();
  }));
  stream.open = open;
  stream.renewed = now;
  return absl::OkStatus();
}

void Upkeep::CloseWindows() {
  if (windows_closed_) return;
  if (Query([&](pqxx::transaction_base& tx) -> absl::Status {
        jobs::Run(tx, sql::kCloseWindows);
        return absl::OkStatus();
      }).ok()) {
    windows_closed_ = true;
    for (auto& [id, stream] : streams_) stream.open = false;
    log::Warn("Redis is away: jobs are taken from PostgreSQL");
  }
}

absl::StatusOr<bool> Upkeep::Dispatch() {
  std::vector<redis::Command> lengths;
  for (const auto& [id, stream] : streams_) lengths.push_back({"XLEN", StreamKey(id.first, id.second)});
  if (lengths.empty()) return false;
  ASSIGN_OR_RETURN(const auto replies, redis_.Pipeline(lengths));
  bool more = false;
  size_t at = 0;
  for (auto& queue : streams_) {
    const auto& id = queue.first;  // named: clang 14 cannot capture structured bindings
    auto& stream = queue.second;
    int64_t length = replies[at++].integer;
    if (stream.paused) {
      RETURN_IF_ERROR(SetWindow(id, stream, false));
      continue;
    }
    // A few batches per round and stream, so that no stream waits for the backlog of another.
    for (int round = 0; round < 8; ++round) {
      const bool from_head = stream.position == Uuid();
      if (from_head && Mono() < stream.head_again) break;
      const int64_t room = options_.window - length;
      if (room <= options_.window / 20) {
        stream.backlog = true;
        break;
      }
      const int limit = static_cast<int>(std::min<int64_t>(room, kDispatchBatch));
      std::vector<Handout> handouts;
      Uuid last = stream.position;
      const absl::Time start = Mono();
      RETURN_IF_ERROR(Query([&](pqxx::transaction_base& tx) -> absl::Status {
        for (const auto& row :
             jobs::Run(tx, sql::kDispatch, id.first, id.second, stream.position.ToString(), limit, kinds_)) {
          Entry entry;
          handouts.push_back(ReadHandout(row, &entry));
          last = std::max(last, entry.id);
        }
        return absl::OkStatus();
      }));
      RETURN_IF_ERROR(Publish(handouts));
      length += static_cast<int64_t>(handouts.size());
      if (static_cast<int>(handouts.size()) < limit) {
        // The end. Jobs that came back with older ids, and late commits, are found by looking from the head again, for
        // at most a twentieth of the time.
        stream.backlog = !(from_head && handouts.empty());
        stream.position = Uuid();
        stream.head_again = Mono() + std::clamp((Mono() - start) * 20, options_.dispatch_interval, absl::Seconds(1));
        break;
      }
      stream.position = last;
      if (round == 7) more = true;
    }
    RETURN_IF_ERROR(SetWindow(id, stream, !stream.backlog && length < options_.window / 2));
  }
  return more;
}

absl::Status Upkeep::CheckEpoch() {
  ASSIGN_OR_RETURN(const redis::Reply epoch, redis_.Execute({"GET", kEpochKey}));
  if (!epoch.ok()) return absl::UnavailableError(epoch.text);  // loading, out of memory, not a primary …
  bool changed = false;
  if (redis_.generation() != generation_) {
    ASSIGN_OR_RETURN(const redis::Reply info, redis_.Execute({"INFO", "server"}));
    const size_t from = info.text.find("run_id:");
    const std::string run_id = from == std::string::npos ? "" : info.text.substr(from + 7, 40);
    changed = !run_id_.empty() && run_id != run_id_;
    run_id_ = run_id;
    generation_ = redis_.generation();
  }
  if (epoch.type == redis::Reply::Type::kNil) {
    const std::string fresh = NewUuid().ToString();
    ASSIGN_OR_RETURN(const redis::Reply set, redis_.Execute({"SET", kEpochKey, fresh, "NX"}));
    if (!set.ok()) return absl::UnavailableError(set.text);
    changed = true;
    epoch_ = fresh;
  } else {
    changed = changed || (!epoch_.empty() && epoch_ != epoch.text);
    epoch_ = epoch.text;
  }
  if (windows_closed_) {
    windows_closed_ = false;
    changed = true;  // jobs of the outage may be anywhere
  }
  if (changed) {
    std::vector<std::string> names;
    for (auto& [id, stream] : streams_) {
      names.push_back(StreamKey(id.first, id.second));
      stream.position = Uuid();
      stream.head_again = absl::InfinitePast();
    }
    RETURN_IF_ERROR(CreateGroups(redis_, names));
    // Workers see the same and write what they hold as `running` first; what is left then is lost.
    full_sweep_at_ = Mono() + absl::Milliseconds(600);
    log::Warn("Redis lost its state or was away: published jobs are checked against it", {{"epoch", epoch_}});
  }
  return absl::OkStatus();
}

absl::Status Upkeep::Sweep(absl::Duration age) {
  std::vector<std::pair<Uuid, int64_t>> published;
  absl::Status read =
      pool_.Transaction(absl::Now() + absl::Seconds(30), [&](pqxx::transaction_base& tx) -> absl::Status {
        published.clear();
        tx.exec0("SET LOCAL enable_seqscan = on");
        for (const auto& row : jobs::Run(tx, sql::kPublished, absl::ToDoubleSeconds(age))) {
          ASSIGN_OR_RETURN(const Uuid id, ParseUuid(row[0].c_str()));
          published.emplace_back(id, row[1].as<int64_t>());
        }
        return absl::OkStatus();
      });
  if (!read.ok()) {
    trouble_ = Mono();
    return read;
  }
  if (published.empty()) return absl::OkStatus();
  // Read after the rows: an entry whose row was published before is here, or it is lost.
  absl::flat_hash_set<std::pair<Uuid, int64_t>> present;
  for (const auto& [id, stream] : streams_) {
    std::string from = "-";
    while (true) {
      ASSIGN_OR_RETURN(const redis::Reply page,
                       redis_.Execute({"XRANGE", StreamKey(id.first, id.second), from, "+", "COUNT", "1000"}));
      if (!page.ok()) return absl::UnavailableError(page.text);
      for (const auto& item : page.elements) {
        if (const auto entry = EntryOf(item)) present.emplace(entry->id, entry->fence);
      }
      if (page.elements.size() < 1000) break;
      from = "(" + page.elements.back().elements[0].text;
    }
  }
  std::vector<std::pair<Uuid, int64_t>> lost;
  for (const auto& job : published) {
    if (!present.contains(job)) lost.push_back(job);
  }
  if (lost.empty()) return absl::OkStatus();
  log::Warn("handing out again what Redis no longer holds", {{"jobs", static_cast<int64_t>(lost.size())}});
  return Reissue(lost, {}, {});
}

absl::Status Upkeep::Reissue(const std::vector<std::pair<Uuid, int64_t>>& jobs, const std::vector<int>& crashes,
                             const std::vector<int>& suspicions) {
  // The window may be full already, or Redis away: then unkeyed jobs go back to the backlog.
  const int target =
      !windows_closed_ && jobs.size() <= static_cast<size_t>(options_.window) ? kStatePublished : kStateReady;
  for (size_t at = 0; at < jobs.size(); at += kDispatchBatch) {
    PgArray ids, fences, crashed, suspected;
    for (size_t i = at; i < std::min(jobs.size(), at + kDispatchBatch); ++i) {
      ids.Add(jobs[i].first.ToString());
      fences.Add(absl::StrCat(jobs[i].second));
      crashed.Add(absl::StrCat(i < crashes.size() ? crashes[i] : 0));
      suspected.Add(absl::StrCat(i < suspicions.size() ? suspicions[i] : 0));
    }
    const std::string a = std::move(ids).Finish(), b = std::move(fences).Finish(), c = std::move(crashed).Finish(),
                      d = std::move(suspected).Finish();
    std::vector<Handout> handouts;
    std::vector<int64_t> freed;
    CompleteArrays dead;
    RETURN_IF_ERROR(Query([&](pqxx::transaction_base& tx) -> absl::Status {
      handouts.clear();
      dead = CompleteArrays();
      for (const auto& row : jobs::Run(tx, sql::kReissue, a, b, target, c, d)) {
        Entry entry;
        Handout handout = ReadHandout(row, &entry);
        ++reissued_;
        if (row[8].as<int>() >= row[9].as<int>() && (!crashes.empty() || !suspicions.empty())) {
          dead.Add(entry.id, entry.fence, kStateDead, nullptr, "crashed",
                   "its worker died or lost its lease while it ran, as often as max_crashes allows", 0, 0);
        } else if (row[7].as<int>() == kStatePublished || row[7].as<int>() == kStateBlocked) {
          handouts.push_back(std::move(handout));
        }
      }
      return absl::OkStatus();
    }));
    if (dead.size > 0) {
      RETURN_IF_ERROR(
          pool_.Transaction(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
            Complete(tx, std::move(dead), nullptr, "upkeep", &freed, &handouts);
            return absl::OkStatus();
          }));
    }
    RETURN_IF_ERROR(Publish(handouts));
  }
  return absl::OkStatus();
}

absl::Status Upkeep::Publish(const std::vector<Handout>& handouts) {
  std::vector<redis::Command> commands;
  for (size_t i = 0; i < handouts.size(); ++i) {
    commands.push_back({"XADD", handouts[i].stream, "*", kEntryField, handouts[i].entry});
    if (commands.size() == 500 || i + 1 == handouts.size()) {
      // Never sent again when the outcome is unknown: the sweeper raises the fence first.
      ASSIGN_OR_RETURN(const auto replies, redis_.Pipeline(commands));
      for (const auto& reply : replies) {
        if (!reply.ok()) return absl::UnavailableError("XADD: " + reply.text);
      }
      commands.clear();
    }
  }
  return absl::OkStatus();
}

absl::Status Upkeep::LooseKeys() {
  std::vector<Handout> handouts;
  RETURN_IF_ERROR(Query([&](pqxx::transaction_base& tx) -> absl::Status {
    PgArray keys;
    bool any = false;
    for (const auto& row : jobs::Run(tx, sql::kLooseKeys)) keys.Add(row[0].c_str()), any = true;
    if (!any) return absl::OkStatus();
    for (const auto& row : jobs::Run(tx, sql::kPromoteKeys, std::move(keys).Finish()))
      handouts.push_back(ReadHandout(row));
    return absl::OkStatus();
  }));
  return Publish(handouts);
}

absl::Status Upkeep::ReclaimPending() {
  const std::string idle = absl::StrCat(absl::ToInt64Milliseconds(options_.lease));
  for (const auto& [id, stream] : streams_) {
    const std::string key = StreamKey(id.first, id.second);
    while (true) {
      ASSIGN_OR_RETURN(const redis::Reply pending,
                       redis_.Execute({"XPENDING", key, kGroup, "IDLE", idle, "-", "+", "500"}));
      if (pending.elements.empty()) break;
      // Their worker may be dead or only slow: the fence decides. Alone in a dead worker's hands, a job pays for the
      // crash; among others it is only suspected.
      std::map<std::string, int> by_consumer;
      for (const auto& p : pending.elements) ++by_consumer[p.elements[1].text];
      redis::Command claim = {"XCLAIM", key, kGroup, worker_.ToString() + "-upkeep", idle};
      std::map<std::string, std::string> consumer_of;
      for (const auto& p : pending.elements) {
        claim.push_back(p.elements[0].text);
        consumer_of[p.elements[0].text] = p.elements[1].text;
      }
      ASSIGN_OR_RETURN(const redis::Reply claimed, redis_.Execute(claim));
      if (!claimed.ok()) return absl::UnavailableError(claimed.text);
      std::vector<std::pair<Uuid, int64_t>> jobs;
      std::vector<int> crashes, suspicions;
      redis::Command ack = {"XACK", key, kGroup}, del = {"XDEL", key};
      for (const auto& item : claimed.elements) {
        if (item.elements.empty()) continue;
        ack.push_back(item.elements[0].text);
        del.push_back(item.elements[0].text);
        if (const auto entry = EntryOf(item)) {
          const bool alone = by_consumer[consumer_of[item.elements[0].text]] == 1;
          jobs.emplace_back(entry->id, entry->fence);
          crashes.push_back(alone ? 1 : 0);
          suspicions.push_back(alone ? 0 : 1);
        }
      }
      RETURN_IF_ERROR(Reissue(jobs, crashes, suspicions));
      if (ack.size() > 3) RETURN_IF_ERROR(redis_.Pipeline({ack, del}).status());
      if (pending.elements.size() < 500) break;
    }
  }
  return absl::OkStatus();
}

absl::Status Upkeep::ReclaimExpired() {
  std::vector<std::pair<Uuid, int64_t>> jobs;
  RETURN_IF_ERROR(Query([&](pqxx::transaction_base& tx) -> absl::Status {
    jobs.clear();
    for (const auto& row : jobs::Run(tx, sql::kExpired)) {
      ASSIGN_OR_RETURN(const Uuid id, ParseUuid(row[0].c_str()));
      jobs.emplace_back(id, row[1].as<int64_t>());
    }
    return absl::OkStatus();
  }));
  if (jobs.empty()) return absl::OkStatus();
  log::Warn("taking over the jobs of workers whose lease ran out", {{"jobs", static_cast<int64_t>(jobs.size())}});
  return Reissue(jobs, std::vector<int>(jobs.size(), 1), {});
}

absl::Status Upkeep::History() {
  RETURN_IF_ERROR(ForgetFlows(pool_, options_.retention));
  return Query([&](pqxx::transaction_base& tx) -> absl::Status {
    jobs::Run(tx, sql::kMaintainHistory, absl::ToDoubleSeconds(options_.retention));
    jobs::Run(tx, sql::kForgetWorkers);
    return absl::OkStatus();
  });
}

absl::Status Upkeep::ForgetConsumers() {
  for (const auto& [id, stream] : streams_) {
    const std::string key = StreamKey(id.first, id.second);
    ASSIGN_OR_RETURN(const redis::Reply consumers, redis_.Execute({"XINFO", "CONSUMERS", key, kGroup}));
    for (const auto& consumer : consumers.elements) {
      if (Field(consumer, "pending") != "0" || std::atoll(Field(consumer, "idle").c_str()) < 3600LL * 1000) continue;
      RETURN_IF_ERROR(redis_.Script(kForgetConsumer, {key}, {kGroup, Field(consumer, "name"), "3600000"}).status());
    }
  }
  return absl::OkStatus();
}

}  // namespace mainstay::jobs
