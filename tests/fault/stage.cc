// SPDX-License-Identifier: Apache-2.0
#include "tests/fault/stage.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace mainstay::jobs {
namespace {

constexpr char kTables[] =
    "CREATE TABLE committed (n bigserial, job uuid PRIMARY KEY, key text);"
    "ALTER TABLE effects ADD COLUMN n bigserial";

std::string Port(const std::string& url) {
  return url.substr(url.find("port=") + 5);
}

}  // namespace

std::vector<uint64_t> Seeds() {
  if (const char* one = std::getenv("MAINSTAY_TEST_SEED"); one != nullptr) return {std::strtoull(one, nullptr, 10)};
  std::vector<uint64_t> seeds = {1};
  if (std::getenv("MAINSTAY_TEST_LONG") != nullptr)
    while (seeds.size() < 100) seeds.push_back(std::random_device{}());
  return seeds;
}

Stage::Stage(uint64_t seed, const std::vector<std::string>& postgres_settings)
    : postgres_(testing::Postgres::StartOwn(postgres_settings)),
      redis_(testing::Redis::StartOwn()),
      world_(std::make_unique<World>(postgres_.get(), redis_.get())),
      seed_(seed),
      random_(seed) {
  testing::Sql(w().url, kTables);
  w().StartUpkeep();
}
Stage::~Stage() {
  stop_ = true;
  for (auto& producer : producers_) producer.join();
}

// Made by a thread of the worker, so all its tasks have to be asked.
std::set<int> ChildrenOf(pid_t pid) {
  std::istringstream words(
      testing::Run({.argv = {"sh", "-c", absl::StrCat("cat /proc/", pid, "/task/*/children 2>/dev/null")}}).output);
  std::set<int> children;
  for (int child; words >> child;) children.insert(child);
  return children;
}

void Stage::Worker::Signal(int signal) {
  kill(-process->pid(), signal);
}
void Stage::Worker::Kill() {
  Signal(SIGKILL);
  process->Wait(absl::Seconds(30));
}

void Stage::KillChild(Worker& worker) {
  const std::set<int> children = ChildrenOf(worker.process->pid());
  if (children.empty()) return;
  kill(*std::next(children.begin(), Between(0, static_cast<int64_t>(children.size()) - 1)), SIGKILL);
}

Stage::Worker& Stage::StartWorker(const std::map<std::string, std::string>& more, bool lines) {
  auto made = std::make_unique<Worker>();
  std::map<std::string, std::string> environment = more;
  if (lines) {
    const std::string port = Port(w().url);
    made->postgres = std::make_unique<testing::Proxy>("127.0.0.1:" + port);
    made->redis = std::make_unique<testing::Proxy>(redis_->url().substr(redis_->url().rfind('/') + 1));
    const std::string database = w().url.substr(w().url.find("@/") + 2);
    environment["MAINSTAY_DATABASE_URL"] = absl::StrCat("postgresql://postgres@127.0.0.1:", made->postgres->port(), "/",
                                                        database.substr(0, database.find('?')));
    environment["MAINSTAY_REDIS_URL"] = absl::StrCat("redis://127.0.0.1:", made->redis->port());
  }
  made->process = std::make_unique<testing::Subprocess>(w().Worker(environment));
  REQUIRE(made->process->WaitForOutput(kWorkerReady, absl::Seconds(60)));
  workers_.push_back(std::move(made));
  return *workers_.back();
}
void Stage::StopWorkers() {
  for (auto& worker : workers_)
    if (worker->process->Running()) worker->process->Signal(SIGTERM);
  for (auto& worker : workers_) {
    const auto code = worker->process->Wait(absl::Seconds(60));
    CHECK((code == 0 || code == 128 + SIGKILL));
  }
}

int64_t Stage::Between(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random_);
}
void Stage::SleepBetween(int64_t low_ms, int64_t high_ms) {
  absl::SleepFor(absl::Milliseconds(Between(low_ms, high_ms)));
}

void Stage::StartLoad(const Mix& mix, int64_t jobs, int producers) {
  stop_ = false;
  for (int i = 0; i < producers; ++i) producers_.emplace_back([=, this] { Produce(i, mix, jobs); });
}
void Stage::StopLoad() {
  stop_ = true;
  WaitForLoad();
}
void Stage::WaitForLoad() {
  for (auto& producer : producers_) producer.join();
  producers_.clear();
  quiet_ = absl::Now();
}
void Stage::WaitForProgress(int64_t jobs) {
  int64_t begin = -1;
  REQUIRE(Eventually(
      [&] {
        try {
          const int64_t now = w().Count("SELECT count(*) FROM mainstay.jobs_history");
          if (begin < 0) begin = now;
          return now >= begin + jobs;
        } catch (const std::exception&) {  // PostgreSQL is away
          return false;
        }
      },
      absl::Seconds(90)));
}

// Keys are a producer's own: the order of their jobs is the order of its commits.
void Stage::Produce(int producer, const Mix& mix, int64_t jobs) {
  std::mt19937_64 random(seed_ * 1000 + static_cast<uint64_t>(producer));
  auto chance = [&](int percent) { return static_cast<int>(random() % 100) < percent; };
  while (!stop_ && (jobs == 0 || committed_ < jobs)) {
    std::vector<JobSpec> batch(1 + random() % static_cast<uint64_t>(mix.batch));
    for (JobSpec& job : batch) {
      job.kind = mix.kind;
      job.args = absl::StrCat(random() % static_cast<uint64_t>(mix.ms + 1));
      if (chance(mix.keyed))
        job.ordering_key = absl::StrCat("key-", producer, "-", random() % 8);
      else if (mix.unique && chance(10))
        job.unique_key = absl::StrCat("unique-", random() % 1000);
    }
    const bool undone = mix.undone && chance(10);
    std::vector<Enqueued> added;
    const absl::Status status =
        w().pool.Transaction(absl::Now() + absl::Seconds(5), [&](pqxx::transaction_base& tx) -> absl::Status {
          auto result = Enqueue(tx, w().context, batch);
          if (!result.ok()) return result.status();
          added = *std::move(result);
          for (size_t i = 0; i < added.size(); ++i) {
            if (added[i].existed) continue;
            tx.exec_params("INSERT INTO committed (job, key) VALUES ($1, nullif($2, ''))", added[i].id.ToString(),
                           batch[i].ordering_key);
          }
          return undone ? absl::AbortedError("rolled back on purpose") : absl::OkStatus();
        });
    if (status.ok()) {
      w().handoff->Publish(added);
      committed_ += static_cast<int64_t>(added.size());
    }
    absl::SleepFor(absl::Milliseconds(mix.pause_ms));
  }
}

int64_t Stage::BegunAgain() {
  return w().Count(
      "SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM ledger WHERE what = 'start' GROUP BY job) x");
}

void Stage::Judge(const char* fault, const Allowed& allowed) {
  INFO(fault << ", seed " << seed_);
  if (!producers_.empty()) StopLoad();
  const bool all_final = Eventually(
      [&] {
        try {
          return w().Count("SELECT count(*) FROM mainstay.jobs") == 0;
        } catch (const std::exception&) {
          return false;
        }
      },
      allowed.within);
  const absl::Duration took = absl::Now() - quiet_;
  if (!all_final) {
    for (const auto& row : testing::Sql(w().url, "SELECT row_to_json(j)::text FROM mainstay.jobs j LIMIT 3"))
      UNSCOPED_INFO(row[0]);
    for (const auto& worker : workers_) {
      const std::string output = worker->process->output();
      UNSCOPED_INFO("worker " << worker->process->pid() << ":\n"
                              << output.substr(output.size() - std::min<size_t>(output.size(), 3000)));
    }
    FAIL(w().Count("SELECT count(*) FROM mainstay.jobs") << " jobs are not final");
  }
  const int64_t jobs = w().Count("SELECT count(*) FROM committed");
  CHECK(jobs > 0);
  if (allowed.forgotten) CHECK(committed_ > jobs);
  // lost
  CHECK(w().Count("SELECT count(*) FROM committed c WHERE NOT EXISTS (SELECT FROM mainstay.jobs_history h WHERE h.id = "
                  "c.job)") == 0);
  CHECK(w().Finished() == jobs);
  CHECK(w().Finished(9) == 0);
  // ended more than one way
  CHECK(w().Count("SELECT count(*) - count(DISTINCT id) FROM mainstay.jobs_history") == 0);
  // effects: one each, under the fence that finished the job
  CHECK(w().Count("SELECT count(*) FROM mainstay.jobs_history h LEFT JOIN effects e ON e.job = h.id WHERE h.state = 6 "
                  "AND h.kind = 'test.work' AND e.fence IS DISTINCT FROM h.fence") == 0);
  if (!allowed.forgotten) {
    // ghosts
    CHECK(w().Count("SELECT count(*) FROM ledger l WHERE NOT EXISTS (SELECT FROM committed c WHERE c.job = l.job)") ==
          0);
    // two holders of one fence
    CHECK(
        w().Count("SELECT count(*) FROM (SELECT FROM ledger WHERE what = 'start' GROUP BY job, fence HAVING count(*) > "
                  "1) x") == 0);
    // order: of effects, and of the runs that counted where there are none
    CHECK(w().Count("SELECT count(*) FROM (SELECT c.n, lag(c.n) OVER (PARTITION BY c.key ORDER BY e.n) AS before FROM "
                    "effects e JOIN committed c USING (job) WHERE c.key IS NOT NULL) x WHERE before > n") == 0);
    CHECK(
        w().Count("SELECT count(*) FROM (SELECT e.n AS ended, lead(s.n) OVER (PARTITION BY c.key ORDER BY c.n) AS next "
                  "FROM committed c JOIN mainstay.jobs_history h ON h.id = c.job JOIN ledger s ON s.job = c.job AND "
                  "s.fence = h.fence AND s.what = 'start' JOIN ledger e ON e.job = c.job AND e.fence = h.fence AND "
                  "e.what = 'end' WHERE c.key IS NOT NULL AND h.kind <> 'test.work') x WHERE next < ended") == 0);
  }
  // leaks
  CHECK(w().Count("SELECT count(*) FROM mainstay.job_slots") == 0);
  CHECK(w().Count("SELECT count(*) FROM mainstay.job_unique") == 0);
  size_t alive = 0;
  for (const auto& worker : workers_) alive += worker->process->Running() ? 1 : 0;
  CHECK(Eventually([&] {
    return w().Count("SELECT count(*) FROM mainstay.job_workers WHERE lease_until > clock_timestamp()") ==
           static_cast<int64_t>(alive);
  }));
  auto pending = [&] {
    return redis_->Command({"EVAL",
                            "local left = 0 for _, key in ipairs(redis.call('KEYS', 'mainstay:jobs:{*}*')) do if "
                            "redis.call('TYPE', key).ok == 'stream' then for _, g in ipairs(redis.call('XINFO', "
                            "'GROUPS', key)) do left = left + g[6] end end end return left",
                            "0"});
  };
  CHECK(Eventually([&] { return pending() == "0"; }));
  std::printf("%s, seed %llu: %lld jobs, %lld begun again, quiet after %.1f s\n", fault,
              static_cast<unsigned long long>(seed_), static_cast<long long>(jobs),
              static_cast<long long>(BegunAgain()), absl::ToDoubleSeconds(took));
}

}  // namespace mainstay::jobs
