// SPDX-License-Identifier: Apache-2.0
// Mainstay's own load for tests/bench/run jobs: adds jobs through libs/jobs as an application would, and times it.
//
//   jobs_bench enqueue-bulk   --callers 4 --batch 500   callers in flight, one transaction and one statement per batch
//   jobs_bench enqueue-single --callers 16              callers at once, a transaction of its own for each job
//   jobs_bench enqueue-merged --callers 64              the same calls, merged into common commits (MergingEnqueuer)
//   jobs_bench latency        --every-ms 10             one job at a time, with pauses; times the call and the commit
//   jobs_bench --list                                   the subcommands
//
// --keys K gives the jobs K ordering keys in turn; --hot H gives H of them one key more, spread evenly.
// One line of JSON comes out: the rate until the last caller returned and Redis had been told of everything (`seconds`
// includes that; `returned_seconds` does not), and how long single calls took. With --ready it says {"ready":true}
// once its connections are open, waits for a line of standard input, and after its result for the end of it: so that
// whoever measures from outside sees the load alone. The ids of all jobs go to the table bench.enqueued afterwards
// (--ledger): the database, not this program, says what became of them. A call that fails ends the run with status 1:
// a load that lost jobs on its way has no rate.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <iostream>
#include <map>
#include <pqxx/pqxx>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_join.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "libs/base/ids.h"
#include "libs/base/json.h"
#include "libs/base/strings.h"
#include "libs/jobs/enqueue.h"
#include "libs/jobs/merging.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"

namespace mainstay::jobs {
namespace {

constexpr const char* kSubcommands[] = {"enqueue-bulk", "enqueue-single", "enqueue-merged", "latency"};

struct Options {
  std::string subcommand, database, redis, kind = "mainstay.noop", queue = "default", tag, ledger;
  std::string args = R"({"order":123456,"note":"forty-five bytes of JSON"})";
  int64_t jobs = 100000, batch = 500, callers = 1, keys = 0, hot = 0, every_ms = 10;
  bool ready = false;
};

struct Done {
  Uuid id;
  int64_t committed_us = 0;  // wall clock, for latency
};

// One caller's share and what came of it.
struct Caller {
  int64_t first = 0, jobs = 0;
  std::vector<Done> done;
  std::vector<double> call_ms;
  absl::Status status;
};

class Load {
 public:
  explicit Load(Options options)
      : o_(std::move(options)),
        pool_({.url = o_.database,
               .application_name = "jobs_bench",
               .size = static_cast<int>(o_.callers) + 1,
               .acquire_timeout = absl::Seconds(60),
               .statement_timeout = absl::Seconds(60)}) {
    context_.principal = {.tenant = "acme", .subject = "user:bench", .roles = {"staff"}};
  }

  absl::Status Run() {
    auto handoff = std::make_unique<RedisHandoff>(redis::ClientOptions{.url = o_.redis}, pool_);
    handoff_ = handoff.get();
    merging_ = std::make_unique<MergingEnqueuer>(pool_, *handoff);
    callers_.resize(o_.callers);
    for (int64_t i = 0; i < o_.callers; ++i) {
      callers_[i].first = o_.jobs * i / o_.callers;
      callers_[i].jobs = o_.jobs * (i + 1) / o_.callers - callers_[i].first;
    }
    // Every caller holds a connection before any goes on: opening them belongs to no measurement.
    absl::BlockingCounter connected(static_cast<int>(o_.callers));
    std::vector<std::thread> threads;
    for (Caller& caller : callers_) {
      threads.emplace_back([this, &caller, &connected] {
        bool waited = false;
        auto wait = [&] {
          waited = true;
          connected.DecrementCount();
          started_.WaitForNotification();
        };
        if (merged()) {
          wait();  // its callers need no connection each
        } else {
          caller.status = pool_.Autocommit(Deadline(), [&](pqxx::transaction_base& tx) -> absl::Status {
            tx.exec("SELECT 1");
            wait();
            return absl::OkStatus();
          });
          if (!waited) connected.DecrementCount();  // nobody waits for one that failed
        }
        if (caller.status.ok()) caller.status = Work(caller);
      });
    }
    connected.Wait();
    std::string line;
    if (o_.ready) {
      std::printf("{\"ready\":true}\n");
      std::fflush(stdout);
      std::getline(std::cin, line);
    }
    const absl::Time start = absl::Now();
    started_.Notify();
    for (auto& thread : threads) thread.join();
    const absl::Time returned = absl::Now();
    merging_.reset();
    handoff.reset();  // waits until Redis was told
    const absl::Time end = absl::Now();
    for (const Caller& caller : callers_)
      if (!caller.status.ok()) return caller.status;
    Report(absl::ToDoubleSeconds(returned - start), absl::ToDoubleSeconds(end - start));
    if (o_.ready) std::getline(std::cin, line);
    return o_.ledger.empty() ? absl::OkStatus() : WriteLedger();
  }

 private:
  bool merged() const { return o_.subcommand == "enqueue-merged"; }
  static absl::Time Deadline() { return absl::Now() + absl::Minutes(10); }

  JobSpec Spec(int64_t n) const {
    JobSpec spec{.kind = o_.kind, .queue = o_.queue, .args = o_.args};
    if (!o_.tag.empty()) spec.tags = {o_.tag};
    // The hot key's jobs are spread evenly among the others.
    if (o_.hot > 0 && n * o_.hot / o_.jobs != (n + 1) * o_.hot / o_.jobs)
      spec.ordering_key = "hot";
    else if (o_.keys > 0)
      spec.ordering_key = StrCat("key-", n % o_.keys);
    return spec;
  }

  absl::Status Work(Caller& caller) {
    const int64_t batch = o_.subcommand == "enqueue-bulk" ? o_.batch : 1;
    std::vector<JobSpec> specs;
    for (int64_t at = 0; at < caller.jobs; at += batch) {
      specs.clear();
      for (int64_t n = at; n < std::min(at + batch, caller.jobs); ++n) specs.push_back(Spec(caller.first + n));
      const absl::Time begun = absl::Now();
      std::vector<Enqueued> added;
      if (merged()) {
        CallContext context = context_;
        context.deadline = Deadline();
        auto result = merging_->Enqueue(context, std::move(specs[0]));
        if (!result.ok()) return result.status();
        const absl::Time committed = absl::Now();
        caller.call_ms.push_back(absl::ToDoubleMilliseconds(committed - begun));
        caller.done.push_back({result->id, absl::ToUnixMicros(committed)});
        continue;
      }
      auto body = [&](pqxx::transaction_base& tx) -> absl::Status {
        auto result = Enqueue(tx, context_, specs);
        if (!result.ok()) return result.status();
        added = *std::move(result);
        return absl::OkStatus();
      };
      // A single statement is a transaction already.
      const absl::Status status = batch == 1 ? pool_.Autocommit(Deadline(), body) : pool_.Transaction(Deadline(), body);
      if (!status.ok()) return status;
      const absl::Time committed = absl::Now();
      handoff_->Publish(added);
      caller.call_ms.push_back(absl::ToDoubleMilliseconds(committed - begun));
      for (const Enqueued& job : added) caller.done.push_back({job.id, absl::ToUnixMicros(committed)});
      if (o_.subcommand == "latency") absl::SleepFor(absl::Milliseconds(o_.every_ms));
    }
    return absl::OkStatus();
  }

  void Report(double returned_seconds, double seconds) {
    std::vector<double> calls;
    for (const Caller& caller : callers_) calls.insert(calls.end(), caller.call_ms.begin(), caller.call_ms.end());
    std::sort(calls.begin(), calls.end());
    auto at = [&](double share) {
      return calls.empty() ? 0.0 : calls[static_cast<size_t>(share * (calls.size() - 1))];
    };
    std::string json;
    JsonWriter(json)
        .BeginObject()
        .Key("jobs")
        .Int(o_.jobs)
        .Key("seconds")
        .Double(seconds)
        .Key("returned_seconds")
        .Double(returned_seconds)
        .Key("per_s")
        .Double(static_cast<double>(o_.jobs) / seconds)
        .Key("call_p50_ms")
        .Double(at(0.5))
        .Key("call_p99_ms")
        .Double(at(0.99))
        .EndObject();
    std::printf("%s\n", json.c_str());
    std::fflush(stdout);
  }

  absl::Status WriteLedger() {
    return pool_.Transaction(Deadline(), [&](pqxx::transaction_base& tx) -> absl::Status {
      pqxx::stream_to stream(tx, "bench.enqueued", std::vector<std::string>{"id", "run", "committed_us"});
      for (const Caller& caller : callers_)
        for (const Done& job : caller.done) stream << std::make_tuple(job.id.ToString(), o_.ledger, job.committed_us);
      stream.complete();
      return absl::OkStatus();
    });
  }

  const Options o_;
  postgres::Pool pool_;
  CallContext context_;
  Handoff* handoff_ = nullptr;
  std::unique_ptr<MergingEnqueuer> merging_;
  std::vector<Caller> callers_;
  absl::Notification started_;
};

bool Number(std::string_view text, int64_t* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size() && *value >= 0;
}

int Usage(std::string_view problem) {
  std::fprintf(stderr, "jobs_bench: %s\n", std::string(problem).c_str());
  return 2;
}

int Main(int argc, char** argv) {
  Options o;
  const std::string list = absl::StrJoin(kSubcommands, " ");
  if (argc < 2) return Usage(StrCat("expected one of: ", list));
  o.subcommand = argv[1];
  if (o.subcommand == "--list") {
    std::printf("%s\n", list.c_str());
    return 0;
  }
  if (std::find(std::begin(kSubcommands), std::end(kSubcommands), o.subcommand) == std::end(kSubcommands))
    return Usage(StrCat("there is no ", o.subcommand, ", only: ", list));
  const std::map<std::string_view, std::string*> texts = {
      {"--database", &o.database}, {"--redis", &o.redis}, {"--kind", &o.kind},    {"--queue", &o.queue},
      {"--tag", &o.tag},           {"--args", &o.args},   {"--ledger", &o.ledger}};
  const std::map<std::string_view, int64_t*> numbers = {{"--jobs", &o.jobs},       {"--batch", &o.batch},
                                                        {"--callers", &o.callers}, {"--keys", &o.keys},
                                                        {"--hot", &o.hot},         {"--every-ms", &o.every_ms}};
  for (int i = 2; i < argc; ++i) {
    const std::string_view name = argv[i];
    if (name == "--ready") {
      o.ready = true;
      continue;
    }
    if (i + 1 == argc) return Usage(StrCat(name, " needs a value"));
    const std::string_view value = argv[++i];
    if (const auto text = texts.find(name); text != texts.end()) {
      *text->second = value;
    } else if (const auto number = numbers.find(name); number == numbers.end()) {
      return Usage(StrCat("unknown option ", name));
    } else if (!Number(value, number->second)) {
      return Usage(StrCat(name, " ", value, " is not a number"));
    }
  }
  if (o.database.empty() || o.redis.empty()) return Usage("--database and --redis are required");
  if (o.jobs < 1 || o.batch < 1 || o.batch > static_cast<int64_t>(kMaxBatch) || o.callers < 1 || o.callers > 1000)
    return Usage("--jobs, --batch (to 10000) and --callers (to 1000) must be at least 1");
  log::Init("jobs_bench", "warn");
  Load load(std::move(o));
  const absl::Status status = load.Run();
  if (!status.ok()) std::fprintf(stderr, "jobs_bench: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace mainstay::jobs

int main(int argc, char** argv) {
  return mainstay::jobs::Main(argc, argv);
}
