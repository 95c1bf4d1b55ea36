// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/engine.h"

#include <algorithm>
#include <deque>
#include <random>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "libs/base/clock.h"
#include "libs/base/json.h"
#include "libs/base/problem.h"
#include "libs/base/status.h"
#include "libs/jobs/in_hand.h"
#include "libs/jobs/sealer.h"
#include "libs/jobs/stats.h"
#include "libs/jobs/upkeep.h"
#include "libs/postgres/errors.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"
#include "libs/telemetry/metrics.h"
#include "libs/telemetry/trace.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"

namespace mainstay::jobs {
namespace {

constexpr size_t kMaxResult = 64 << 10, kMaxMessage = 2000, kMaxCheckpoint = 64 << 10;
constexpr absl::Duration kBlock = absl::Milliseconds(250), kTick = absl::Milliseconds(200);

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

constexpr char kLeaveGroup[] = R"lua(
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if consumers.err then return 0 end
for _, c in ipairs(consumers) do
  local f = {}
  for i = 1, #c, 2 do f[c[i]] = c[i + 1] end
  if f['name'] == ARGV[2] and f['pending'] == 0 then return redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
end
return 0)lua";

// A statement that may succeed when it is tried again later, with nothing wrong in what it carries.
bool MayRecover(const absl::Status& status) {
  return postgres::IsTransient(status) || absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsAborted(status) || absl::IsResourceExhausted(status);
}

struct Finished {
  InHandPtr job;
  Outcome outcome;
  bool give_back = false;  // hand out anew, at no cost
};

struct EngineMetrics {
  prometheus::Counter& succeeded = Outcome("succeeded");
  prometheus::Counter& discarded = Outcome("discarded");
  prometheus::Counter& dead = Outcome("dead");
  prometheus::Counter& retried = Outcome("retried");
  prometheus::Counter& snoozed = Outcome("snoozed");
  prometheus::Counter& returned = Outcome("returned");
  prometheus::Counter& fenced = metrics::Counter(
      "mainstay_jobs_fenced_total", "Results refused because the job had been handed to someone else or cancelled");
  prometheus::Counter& claimed =
      metrics::Counter("mainstay_jobs_claimed_total", "Jobs taken from PostgreSQL while Redis was away");
  prometheus::Gauge& in_hand =
      metrics::Gauge("mainstay_jobs_in_hand", "Jobs this worker holds: waiting, running or not yet stored");
  prometheus::Gauge& leading = metrics::Gauge("mainstay_jobs_upkeep_leader", "1 on the worker that does the upkeep");
  prometheus::Histogram& run =
      metrics::Histogram("mainstay_jobs_run_seconds", "Time in the handler", metrics::LatencyBuckets());
  static prometheus::Counter& Outcome(const char* name) {
    return metrics::Counter("mainstay_jobs_finished_total", "Runs by outcome", {{"outcome", name}});
  }
};

}  // namespace

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

struct Engine::Impl : std::enable_shared_from_this<Engine::Impl> {
  Impl(EngineOptions o, const Registry& r, postgres::Pool& p)
      : options(std::move(o)),
        registry(r),
        pool(p),
        id(NewUuid()),
        consumer(id.ToString()),
        reader_redis(options.redis),
        redis(options.redis),
        upkeep(options, id, p) {
    PgArray array;
    for (const auto& kind : registry.kinds()) array.Add(kind);
    kinds = std::move(array).Finish();
  }

  // ---- what a handler sees ----

  class Running : public RunningJob {
   public:
    Running(Impl& engine, InHandPtr job) : engine_(engine), job_(std::move(job)) {}
    const Uuid& id() const override { return job_->id; }
    std::string_view kind() const override { return job_->kind; }
    std::string_view args() const override { return job_->args; }
    int64_t fence() const override { return job_->fence; }
    int attempt() const override { return job_->attempt + 1; }
    const CallContext& context() const override { return job_->context; }
    bool cancelled() const override { return job_->stop.load(std::memory_order_relaxed) != Stop::kNone; }
    std::string_view checkpoint() const override { return job_->checkpoint; }

    absl::Status SaveCheckpoint(std::string_view json) override {
      if (json.size() > kMaxCheckpoint)
        return absl::InvalidArgumentError(
            absl::StrCat("checkpoint has ", json.size(), " bytes, the limit is ", kMaxCheckpoint));
      RETURN_IF_ERROR(JsonDocument::Parse(std::string(json)).status());
      RETURN_IF_ERROR(Write(sql::kCheckpoint, std::string(json)));
      job_->checkpoint = std::string(json);
      return absl::OkStatus();
    }

    absl::Status Progress(double percent, std::string_view message) override {
      std::string json;
      JsonWriter(json)
          .BeginObject()
          .Key("percent")
          .Double(std::clamp(percent, 0.0, 100.0))
          .Key("message")
          .String(CleanText(message, 500))
          .EndObject();
      return Write(sql::kProgress, json);
    }

    absl::Status FinishIn(pqxx::transaction_base& tx, const Outcome& outcome) override {
      try {
        Finished finished{job_, outcome};
        int64_t changed = 0;
        CompleteArrays complete;
        RetryArrays retry;
        engine_.Sort(finished, complete, retry);
        if (complete.size > 0) {
          std::vector<int64_t> freed;
          std::vector<Handout> handouts;
          changed = Complete(tx, std::move(complete), &engine_.id, engine_.options.name, &freed, &handouts);
          absl::MutexLock lock(&job_->mu);
          job_->successors = std::move(handouts);
        } else {
          changed = static_cast<int64_t>(engine_.Retry(tx, std::move(retry)));
        }
        if (changed == 0) return Fenced();
        job_->finished_in = true;
        return absl::OkStatus();
      } catch (...) {
        return postgres::StatusFromCurrentException();
      }
    }

   private:
    absl::Status Fenced() {
      job_->stop = Stop::kFenced;
      return absl::FailedPreconditionError("fenced: the job was handed to another worker or cancelled");
    }
    absl::Status Write(const sql::Named& statement, const std::string& json) {
      size_t changed = 0;
      RETURN_IF_ERROR(
          engine_.pool.Autocommit(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
            changed = Run(tx, statement, job_->id.ToString(), job_->fence, json).affected_rows();
            return absl::OkStatus();
          }));
      return changed == 1 ? absl::OkStatus() : Fenced();
    }
    Impl& engine_;
    InHandPtr job_;
  };

  QueuePolicy PolicyOf(const std::string& queue) const {
    return options.policy ? options.policy(queue) : QueuePolicy();
  }

  double Random() {
    thread_local std::mt19937_64 engine{std::random_device{}()};
    return std::uniform_real_distribution<double>(0, 1)(engine);
  }

  // Puts one outcome into the batch that stores it.
  void Sort(const Finished& f, CompleteArrays& complete, RetryArrays& retry) {
    const InHand& job = *f.job;
    const Outcome& o = f.outcome;
    const int64_t started = job.started_us;
    const double seconds = started == 0 ? 0 : absl::ToDoubleSeconds(Mono() - absl::FromUnixMicros(started));
    const std::string code = CleanText(o.code.empty() ? "error" : std::string_view(o.code), 100),
                      message = CleanText(o.message, kMaxMessage);
    switch (o.kind) {
      case Outcome::Kind::kDone: {
        std::string result = o.result;
        if (result.size() > kMaxResult) {
          result = absl::StrCat("{\"truncated\":true,\"bytes\":", o.result.size(), "}");
        } else if (result != "null" && !JsonDocument::Parse(result).ok()) {
          result = "{\"invalid\":true}";
        }
        complete.Add(job.id, job.fence, kStateSucceeded, &result, "", "", 1, seconds);
        return;
      }
      case Outcome::Kind::kDiscard:
        complete.Add(job.id, job.fence, kStateDiscarded, nullptr, code, message, started == 0 ? 0 : 1, seconds);
        return;
      case Outcome::Kind::kDead:
        complete.Add(job.id, job.fence, kStateDead, nullptr, code, message, 1, seconds);
        return;
      case Outcome::Kind::kSnooze:
        retry.Add(job.id, job.fence,
                  std::clamp(o.after.value_or(absl::Seconds(1)), absl::ZeroDuration(), absl::Hours(24 * 366)), "", "");
        return;
      case Outcome::Kind::kRetry:
        if (job.attempt + 1 >= job.max_attempts) {
          complete.Add(job.id, job.fence, kStateDead, nullptr, code, message, 1, seconds);
          return;
        }
        const absl::Duration delay = o.after.has_value()
                                         ? std::clamp(*o.after, absl::ZeroDuration(), absl::Hours(24 * 366))
                                         : RetryDelay(job.options.Over(PolicyOf(job.queue).backoff), job.attempt + 1,
                                                      [this] { return Random(); });
        retry.Add(job.id, job.fence, delay, code, message);
        return;
    }
  }

  size_t Retry(pqxx::transaction_base& tx, RetryArrays&& batch) {
    return Run(tx, sql::kRetry, std::move(batch.ids).Finish(), std::move(batch.fences).Finish(),
               std::move(batch.delays).Finish(), std::move(batch.codes).Finish(), std::move(batch.messages).Finish(),
               options.name)
        .size();
  }

  // ---- reading ----

  absl::Status RefreshStreams() {
    std::vector<std::tuple<std::string, int, bool>> found;
    RETURN_IF_ERROR(pool.Autocommit(absl::Now() + absl::Seconds(5), [&](pqxx::transaction_base& tx) -> absl::Status {
      found.clear();
      for (const auto& row : Run(tx, sql::kStreams))
        found.emplace_back(row[0].c_str(), row[1].as<int>(), row[2].as<bool>());
      return absl::OkStatus();
    }));
    absl::MutexLock lock(&mu);
    streams.clear();
    all_streams.clear();
    for (auto& [queue, priority, paused] : found) {
      all_streams.push_back(StreamKey(queue, priority));
      if (!paused) streams.emplace_back(std::move(queue), priority);
    }
    return absl::OkStatus();
  }

  // How many jobs may be taken now: enough for the idle handlers and for a tenth of a second at the recent rate. A
  // worker whose handlers take long holds nothing back from others.
  int Credit() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    const int waiting_now = static_cast<int>(waiting.size());
    const int idle = std::max(0, options.executors - running);
    const int wanted = idle + static_cast<int>(rate * 0.1) - waiting_now;
    return std::min(wanted, options.max_in_hand - static_cast<int>(in_hand.size()));
  }

  void UpdateRate() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    const absl::Time now = Mono();
    const double seconds = absl::ToDoubleSeconds(now - rate_at);
    if (seconds < 0.02) return;
    const double recent = static_cast<double>(executed - rate_count) / seconds;
    rate = recent > rate ? recent : rate + (recent - rate) * std::min(1.0, seconds * 4);
    rate_at = now;
    rate_count = executed;
  }

  void ReaderLoop() {
    absl::Time refreshed = absl::InfinitePast();
    bool recover = true;  // own pending entries that a lost reply delivered, looked at after every reconnect
    absl::Duration trouble = absl::Milliseconds(50);
    while (true) {
      if (Mono() - refreshed > absl::Seconds(1)) {
        if (RefreshStreams().ok()) refreshed = Mono();
      }
      int credit;
      std::vector<std::pair<std::string, int>> from;
      {
        absl::MutexLock lock(&mu);
        UpdateRate();
        auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return stop_reading || Credit() > 0; };
        mu.AwaitWithTimeout(absl::Condition(&ready), absl::Milliseconds(50));
        if (stop_reading) return;
        credit = Credit();
        from = streams;
      }
      if (credit <= 0) continue;
      if (from.empty()) {
        Pause(absl::Milliseconds(100));
        continue;
      }
      const absl::Status read = Read(from, std::min(credit, options.read_batch), recover);
      if (read.ok()) {
        recover = false;
        trouble = absl::Milliseconds(50);
        if (redis_down.exchange(false)) log::Info("Redis is back: jobs are read from the streams again");
        continue;
      }
      recover = true;
      if (!redis_down.exchange(true)) {
        log::Warn("Redis is away: jobs are claimed from PostgreSQL", {{"error", std::string(read.message())}});
        mark_all = true;  // what is in hand must not look stale to others that claim
      }
      const absl::StatusOr<int> claimed = Claim(from, credit);
      if (!claimed.ok() || *claimed == 0) {
        Pause(trouble);
        trouble = std::min(trouble * 2, absl::Milliseconds(500));
      } else {
        trouble = absl::Milliseconds(50);
      }
    }
  }

  // Sleeps, but not past the end of reading.
  void Pause(absl::Duration duration) {
    absl::MutexLock lock(&mu);
    mu.AwaitWithTimeout(absl::Condition(&stop_reading), duration);
  }

  absl::Status Read(const std::vector<std::pair<std::string, int>>& from, int count, bool recover) {
    redis::Command command = {"XREADGROUP", "GROUP", kGroup, consumer, "COUNT", absl::StrCat(recover ? 1000 : count)};
    if (!recover) {
      command.push_back("BLOCK");
      command.push_back(absl::StrCat(absl::ToInt64Milliseconds(kBlock)));
    }
    command.push_back("STREAMS");
    std::vector<std::string> names;
    for (const auto& [queue, priority] : from) names.push_back(StreamKey(queue, priority));
    command.insert(command.end(), names.begin(), names.end());
    command.insert(command.end(), names.size(), recover ? "0" : ">");
    absl::StatusOr<redis::Reply> reply =
        recover ? reader_redis.Execute(command) : reader_redis.Blocking(command, kBlock);
    if (!reply.ok()) return reply.status();
    if (!reply->ok()) {
      if (reply->text.rfind("NOGROUP", 0) == 0) {
        mark_all = true;
        return CreateGroups(reader_redis, names);
      }
      return absl::UnavailableError(reply->text);
    }
    std::vector<InHandPtr> batch;
    std::vector<bool> has_args;
    std::vector<std::pair<std::string, std::string>> junk;
    absl::flat_hash_set<std::string> known;
    if (recover) {
      absl::MutexLock lock(&mu);
      for (const auto& [key, job] : in_hand) known.insert(job->stream + job->entry_id);
    }
    for (const auto& stream : reply->elements) {
      for (const auto& item : stream.elements[1].elements) {
        const std::string& entry_id = item.elements[0].text;
        if (recover && known.contains(stream.elements[0].text + entry_id)) continue;
        std::optional<Entry> entry;
        const auto& fields = item.elements[1].elements;  // nil for a pending entry that was deleted
        for (size_t i = 0; i + 1 < fields.size(); i += 2) {
          if (fields[i].text == kEntryField) entry = DecodeEntry(fields[i + 1].text);
        }
        if (!entry.has_value()) {
          junk.emplace_back(stream.elements[0].text, entry_id);
          continue;
        }
        auto job = std::make_shared<InHand>();
        job->id = entry->id;
        job->fence = entry->fence;
        job->stream = stream.elements[0].text;
        job->entry_id = entry_id;
        job->taken = Mono();
        has_args.push_back(entry->args.has_value());
        if (entry->args.has_value()) job->args = std::move(*entry->args);
        batch.push_back(std::move(job));
      }
    }
    if (!junk.empty()) Acknowledge(junk, {});
    if (!batch.empty()) Check(batch, has_args);
    return absl::OkStatus();
  }

  // Fills a job from the columns that kCheck and kClaim share. False: it may not run now.
  void Fill(const pqxx::row& row, InHand& job) {
    job.attempt = row[2].as<int>();
    job.kind = row[3].c_str();
    job.queue = row[4].c_str();
    job.priority = row[5].as<int>();
    job.context.principal = PrincipalOf(row[7].c_str());
    job.context.principal.tenant = row[6].c_str();
    job.max_attempts = row[8].as<int>();
    if (!row[9].is_null()) job.key = row[9].as<int64_t>();
    // The run is a span of its own in the trace of whoever enqueued it.
    job.context.traceparent = trace::Child(row[10].is_null() ? "" : row[10].c_str()).Traceparent();
    if (!row[11].is_null()) job.context.request_id = row[11].c_str();
    if (!row[12].is_null()) job.checkpoint = row[12].c_str();
    if (!row[13].is_null()) job.args = row[13].c_str();
    job.waited = absl::Seconds(row[16].as<double>());
    if (const auto field = row["options"]; !field.is_null()) {
      if (auto own = ParseJobOptions(field.c_str()); own.ok()) job.options = *std::move(own);
    }
    if (const auto field = row["sealed"]; !field.is_null()) job.sealed = field.c_str();
  }

  const Principal& PrincipalOf(const char* json) {
    auto it = principals.find(json);
    if (it != principals.end()) return it->second;
    if (principals.size() >= 1000) principals.clear();
    Principal principal;
    if (auto document = JsonDocument::Parse(json); document.ok()) {
      if (const JsonValue* subject = document->root().Find("subject"); subject != nullptr && subject->is_string())
        principal.subject = std::string(subject->text());
      if (const JsonValue* roles = document->root().Find("roles"); roles != nullptr && roles->is_array()) {
        for (const auto& role : roles->items()) principal.roles.emplace_back(role.text());
      }
    }
    return principals.emplace(json, std::move(principal)).first->second;
  }

  // The start check: one statement for the batch. Waits, with the entries kept alive by the heartbeat, while PostgreSQL
  // is away.
  void Check(std::vector<InHandPtr>& batch, const std::vector<bool>& has_args) {
    {
      absl::MutexLock lock(&mu);
      checking = batch;
    }
    PgArray id_array, fence_array, want_array;
    for (size_t i = 0; i < batch.size(); ++i) {
      id_array.Add(batch[i]->id.ToString());
      fence_array.Add(absl::StrCat(batch[i]->fence));
      want_array.Add(has_args[i] ? "f" : "t");
    }
    const std::string ids = std::move(id_array).Finish(), fences = std::move(fence_array).Finish(),
                      wants = std::move(want_array).Finish();
    absl::flat_hash_map<std::pair<Uuid, int64_t>, InHandPtr> wanted;  // an entry that is there twice counts once
    for (const auto& job : batch) wanted.try_emplace({job->id, job->fence}, job);
    absl::flat_hash_map<InHand*, int> verdict;  // 1 run, 2 late, 3 not here
    absl::Duration wait = absl::Milliseconds(50);
    while (true) {
      verdict.clear();
      const absl::Status status =
          pool.Autocommit(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
            for (const auto& row : Run(tx, sql::kCheck, ids, fences, wants)) {
              ASSIGN_OR_RETURN(const Uuid job_id, ParseUuid(row[0].c_str()));
              const auto it = wanted.find({job_id, row[1].as<int64_t>()});
              if (it == wanted.end()) continue;
              InHand& job = *it->second;
              Fill(row, job);
              const bool may_run = !row[15].as<bool>() && registry.Find(job.kind) != nullptr;
              verdict[&job] = !row[14].is_null() && row[14].as<bool>() ? 2 : may_run ? 1 : 3;
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
    std::vector<InHandPtr> elsewhere;
    {
      absl::MutexLock lock(&mu);
      checking.clear();
      for (auto& job : batch) {
        const auto it = verdict.find(job.get());
        if (it == verdict.end() || in_hand.contains({job->id, job->fence})) {
          gone.emplace_back(job->stream, job->entry_id);
        } else if (it->second == 3) {
          elsewhere.push_back(job);
        } else {
          Take(job);
          if (it->second == 2) {
            FinishLocked({job, Outcome::Discard("not started by its deadline")});
          } else {
            waiting.push_back(job);
          }
        }
      }
    }
    if (!gone.empty()) Acknowledge(gone, {});
    if (!elsewhere.empty()) PutBack(elsewhere);
  }

  void Take(const InHandPtr& job) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    const QueuePolicy policy = PolicyOf(job->queue);
    job->soft_limit = job->options.soft_limit.value_or(policy.soft_limit);
    // A job that may take longer than its queue's hard limit said so by its soft limit.
    job->hard_limit = std::max(job->options.hard_limit.value_or(policy.hard_limit),
                               job->options.soft_limit.value_or(absl::ZeroDuration()));
    in_hand[{job->id, job->fence}] = job;
  }

  void FinishLocked(Finished f) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    if (!f.job->finished.exchange(true)) finished.push_back(std::move(f));
  }

  // Paused queues and kinds that this worker does not know: back to where the dispatcher decides. A keyed job keeps its
  // place and is looked at again.
  void PutBack(const std::vector<InHandPtr>& jobs) {
    std::vector<std::pair<std::string, std::string>> entries;
    for (const int target : {kStateReady, kStateScheduled}) {
      PgArray ids, fences;
      int n = 0;
      for (const auto& job : jobs) {
        if (job->key.has_value() != (target == kStateScheduled)) continue;
        ids.Add(job->id.ToString());
        fences.Add(absl::StrCat(job->fence));
        ++n;
      }
      if (n == 0) continue;
      const std::string a = std::move(ids).Finish(), b = std::move(fences).Finish();
      const absl::Status status =
          pool.Autocommit(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
            Run(tx, sql::kReissue, a, b, target, "{}", "{}");
            return absl::OkStatus();
          });
      if (!status.ok()) return;  // they stay pending: reclaimed after the lease
    }
    for (const auto& job : jobs) entries.emplace_back(job->stream, job->entry_id);
    Acknowledge(entries, {});
  }

  absl::StatusOr<int> Claim(const std::vector<std::pair<std::string, int>>& from, int credit) {
    int taken = 0;
    auto take = [&](const pqxx::result& rows) -> absl::Status {
      std::vector<InHandPtr> jobs;
      for (const auto& row : rows) {
        auto job = std::make_shared<InHand>();
        ASSIGN_OR_RETURN(job->id, ParseUuid(row[0].c_str()));
        job->fence = row[1].as<int64_t>();
        Fill(row, *job);
        job->taken = Mono();
        job->marked = true;
        jobs.push_back(std::move(job));
      }
      absl::MutexLock lock(&mu);
      for (size_t i = 0; i < jobs.size(); ++i) {
        Take(jobs[i]);
        const auto late = rows[static_cast<pqxx::result::size_type>(i)][14];
        if (!late.is_null() && late.as<bool>()) {
          FinishLocked({jobs[i], Outcome::Discard("not started by its deadline")});
        } else {
          waiting.push_back(jobs[i]);
        }
      }
      taken += static_cast<int>(jobs.size());
      claimed += static_cast<int64_t>(jobs.size());
      metrics.claimed.Increment(static_cast<double>(jobs.size()));
      return absl::OkStatus();
    };
    const double stale = absl::ToDoubleSeconds(options.claim_stale);
    for (const auto& stream : from) {
      if (taken >= credit) break;
      // From a position, so that the dead index entries of finished jobs aren't walked each time; from the head once
      // the end is reached.
      Uuid& position = claim_position[stream];
      pqxx::result rows;
      RETURN_IF_ERROR(pool.Autocommit(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
        rows = Run(tx, sql::kClaim, stream.first, stream.second, position.ToString(),
                   std::min(credit - taken, options.read_batch), kinds, consumer, stale);
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
      RETURN_IF_ERROR(pool.Autocommit(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
        rows = Run(tx, sql::kClaimKeyed, std::min(credit - taken, options.read_batch), kinds, consumer, stale);
        return absl::OkStatus();
      }));
      RETURN_IF_ERROR(take(rows));
    }
    return taken;
  }

  // ---- running ----

  void ExecutorLoop() {
    while (true) {
      InHandPtr job;
      {
        absl::MutexLock lock(&mu);
        mu.Await(absl::Condition(
            +[](Impl* i) ABSL_EXCLUSIVE_LOCKS_REQUIRED(i->mu) { return i->stop_executors || !i->waiting.empty(); },
            this));
        if (stop_executors) return;
        job = std::move(waiting.front());
        waiting.pop_front();
        if (job->finished || job->stop != Stop::kNone)
          continue;  // fenced while it waited: the heartbeat has dealt with it
        ++running;
        ++started;
        job->started_us = std::max<int64_t>(1, absl::ToUnixMicros(Mono()));
      }
      job->context.deadline = absl::Now() + job->soft_limit;
      Outcome outcome = RunHandler(job);
      const absl::Duration ran = Mono() - absl::FromUnixMicros(job->started_us);
      job->ran_us = std::max<int64_t>(1, absl::ToInt64Microseconds(ran));
      metrics.run.Observe(absl::ToDoubleSeconds(ran));
      absl::MutexLock lock(&mu);
      --running;
      ++executed;
      UpdateRate();
      const bool give_back = job->stop == Stop::kShutdown &&
                             (outcome.kind == Outcome::Kind::kRetry || outcome.kind == Outcome::Kind::kSnooze);
      FinishLocked({std::move(job), std::move(outcome), give_back});
    }
  }

  Outcome RunHandler(const InHandPtr& job) {
    const Handler* handler = registry.Find(job->kind);
    if (!job->sealed.empty()) {
      if (options.sealer == nullptr)
        return Outcome::Retry("sealed", "this worker has no key for sensitive arguments (secrets_key_file)");
      auto args = options.sealer->Open(job->context.principal.tenant, job->id, HexDecode(job->sealed).value_or(""));
      if (!args.ok()) return Outcome::Retry("sealed", std::string(args.status().message()));
      job->args = *std::move(args);
    }
    Running running_job(*this, job);
    try {
      return (*handler)(running_job);
    } catch (const std::exception& e) {
      return Outcome::Retry("exception", e.what());
    } catch (...) {
      return Outcome::Retry("exception", "an exception of unknown type");
    }
  }

  // ---- storing ----

  void StoreLoop() {
    absl::Time trimmed = Mono();
    int64_t acknowledged = 0;
    absl::flat_hash_set<std::string> touched;
    while (true) {
      std::vector<Finished> batch;
      {
        absl::MutexLock lock(&mu);
        mu.AwaitWithTimeout(
            absl::Condition(
                +[](Impl* i) ABSL_EXCLUSIVE_LOCKS_REQUIRED(i->mu) { return i->stop_storing || !i->finished.empty(); },
                this),
            touched.empty() ? absl::Milliseconds(500) : absl::Milliseconds(20));
        const size_t n = std::min(finished.size(), static_cast<size_t>(options.store_batch));
        batch.assign(std::make_move_iterator(finished.begin()), std::make_move_iterator(finished.begin() + n));
        finished.erase(finished.begin(), finished.begin() + n);
        if (batch.empty() && stop_storing) break;
      }
      if (!batch.empty()) {
        for (const auto& f : batch) {
          if (!f.job->entry_id.empty()) touched.insert(f.job->stream), ++acknowledged;
        }
        Store(batch);
      }
      if (!touched.empty() && (acknowledged >= 1000 || Mono() - trimmed > absl::Milliseconds(20))) {
        for (const auto& stream : touched) redis.Script(kTrim, {stream}, {}).status().IgnoreError();
        touched.clear();
        acknowledged = 0;
        trimmed = Mono();
      }
    }
  }

  // Tries until it is stored. Nothing is acknowledged before; a statement that PostgreSQL refuses for what it carries
  // is cut in two until the culprit is alone.
  void Store(std::vector<Finished>& batch) {
    std::vector<Handout> handouts;
    std::vector<int64_t> freed;
    std::vector<Finished> own_transaction, plain, keyed, back, later;
    for (auto& f : batch) {
      if (f.job->finished_in) {
        own_transaction.push_back(f);
      } else if (f.give_back) {
        back.push_back(f);
      } else {
        (f.job->key.has_value() ? keyed : plain).push_back(f);
      }
    }
    bool stored = true;
    if (!own_transaction.empty()) stored &= Verify(own_transaction, plain, keyed, handouts, freed);
    if (!plain.empty()) stored &= StoreOutcomes(plain, false, freed, handouts);
    if (!keyed.empty()) stored &= StoreOutcomes(keyed, true, freed, handouts);
    if (!back.empty()) stored &= GiveBack(back, handouts);
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

  // Runs `body` until PostgreSQL has taken it. False: it cannot (or the process is ending): nothing may be
  // acknowledged.
  bool Persist(size_t jobs, bool transaction, absl::FunctionRef<absl::Status(pqxx::transaction_base&)> body,
               absl::Status* refused) {
    absl::Duration wait = absl::Milliseconds(50);
    while (true) {
      const absl::Time deadline = absl::Now() + absl::Seconds(10);
      const absl::Status status = transaction ? pool.Transaction(deadline, body) : pool.Autocommit(deadline, body);
      if (status.ok()) return true;
      if (!MayRecover(status)) {
        *refused = status;
        return false;
      }
      log::Warn("results wait for PostgreSQL",
                {{"jobs", static_cast<int64_t>(jobs)}, {"error", std::string(status.message())}});
      absl::MutexLock lock(&mu);
      if (mu.AwaitWithTimeout(absl::Condition(&give_up), wait)) {
        *refused = status;
        return false;
      }
      wait = std::min(wait * 2, absl::Seconds(1));
    }
  }

  bool StoreOutcomes(std::vector<Finished>& batch, bool keyed, std::vector<int64_t>& freed,
                     std::vector<Handout>& handouts) {
    int64_t done = 0, retries = 0;
    size_t wanted_done = 0, wanted_retries = 0;
    std::vector<int64_t> keys;
    std::vector<Handout> next;
    absl::Status refused;
    bool mixed = keyed;
    {
      CompleteArrays complete;
      RetryArrays retry;
      for (const auto& f : batch) Sort(f, complete, retry);
      mixed = keyed || (complete.size > 0 && retry.size > 0);
    }
    const bool ok = Persist(
        batch.size(), mixed,
        [&](pqxx::transaction_base& tx) -> absl::Status {
          CompleteArrays complete;
          RetryArrays retry;
          for (const auto& f : batch) Sort(f, complete, retry);
          keys.clear();
          next.clear();
          done = retries = 0;
          wanted_done = complete.size;
          wanted_retries = retry.size;
          if (wanted_done > 0) done = Complete(tx, std::move(complete), &id, options.name, &keys, &next);
          if (wanted_retries > 0) retries = static_cast<int64_t>(Retry(tx, std::move(retry)));
          return absl::OkStatus();
        },
        &refused);
    if (ok) {
      freed.insert(freed.end(), keys.begin(), keys.end());
      handouts.insert(handouts.end(), std::make_move_iterator(next.begin()), std::make_move_iterator(next.end()));
      const int64_t lost = static_cast<int64_t>(wanted_done + wanted_retries) - done - retries;
      fenced += lost;
      metrics.fenced.Increment(static_cast<double>(lost));
      Count(batch);
      return true;
    }
    if (absl::IsCancelled(refused) || MayRecover(refused)) return false;
    if (batch.size() > 1) {
      std::vector<Finished> half(std::make_move_iterator(batch.begin() + batch.size() / 2),
                                 std::make_move_iterator(batch.end()));
      batch.resize(batch.size() / 2);
      const bool first = StoreOutcomes(batch, keyed, freed, handouts);
      return StoreOutcomes(half, keyed, freed, handouts) && first;
    }
    log::Error("a result was refused by the database", {{"job", FormatId("job", batch[0].job->id)},
                                                        {"kind", batch[0].job->kind},
                                                        {"error", std::string(refused.message())}});
    if (batch[0].outcome.code == "result_refused") return false;
    batch[0].outcome = Outcome::Retry("result_refused", "the database refused the job's result");
    return StoreOutcomes(batch, keyed, freed, handouts);
  }

  void Count(const std::vector<Finished>& batch) {
    for (const auto& f : batch) {
      const Outcome& o = f.outcome;
      const bool last = o.kind == Outcome::Kind::kDead ||
                        (o.kind == Outcome::Kind::kRetry && f.job->attempt + 1 >= f.job->max_attempts);
      if (const int64_t began = f.job->started_us; began != 0) {
        figures.Add(
            f.job->queue, f.job->kind,
            o.kind == Outcome::Kind::kDone      ? RunOutcome::kSucceeded
            : o.kind == Outcome::Kind::kDiscard ? RunOutcome::kDiscarded
            : o.kind == Outcome::Kind::kSnooze  ? RunOutcome::kSnoozed
            : last                              ? RunOutcome::kDead
                                                : RunOutcome::kFailed,
            f.job->waited + (absl::FromUnixMicros(began) - f.job->taken),
            f.job->ran_us != 0 ? absl::Microseconds(f.job->ran_us.load()) : Mono() - absl::FromUnixMicros(began));
      }
      if (o.kind == Outcome::Kind::kDone) {
        ++succeeded;
        metrics.succeeded.Increment();
      } else if (o.kind == Outcome::Kind::kDiscard) {
        metrics.discarded.Increment();
      } else if (o.kind == Outcome::Kind::kSnooze) {
        metrics.snoozed.Increment();
      } else {
        if (last)
          ++dead;
        else
          ++retried;
        (last ? metrics.dead : metrics.retried).Increment();
        log::Write(last ? log::Level::kWarn : log::Level::kInfo,
                   last ? "job is dead" : "job failed, will be tried again",
                   {{"job", FormatId("job", f.job->id)},
                    {"kind", f.job->kind},
                    {"attempt", f.job->attempt + 1},
                    {"code", o.code},
                    {"error", CleanText(o.message, 500)},
                    {"request_id", f.job->context.request_id}});
      }
    }
  }

  // Jobs that were finished in the handler's own transaction: gone, if it committed. Still there under our fence: it
  // did not, whatever the handler thinks.
  bool Verify(std::vector<Finished>& batch, std::vector<Finished>& plain, std::vector<Finished>& keyed,
              std::vector<Handout>& handouts, std::vector<int64_t>& freed) {
    PgArray id_array, fence_array;
    for (const auto& f : batch) {
      id_array.Add(f.job->id.ToString());
      fence_array.Add(absl::StrCat(f.job->fence));
    }
    const std::string ids = std::move(id_array).Finish(), fences = std::move(fence_array).Finish();
    absl::flat_hash_set<Uuid> still;
    absl::Status refused;
    if (!Persist(
            batch.size(), false,
            [&](pqxx::transaction_base& tx) -> absl::Status {
              still.clear();
              for (const auto& row : Run(tx, sql::kHeld, ids, fences)) {
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
      Count({f});
      absl::MutexLock lock(&f.job->mu);
      handouts.insert(handouts.end(), f.job->successors.begin(), f.job->successors.end());
      if (f.job->key.has_value()) freed.push_back(*f.job->key);
    }
    return true;
  }

  bool GiveBack(std::vector<Finished>& batch, std::vector<Handout>& handouts) {
    const int target = redis_down ? kStateReady : kStatePublished;
    PgArray id_array, fence_array;
    for (const auto& f : batch) {
      id_array.Add(f.job->id.ToString());
      fence_array.Add(absl::StrCat(f.job->fence));
    }
    const std::string ids = std::move(id_array).Finish(), fences = std::move(fence_array).Finish();
    std::vector<Handout> next;
    absl::Status refused;
    if (!Persist(
            batch.size(), false,
            [&](pqxx::transaction_base& tx) -> absl::Status {
              next.clear();
              for (const auto& row : Run(tx, sql::kReissue, ids, fences, target, "{}", "{}")) {
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

  // XADD of what follows, XACK of what is stored, in one round trip. Redis away: entries stay pending, their rows say
  // that they are done.
  void Acknowledge(const std::vector<std::pair<std::string, std::string>>& entries,
                   const std::vector<Handout>& handouts, bool remove = true) {
    std::map<std::string, std::vector<std::string>> by_stream;
    for (const auto& [stream, entry] : entries) by_stream[stream].push_back(entry);
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

  // ---- leases ----

  void HeartbeatLoop() {
    absl::Time beat = absl::InfinitePast();
    std::string epoch;
    while (true) {
      const absl::Time now = Mono();
      Limits(now);
      if (const auto reply = redis.Execute({"GET", kEpochKey}); reply.ok() && reply->ok()) {
        if (!epoch.empty() && reply->text != epoch)
          mark_all = true;  // flushed: our entries are gone, so the rows must say who holds these jobs
        epoch = reply->text;
      }
      const bool all = mark_all.exchange(false);
      if (now - beat >= options.heartbeat || all) {
        beat = now;
        if (Beat(all)) {
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

  absl::Status RenewLease(bool draining) {
    int count;
    {
      absl::MutexLock lock(&mu);
      count = static_cast<int>(in_hand.size());
    }
    return pool.Autocommit(absl::Now() + std::min(options.lease / 2, absl::Seconds(5)),
                           [&](pqxx::transaction_base& tx) -> absl::Status {
                             Run(tx, sql::kRenewWorker, consumer, options.name, kinds, count,
                                 absl::ToDoubleSeconds(options.lease), draining ? "t" : "f");
                             return absl::OkStatus();
                           });
  }

  // One heartbeat: the lease, jobs that last, jobs that are no longer ours. False: PostgreSQL is away.
  bool Beat(bool all) {
    bool draining;
    {
      absl::MutexLock lock(&mu);
      draining = stop_reading;
    }
    const absl::Status lease = RenewLease(draining);
    if (!lease.ok()) log::Warn("lease not renewed", {{"error", std::string(lease.message())}});
    std::vector<InHandPtr> lasting, marked;
    std::map<std::string, redis::Command> keep;
    const absl::Time now = Mono();
    {
      absl::MutexLock lock(&mu);
      auto alive = [&](const InHand& job) {
        if (job.entry_id.empty()) return;
        auto [it, fresh] = keep.try_emplace(job.stream);
        if (fresh) it->second = {"XCLAIM", job.stream, kGroup, consumer, "0"};
        it->second.push_back(job.entry_id);
      };
      for (const auto& [key, job] : in_hand) {
        if (job->marked) {
          if (!job->finished) marked.push_back(job);
        } else if (!job->finished && (all || (job->started_us != 0 &&
                                              now - absl::FromUnixMicros(job->started_us) >= options.heartbeat))) {
          lasting.push_back(job);
        } else if (now - job->taken >= options.heartbeat / 2) {
          alive(*job);  // waiting for a handler or to be stored
        }
      }
      for (const auto& job : checking) alive(*job);
      if (!lease.ok()) {
        for (const auto& job : lasting) alive(*job);
      }
    }
    if (!keep.empty()) {
      std::vector<redis::Command> commands;
      for (auto& [stream, command] : keep) {
        command.push_back("JUSTID");
        commands.push_back(std::move(command));
      }
      redis.Pipeline(commands).status().IgnoreError();
    }
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

  bool Mark(const std::vector<InHandPtr>& jobs) {
    PgArray ids, fences, since;
    const absl::Time now = Mono();
    for (const auto& job : jobs) {
      ids.Add(job->id.ToString());
      fences.Add(absl::StrCat(job->fence));
      const int64_t at = job->started_us;
      since.Add(absl::StrCat(at == 0 ? 0.0 : absl::ToDoubleSeconds(now - absl::FromUnixMicros(at))));
    }
    const std::string a = std::move(ids).Finish(), b = std::move(fences).Finish(), c = std::move(since).Finish();
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
      entries.emplace_back(job->stream, job->entry_id);
    }
    Acknowledge(entries, {});  // they would pin trimming and memory; their lease is the worker's row now
    return true;
  }

  absl::StatusOr<absl::flat_hash_set<Uuid>> Held(const std::vector<InHandPtr>& jobs) {
    PgArray ids, fences;
    for (const auto& job : jobs) {
      ids.Add(job->id.ToString());
      fences.Add(absl::StrCat(job->fence));
    }
    const std::string a = std::move(ids).Finish(), b = std::move(fences).Finish();
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

  // Cancelled, or handed to someone else. A handler is told; a job that waits is dropped.
  void Fence(const InHandPtr& job) {
    if (job->finished_in || job->finished) return;  // finishing changes the row too
    Stop none = Stop::kNone;
    job->stop.compare_exchange_strong(none, Stop::kFenced);
    absl::MutexLock lock(&mu);
    if (job->started_us == 0) {
      std::erase(waiting, job);
      FinishLocked({job, Outcome::Snooze(absl::ZeroDuration())});  // stores nothing under a stale fence; acknowledges
    }
  }

  void Limits(absl::Time now) {
    absl::MutexLock lock(&mu);
    for (const auto& [key, job] : in_hand) {
      const int64_t at = job->started_us;
      if (at == 0 || job->finished) continue;
      const absl::Duration age = now - absl::FromUnixMicros(at);
      if (age >= job->soft_limit) {
        Stop none = Stop::kNone;
        job->stop.compare_exchange_strong(none, Stop::kSoftLimit);
      }
      // Its thread cannot be taken back here, but its fence can: whatever it still does changes nothing.
      if (age >= job->hard_limit)
        FinishLocked({job, Outcome::Retry("hard_limit", absl::StrCat("still running after ",
                                                                     absl::FormatDuration(job->hard_limit)))});
    }
  }

  // ---- start and end ----

  absl::Status Start() {
    RETURN_IF_ERROR(Validate(options));
    RETURN_IF_ERROR(RenewLease(false));
    auto self = shared_from_this();
    threads.emplace_back([self] { self->HeartbeatLoop(); });
    storing = std::thread([self] { self->StoreLoop(); });
    for (int i = 0; i < options.executors; ++i) executors.emplace_back([self] { self->ExecutorLoop(); });
    reading = std::thread([self] { self->ReaderLoop(); });
    if (options.upkeep) upkeep.Start();
    started_ok = true;
    return absl::OkStatus();
  }

  bool Drain(absl::Duration deadline) {
    if (!started_ok || drained.exchange(true)) return true;
    const absl::Time end = Mono() + deadline;
    {
      absl::MutexLock lock(&mu);
      stop_reading = true;
    }
    reading.join();
    if (options.upkeep) upkeep.Stop();  // another worker takes over at once
    bool clean = true;
    {
      absl::MutexLock lock(&mu);
      for (auto& job : waiting) FinishLocked({job, Outcome(), /*give_back=*/true});
      waiting.clear();
      auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return running == 0; };
      const absl::Duration grace = std::min(deadline / 4, absl::Seconds(2));
      if (!mu.AwaitWithTimeout(absl::Condition(&idle), end - grace - Mono())) {
        for (const auto& [key, job] : in_hand) {
          Stop none = Stop::kNone;
          job->stop.compare_exchange_strong(none, Stop::kShutdown);
        }
        if (!mu.AwaitWithTimeout(absl::Condition(&idle), end - Mono())) {
          clean = false;
          for (const auto& [key, job] : in_hand) FinishLocked({job, Outcome(), /*give_back=*/true});
        }
      }
      stop_executors = true;
      // Results are stored even past the deadline, but not for ever.
      auto stored = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return in_hand.empty(); };
      if (!mu.AwaitWithTimeout(absl::Condition(&stored), absl::Seconds(3))) give_up = true;
      stop_storing = true;
      stop_heartbeat = true;
    }
    storing.join();
    for (auto& thread : threads) thread.join();
    for (auto& thread : executors) clean ? thread.join() : thread.detach();
    figures.Flush(pool, absl::Now() + absl::Seconds(1)).IgnoreError();
    pool.Autocommit(absl::Now() + absl::Seconds(1),
                    [&](pqxx::transaction_base& tx) -> absl::Status {
                      Run(tx, sql::kRemoveWorker, consumer);
                      return absl::OkStatus();
                    })
        .IgnoreError();
    if (!redis_down) {
      std::vector<std::string> names;
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

  // Constant after construction.
  const EngineOptions options;
  const Registry& registry;
  postgres::Pool& pool;
  const Uuid id;
  const std::string consumer;
  std::string kinds;
  EngineMetrics metrics;
  StatsAccumulator figures;

  redis::Client reader_redis;  // blocks
  redis::Client redis;         // everything else
  Upkeep upkeep;
  std::map<std::string, Principal, std::less<>> principals;    // the reader's
  std::map<std::pair<std::string, int>, Uuid> claim_position;  // the reader's
  std::thread reading, storing;
  std::vector<std::thread> threads, executors;
  bool started_ok = false;
  std::atomic<bool> drained{false}, redis_down{false}, mark_all{false};
  std::atomic<int64_t> succeeded{0}, retried{0}, dead{0}, fenced{0}, claimed{0}, reissued{0};

  absl::Mutex mu;
  std::deque<InHandPtr> waiting ABSL_GUARDED_BY(mu);
  absl::flat_hash_map<std::pair<Uuid, int64_t>, InHandPtr> in_hand
      ABSL_GUARDED_BY(mu);                              // everything read and checked, until it is stored
  std::vector<InHandPtr> checking ABSL_GUARDED_BY(mu);  // read, being checked
  std::vector<Finished> finished ABSL_GUARDED_BY(mu);
  std::vector<std::pair<std::string, int>> streams ABSL_GUARDED_BY(mu);
  std::vector<std::string> all_streams ABSL_GUARDED_BY(mu);
  int running ABSL_GUARDED_BY(mu) = 0;
  int64_t executed ABSL_GUARDED_BY(mu) = 0, started ABSL_GUARDED_BY(mu) = 0, rate_count ABSL_GUARDED_BY(mu) = 0;
  double rate ABSL_GUARDED_BY(mu) = 0;
  absl::Time rate_at ABSL_GUARDED_BY(mu) = absl::InfinitePast();
  bool stop_reading ABSL_GUARDED_BY(mu) = false, stop_executors ABSL_GUARDED_BY(mu) = false,
                    stop_storing ABSL_GUARDED_BY(mu) = false,
                    stop_heartbeat ABSL_GUARDED_BY(mu) = false, give_up ABSL_GUARDED_BY(mu) = false;
};

Engine::Engine(EngineOptions options, const Registry& registry, postgres::Pool& pool)
    : impl_(std::make_shared<Impl>(std::move(options), registry, pool)) {}
Engine::~Engine() {
  Drain(absl::ZeroDuration());
}
absl::Status Engine::Start() {
  return impl_->Start();
}
bool Engine::Drain(absl::Duration deadline) {
  return impl_->Drain(deadline);
}
const Uuid& Engine::id() const {
  return impl_->id;
}

EngineStats Engine::stats() const {
  EngineStats s;
  s.succeeded = impl_->succeeded;
  s.retried = impl_->retried;
  s.dead = impl_->dead;
  s.fenced = impl_->fenced;
  s.claimed = impl_->claimed;
  s.reissued = impl_->reissued + impl_->upkeep.reissued();
  s.leading = impl_->upkeep.leading();
  s.redis_down = impl_->redis_down;
  absl::MutexLock lock(&impl_->mu);
  s.started = impl_->started;
  s.waiting = static_cast<int>(impl_->waiting.size());
  s.running = impl_->running;
  s.unstored = static_cast<int>(impl_->finished.size());
  return s;
}

}  // namespace mainstay::jobs
