// SPDX-License-Identifier: Apache-2.0
// Producers of jobs at full speed, as a user links them: prints one JSON object with the rate and the CPU time of
// everything together (this process, PostgreSQL, Redis) per job.
//
//   jobs_enqueue_bench enqueue-bulk   --database URL --redis URL [--jobs N] [--batch 500] [--callers 1]
//   jobs_enqueue_bench enqueue-single --database URL --redis URL [--jobs N] [--callers 1]     each in its own
//   transaction
//
// Meant for a migrated database in which no worker runs: it has a queue of its own, with an open window, so that every
// job is committed and added to its stream; both are emptied before and after. The time ends when Redis has the last
// one. CPU time is read from /proc, so both servers must be on this machine, and quiet but for this.
#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <pqxx/pqxx>
#include <sstream>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "libs/base/json.h"
#include "libs/jobs/enqueue.h"
#include "libs/jobs/keys.h"
#include "libs/jobs/merging.h"
#include "libs/postgres/pool.h"
#include "libs/redis/client.h"

namespace mainstay::jobs {
namespace {

constexpr char kQueue[] = "jobs_enqueue_bench";
constexpr char kArgs[] = R"({"order":123456,"note":"45 bytes of JSON....."})";

struct Settings {
  std::string database, redis;
  int64_t jobs = 0, batch = 500, callers = 1;
};

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "jobs_enqueue_bench: %s\n", message.c_str());
  std::exit(1);
}
void Require(const absl::Status& status) {
  if (!status.ok()) Die(std::string(status.message()));
}

// utime + stime of a process, with those of its ended children, in seconds; and its parent.
bool ReadStat(const std::string& pid, double* seconds, std::string* parent) {
  std::ifstream in("/proc/" + pid + "/stat");
  std::string line;
  if (!std::getline(in, line)) return false;
  std::istringstream fields(line.substr(line.rfind(')') + 2));
  std::vector<std::string> f;
  for (std::string word; fields >> word;) f.push_back(word);
  if (f.size() < 15) return false;
  *parent = f[1];
  double ticks = 0;
  for (int i = 11; i <= 14; ++i) ticks += std::stod(f[static_cast<size_t>(i)]);
  *seconds = ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
  return true;
}

class Cpu {
 public:
  Cpu(postgres::Pool& pool, redis::Client& redis) {
    Require(pool.Autocommit(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
      double seconds;
      if (!ReadStat(tx.exec("SELECT pg_backend_pid()")[0][0].c_str(), &seconds, &postmaster_))
        return absl::NotFoundError("PostgreSQL's processes are not on this machine");
      return absl::OkStatus();
    }));
    const auto info = redis.Execute({"INFO", "server"});
    Require(info.status());
    const size_t at = info->text.find("process_id:");
    redis_ = at == std::string::npos ? "" : info->text.substr(at + 11, info->text.find('\r', at) - at - 11);
    std::string parent;
    double seconds;
    if (!ReadStat(redis_, &seconds, &parent)) Die("Redis' process is not on this machine");
  }
  double Seconds() const {
    rusage own{};
    getrusage(RUSAGE_SELF, &own);
    double sum = static_cast<double>(own.ru_utime.tv_sec + own.ru_stime.tv_sec) +
                 static_cast<double>(own.ru_utime.tv_usec + own.ru_stime.tv_usec) / 1e6;
    DIR* proc = opendir("/proc");
    while (const dirent* entry = readdir(proc)) {
      if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
      double seconds;
      std::string parent;
      const std::string pid = entry->d_name;
      if (ReadStat(pid, &seconds, &parent) && (parent == postmaster_ || pid == postmaster_ || pid == redis_))
        sum += seconds;
    }
    closedir(proc);
    return sum;
  }

 private:
  std::string postmaster_, redis_;
};

void Clean(postgres::Pool& pool, redis::Client& redis, bool open) {
  Require(pool.Transaction(absl::Now() + absl::Minutes(5), [&](pqxx::transaction_base& tx) -> absl::Status {
    tx.exec("DELETE FROM mainstay.jobs WHERE queue = 'jobs_enqueue_bench'");
    tx.exec("DELETE FROM mainstay.job_windows WHERE queue = 'jobs_enqueue_bench'");
    tx.exec("DELETE FROM mainstay.job_queues WHERE name = 'jobs_enqueue_bench'");
    if (open) {
      tx.exec("INSERT INTO mainstay.job_queues (name) VALUES ('jobs_enqueue_bench')");
      tx.exec("INSERT INTO mainstay.job_windows VALUES ('jobs_enqueue_bench', 4, now() + interval '1 hour')");
    }
    return absl::OkStatus();
  }));
  // Now, so that autovacuum does not do it in the middle of a measurement.
  Require(pool.Autocommit(absl::Now() + absl::Minutes(5), [&](pqxx::transaction_base& tx) -> absl::Status {
    tx.exec("VACUUM ANALYZE mainstay.jobs");
    return absl::OkStatus();
  }));
  Require(redis.Execute({"DEL", StreamKey(kQueue, 4)}).status());
}

CallContext Context() {
  CallContext context;
  context.principal = {.tenant = "bench", .subject = "service:bench"};
  return context;
}

// Runs `one(context)` until all jobs are there; each call adds `per_call` of them.
template <typename F>
void Spread(const Settings& s, int64_t per_call, F one) {
  std::atomic<int64_t> left{s.jobs / per_call};
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < s.callers; ++i) {
    threads.emplace_back([&] {
      const CallContext context = Context();
      while (left.fetch_sub(1) > 0) one(context);
    });
  }
  for (auto& thread : threads) thread.join();
}

void Bulk(const Settings& s, postgres::Pool& pool, Handoff& handoff, bool keyed) {
  std::atomic<int64_t> key{0};
  Spread(s, s.batch, [&](const CallContext& context) {
    std::vector<JobSpec> specs(static_cast<size_t>(s.batch),
                               JobSpec{.kind = "bench.noop", .queue = kQueue, .args = kArgs});
    for (JobSpec& spec : specs) {
      if (keyed) spec.ordering_key = std::to_string(key++ % 10000);
    }
    std::vector<Enqueued> added;
    Require(pool.Transaction(absl::Now() + absl::Seconds(30), [&](pqxx::transaction_base& tx) -> absl::Status {
      auto result = Enqueue(tx, context, specs);
      if (result.ok()) added = *std::move(result);
      return result.status();
    }));
    handoff.Publish(added);
  });
}

void EnqueueBulk(const Settings& s, postgres::Pool& pool, Handoff& handoff) {
  Bulk(s, pool, handoff, false);
}
void EnqueueKeyed(const Settings& s, postgres::Pool& pool, Handoff& handoff) {
  Bulk(s, pool, handoff, true);
}

void EnqueueMerged(const Settings& s, postgres::Pool& pool, Handoff& handoff) {
  MergingEnqueuer merging(pool, handoff);
  Spread(s, 1, [&](CallContext context) {
    context.deadline = absl::Now() + absl::Seconds(30);
    Require(merging.Enqueue(context, {.kind = "bench.noop", .queue = kQueue, .args = kArgs}).status());
  });
}

void EnqueueSingle(const Settings& s, postgres::Pool& pool, Handoff& handoff) {
  Spread(s, 1, [&](const CallContext& context) {
    const JobSpec spec{.kind = "bench.noop", .queue = kQueue, .args = kArgs};
    std::vector<Enqueued> added;
    // A single statement is a transaction of its own.
    Require(pool.Autocommit(absl::Now() + absl::Seconds(30), [&](pqxx::transaction_base& tx) -> absl::Status {
      auto result = Enqueue(tx, context, {&spec, 1});
      if (result.ok()) added = *std::move(result);
      return result.status();
    }));
    handoff.Publish(added);
  });
}

int Main(int argc, char** argv) {
  const std::map<std::string, std::pair<void (*)(const Settings&, postgres::Pool&, Handoff&), int64_t>> commands = {
      {"enqueue-bulk", {EnqueueBulk, 200000}},
      {"enqueue-keyed", {EnqueueKeyed, 200000}},
      {"enqueue-single", {EnqueueSingle, 20000}},
      {"enqueue-merged", {EnqueueMerged, 200000}},
  };
  const auto command = argc > 1 ? commands.find(argv[1]) : commands.end();
  if (command == commands.end())
    Die("expected enqueue-bulk, -keyed, -single or -merged; see the head of jobs_enqueue_bench.cc");
  Settings s{.jobs = command->second.second};
  for (int i = 2; i + 1 < argc; i += 2) {
    const std::string flag = argv[i], value = argv[i + 1];
    int64_t* number = flag == "--jobs"      ? &s.jobs
                      : flag == "--batch"   ? &s.batch
                      : flag == "--callers" ? &s.callers
                                            : nullptr;
    if (flag == "--database") {
      s.database = value;
    } else if (flag == "--redis") {
      s.redis = value;
    } else if (number == nullptr || !absl::SimpleAtoi(value, number) || *number < 1) {
      Die("what is " + flag + " " + value + "?");
    }
  }
  if (s.database.empty() || s.redis.empty()) Die("--database and --redis are needed");

  postgres::Pool pool({.url = s.database,
                       .application_name = "jobs_enqueue_bench",
                       .size = static_cast<int>(s.callers) + 1,
                       .statement_timeout = absl::Minutes(5),
                       .pin_plans = true});
  redis::Client redis({.url = s.redis});
  Clean(pool, redis, true);
  const Cpu cpu(pool, redis);
  // Not measured: connections are opened and statements prepared.
  {
    Settings warm = s;
    warm.jobs = std::max(s.callers * 20, s.batch * 20);
    RedisHandoff handoff({.url = s.redis}, pool);
    command->second.first(warm, pool, handoff);
  }
  Require(redis.Execute({"DEL", StreamKey(kQueue, 4)}).status());

  const double cpu_before = cpu.Seconds();
  const absl::Time start = absl::Now();
  {
    RedisHandoff handoff({.url = s.redis}, pool);
    command->second.first(s, pool, handoff);
  }  // sends what it still has
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start), cpu_seconds = cpu.Seconds() - cpu_before;
  const auto length = redis.Execute({"XLEN", StreamKey(kQueue, 4)});
  Require(length.status());
  Clean(pool, redis, false);

  const auto jobs = static_cast<double>(s.jobs);
  std::string json;
  JsonWriter(json)
      .BeginObject()
      .Key("name")
      .String(argv[1])
      .Key("jobs")
      .Int(s.jobs)
      .Key("seconds")
      .Double(seconds)
      .Key("per_s")
      .Double(jobs / seconds)
      .Key("cpu_us_per_job")
      .Double(cpu_seconds * 1e6 / jobs)
      .Key("in_stream")
      .Int(length->integer)
      .EndObject();
  std::printf("%s\n", json.c_str());
  return 0;
}

}  // namespace
}  // namespace mainstay::jobs

int main(int argc, char** argv) {
  return mainstay::jobs::Main(argc, argv);
}
