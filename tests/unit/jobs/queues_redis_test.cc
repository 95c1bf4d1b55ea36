// SPDX-License-Identifier: Apache-2.0
// Who goes when: turns of tenants, priorities, limits, rates, lanes, pauses; with real servers and whole engines.
#include <algorithm>
#include <atomic>
#include <map>

#include "absl/synchronization/mutex.h"
#include "tests/unit/jobs/world.h"

namespace mainstay::jobs {
namespace {

using testing::IsOk;
using testing::Sql;
using testing::SqlValue;

// How many run at once, by name: now and at most.
class Gauge {
 public:
  void Enter(const std::string& name) {
    absl::MutexLock lock(&mu_);
    most_[name] = std::max(most_[name], ++now_[name]);
  }
  void Leave(const std::string& name) {
    absl::MutexLock lock(&mu_);
    --now_[name];
  }
  int most(const std::string& name) {
    absl::MutexLock lock(&mu_);
    return most_[name];
  }

 private:
  absl::Mutex mu_;
  std::map<std::string, int> now_ ABSL_GUARDED_BY(mu_), most_ ABSL_GUARDED_BY(mu_);
};

// The order in which jobs started, by a word in their arguments.
class Order {
 public:
  void Note(std::string_view word) {
    absl::MutexLock lock(&mu_);
    order_.emplace_back(word);
  }
  size_t size() {
    absl::MutexLock lock(&mu_);
    return order_.size();
  }
  size_t Count(const std::string& word) {
    absl::MutexLock lock(&mu_);
    return static_cast<size_t>(std::count(order_.begin(), order_.end(), word));
  }
  // Before which so many others had started.
  size_t Place(const std::string& word) {
    absl::MutexLock lock(&mu_);
    return static_cast<size_t>(std::find(order_.begin(), order_.end(), word) - order_.begin());
  }
  // How many of one word before the nth of another.
  size_t CountBefore(const std::string& word, const std::string& other, int nth) {
    absl::MutexLock lock(&mu_);
    size_t count = 0;
    for (auto it = order_.begin(); it != order_.end() && nth > 0; ++it) {
      count += *it == word ? 1 : 0;
      nth -= *it == other ? 1 : 0;
    }
    return count;
  }

 private:
  absl::Mutex mu_;
  std::vector<std::string> order_ ABSL_GUARDED_BY(mu_);
};

CallContext Of(const std::string& tenant) {
  CallContext context;
  context.principal = {.tenant = tenant, .subject = "user:1", .roles = {"staff"}};
  return context;
}

EngineOptions With(const World& w, std::vector<QueueSettings> queues) {
  EngineOptions options = FastOptions(w.redis.url());
  options.queues = [queues = std::move(queues)] { return queues; };
  return options;
}

void Pause(World& w, const std::string& scope, const std::string& name, const std::string& tenant = "*") {
  Sql(w.url,
      "INSERT INTO mainstay.job_pauses (id, scope, name, tenant, key_hash, author, reason) VALUES (gen_random_uuid(), "
      "'" +
          scope + "', '" + name + "', '" + tenant + "', " +
          (scope == "key" ? "mainstay.job_key_hash('" + tenant + "', '" + name + "')" : "NULL") +
          ", 'user:1', 'a test')");
}

TEST_CASE(
    "F41: of a tenant with thousands of jobs and one with a single job, the single one starts within a few turns") {
  World w;
  Order order;
  Registry registry;
  registry.Register("test.note", [&](RunningJob& job) {
    order.Note(job.context().principal.tenant);
    absl::SleepFor(absl::Milliseconds(1));
    return Outcome::Done();
  });
  EngineOptions options = FastOptions(w.redis.url());
  options.window = options.window_floor = 200;
  const CallContext big = Of("big"), small = Of("small");
  w.Add(std::vector<JobSpec>(4000, JobSpec{.kind = "test.note", .context = &big}));
  w.AddOne({.kind = "test.note", .context = &small});
  Engine engine(options, registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  REQUIRE(Eventually([&] { return w.Finished() == 4001; }, absl::Seconds(120)));
  CHECK(order.Place("small") <= 800);
}

TEST_CASE("F42: under a flood at high priority the low priority keeps being served") {
  World w;
  Order order;
  Registry registry;
  registry.Register("test.note", [&](RunningJob& job) {
    order.Note(job.args());
    absl::SleepFor(absl::Milliseconds(2));
    return Outcome::Done();
  });
  EngineOptions options = FastOptions(w.redis.url());
  options.window = options.window_floor = 200;
  Sql(w.url,
      "SELECT mainstay.enqueue('test.note', '0', tenant => 'acme', priority => 0) FROM generate_series(1, 20000)");
  Engine engine(options, registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  REQUIRE(Eventually([&] { return order.Count("0") > 300; }));
  w.Add(std::vector<JobSpec>(50, JobSpec{.kind = "test.note", .args = "9", .priority = 9}));
  CHECK(Eventually([&] { return order.Count("9") == 50; }, absl::Seconds(60)));
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs WHERE priority = 0") > 0);  // and that while the flood went on
}

TEST_CASE(
    "F38: thousands due in one second are released in batches, and another tenant's due job does not wait for them") {
  World w;
  Order order;
  Registry registry;
  registry.Register("test.note", [&](RunningJob& job) {
    order.Note(job.context().principal.tenant);
    return Outcome::Done();
  });
  EngineOptions options = FastOptions(w.redis.url());
  options.window = options.window_floor = 300;
  const CallContext big = Of("big"), small = Of("small");
  const absl::Time due = absl::Now() + absl::Seconds(1);
  w.Add(std::vector<JobSpec>(9000, JobSpec{.kind = "test.note", .run_at = due, .context = &big}));
  w.AddOne({.kind = "test.note", .run_at = due + absl::Milliseconds(1), .context = &small});
  Sql(w.url,
      "SELECT pg_sleep(greatest(0, extract(epoch FROM (SELECT max(due_at) FROM mainstay.jobs) - clock_timestamp()) + "
      "0.1))");
  Engine engine(options, registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  REQUIRE(Eventually([&] { return w.Finished() == 9001; }, absl::Seconds(120)));
  CHECK(order.Place("small") < 4500);
}

TEST_CASE("F30: a job committed long after it was inserted is found behind the jobs that overtook it") {
  World w;
  Registry registry;
  registry.Register("test.note", [&](RunningJob&) { return Outcome::Done(); });
  EngineOptions options = FastOptions(w.redis.url());
  options.window = options.window_floor = 100;
  pqxx::connection slow(w.url);
  pqxx::work open(slow);
  const auto late = Enqueue(open, w.context, std::vector<JobSpec>(10, JobSpec{.kind = "test.note"}));
  REQUIRE_THAT(late.status(), IsOk());
  w.Add(std::vector<JobSpec>(1000, JobSpec{.kind = "test.note"}));
  Engine engine(options, registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  REQUIRE(Eventually([&] { return w.Finished() == 1000; }));
  CHECK(w.Finished() == 1000);
  open.commit();
  CHECK(Eventually([&] { return w.Finished() == 1010; }));
}

TEST_CASE(
    "F40: jobs of a concurrency key run as many at once as its limit says, on all workers together; others are not "
    "held up") {
  World w;
  Gauge gauge;
  Order order;
  Registry registry;
  registry.Register("test.hot", [&](RunningJob& job) {
    const std::string key(job.args());
    gauge.Enter(key);
    order.Note(key);
    absl::SleepFor(absl::Milliseconds(5));
    gauge.Leave(key);
    // Every third fails once: a retry gives its slot back and waits for one again.
    return job.attempt() == 1 && job.id().bytes[15] % 3 == 0 ? Outcome::Retry("again", "") : Outcome::Done();
  });
  EngineOptions options = FastOptions(w.redis.url());
  Engine one(options, registry, w.pool), two(options, registry, w.pool);
  REQUIRE_THAT(one.Start(), IsOk());
  REQUIRE_THAT(two.Start(), IsOk());
  w.Add(std::vector<JobSpec>(
      150, JobSpec{.kind = "test.hot", .args = "1", .concurrency_key = "one", .concurrency_limit = 1}));
  w.Add(std::vector<JobSpec>(
      60, JobSpec{.kind = "test.hot", .args = "3", .concurrency_key = "three", .concurrency_limit = 3}));
  w.Add(std::vector<JobSpec>(300, JobSpec{.kind = "test.hot", .args = "0"}));
  REQUIRE(Eventually([&] { return order.Count("0") >= 300; }));
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs WHERE concurrency_key = 'one'") > 0);  // not waited for
  REQUIRE(Eventually([&] { return w.Finished() == 510; }, absl::Seconds(120)));
  CHECK(gauge.most("1") == 1);
  CHECK(gauge.most("3") <= 3);
  CHECK(gauge.most("3") >= 2);
}

TEST_CASE("a job with an ordering key and a limit keeps both: its key's order, and no more at once than the limit") {
  World w;
  Gauge gauge;
  Order order;
  Registry registry;
  registry.Register("test.note", [&](RunningJob& job) {
    gauge.Enter("all");
    order.Note(job.args());
    absl::SleepFor(absl::Milliseconds(10));
    gauge.Leave("all");
    return Outcome::Done();
  });
  std::vector<JobSpec> jobs;
  for (int i = 0; i < 30; ++i)
    jobs.push_back({.kind = "test.note",
                    .args = absl::StrCat(i),
                    .ordering_key = absl::StrCat("k", i % 3),
                    .concurrency_key = "shared",
                    .concurrency_limit = 2});
  Engine engine(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  w.Add(jobs);
  REQUIRE(Eventually([&] { return w.Finished() == 30; }, absl::Seconds(60)));
  CHECK(gauge.most("all") <= 2);
  for (int i = 3; i < 30; ++i) CHECK(order.Place(absl::StrCat(i - 3)) < order.Place(absl::StrCat(i)));
}

TEST_CASE(
    "a queue's concurrency holds over all workers, its waiting jobs stay in PostgreSQL, and a dead worker's slots come "
    "back") {
  World w;
  Gauge gauge;
  std::atomic<bool> go{false};
  Registry registry;
  registry.Register("test.note", [&](RunningJob& job) {
    gauge.Enter("all");
    while (!go && !job.cancelled()) absl::SleepFor(absl::Milliseconds(2));
    gauge.Leave("all");
    return go ? Outcome::Done() : Outcome::Retry("stopped", "");
  });
  const EngineOptions options = With(w, {{.name = "default"}, {.name = "narrow", .concurrency = 3}});
  Engine one(options, registry, w.pool);
  auto two = std::make_unique<Engine>(options, registry, w.pool);
  REQUIRE_THAT(one.Start(), IsOk());
  REQUIRE_THAT(two->Start(), IsOk());
  REQUIRE(Eventually(
      [&] { return w.Count("SELECT count(*) FROM mainstay.job_queues WHERE name = 'narrow' AND closed") == 1; }));
  w.Add(std::vector<JobSpec>(50, JobSpec{.kind = "test.note", .queue = "narrow"}));
  REQUIRE(Eventually([&] { return one.stats().running + two->stats().running == 3; }));
  absl::SleepFor(absl::Milliseconds(500));
  CHECK(one.stats().running + two->stats().running == 3);
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs WHERE state = 3") == 47);
  two.reset();  // gives back what it has; the slots are free again
  REQUIRE(Eventually([&] { return one.stats().running == 3; }));
  go = true;
  REQUIRE(Eventually([&] { return w.Finished() == 50; }, absl::Seconds(60)));
  CHECK(w.Count("SELECT mainstay.free_queue_slots('narrow', 3)") == 3);
}

TEST_CASE("rates of a queue and of its tenants are kept") {
  World w;
  Registry registry;
  registry.Register("test.note", [&](RunningJob&) { return Outcome::Done(); });
  const EngineOptions options =
      With(w, {{.name = "default"}, {.name = "slow", .rate = 40}, {.name = "fair", .tenant_rate = 20}});
  Engine engine(options, registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  REQUIRE(Eventually([&] { return w.Count("SELECT count(*) FROM mainstay.job_queues WHERE closed") == 2; }));
  const CallContext a = Of("a"), b = Of("b");
  absl::Time start = absl::Now();
  w.Add(std::vector<JobSpec>(120, JobSpec{.kind = "test.note", .queue = "slow"}));
  REQUIRE(Eventually([&] { return w.Finished() == 120; }, absl::Seconds(60)));
  // A bucket of one second, then forty a second.
  CHECK(absl::Now() - start >= absl::Milliseconds(1900));
  start = absl::Now();
  w.Add(std::vector<JobSpec>(60, JobSpec{.kind = "test.note", .queue = "fair", .context = &a}));
  w.Add(std::vector<JobSpec>(10, JobSpec{.kind = "test.note", .queue = "fair", .context = &b}));
  REQUIRE(Eventually([&] { return w.Count("SELECT count(*) FROM mainstay.jobs_history WHERE tenant = 'b'") == 10; }));
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs WHERE tenant = 'a'") > 0);
  REQUIRE(Eventually([&] { return w.Finished() == 190; }, absl::Seconds(60)));
  CHECK(absl::Now() - start >= absl::Milliseconds(1900));
}

TEST_CASE("priorities are an order or shares, as their queue says, with a limit as well as without") {
  World w;
  Order order;
  Registry registry;
  registry.Register("test.note", [&](RunningJob& job) {
    order.Note(job.args());
    absl::SleepFor(absl::Milliseconds(10));  // long, next to the moment between the hand-outs of the two
    return Outcome::Done();
  });
  const bool weighted = GENERATE(false, true);
  const int concurrency = GENERATE(0, 4);
  EngineOptions options = With(w, {{.name = "mixed", .weighted = weighted, .concurrency = concurrency}});
  options.executors = 2;
  options.window = options.window_floor = 1000;  // all of them: a stream that runs dry lets lower ones go
  Engine engine(options, registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  REQUIRE(Eventually([&] { return w.Count("SELECT count(*) FROM mainstay.job_queues WHERE name = 'mixed'") == 1; }));
  // Both priorities have their streams, and the worker knows them, before it counts.
  for (const int priority : {4, 0})
    w.AddOne({.kind = "test.note", .queue = "mixed", .args = "1", .priority = priority});
  REQUIRE(Eventually([&] { return w.Finished() == 2; }));
  Pause(w, "queue", "mixed");
  Sql(w.url, "UPDATE mainstay.job_windows SET open_until = '-infinity'");
  for (const int priority : {4, 0})
    w.Add(std::vector<JobSpec>(
        400, JobSpec{.kind = "test.note", .queue = "mixed", .args = absl::StrCat(priority), .priority = priority}));
  Sql(w.url, "DELETE FROM mainstay.job_pauses");
  REQUIRE(Eventually([&] { return w.Finished() == 802; }, absl::Seconds(120)));
  INFO((weighted ? "weighted" : "strict") << ", " << concurrency << " at once");
  const size_t before = order.CountBefore("4", "0", 400);  // of the lower priority, before the last of the higher
  if (weighted) {
    CHECK(before >= 190);  // 240 by weight: 6 to 10
  } else {
    CHECK(before <= 160);  // 44 by the reserve; under a limit every tenth round is the other way round
  }
}

TEST_CASE("F37: a long backlog costs as much per job at its end as at its beginning, and the stream stays short") {
  constexpr int kJobs = 40000, kWindow = 500;
  World w;
  std::atomic<int> ran{0}, gate{kJobs / 10};
  Registry registry;
  registry.Register("test.note", [&](RunningJob& job) {
    const int mine = ++ran;
    while (mine > gate && !job.cancelled()) absl::SleepFor(absl::Milliseconds(2));
    return Outcome::Done();
  });
  EngineOptions options = FastOptions(w.redis.url());
  options.window = options.window_floor = kWindow;
  Sql(w.url, absl::StrCat("SELECT mainstay.enqueue('test.note', '0', tenant => 't' || n % 7) FROM generate_series(1, ",
                          kJobs, ") AS n"));
  Engine engine(options, registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  // Blocks of the table and its indexes that were looked at so far. Servers' processes tell once a second.
  auto blocks = [&] {
    absl::SleepFor(absl::Milliseconds(2500));
    return w.Count(
        "SELECT heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read FROM pg_statio_all_tables "
        "WHERE relid = 'mainstay.jobs'::regclass");
  };
  std::vector<int64_t> at;
  for (const double share : {0.1, 0.35, 0.65, 0.9}) {
    gate = static_cast<int>(kJobs * share);
    int64_t longest = 0;
    REQUIRE(Eventually(
        [&] {
          longest = std::max<int64_t>(longest, std::stoll(w.redis.Command({"XLEN", "mainstay:jobs:{default}:4"})));
          return w.Finished() >= gate;
        },
        absl::Seconds(120)));
    CHECK(longest <= 3 * kWindow);  // what is acknowledged goes with the next trim
    at.push_back(blocks());
  }
  INFO("blocks: " << at[1] - at[0] << " early, " << at[3] - at[2] << " late");
  // Sweeps and looks from the head go by the clock and vacuum comes when it likes: they may cost a few times as much as
  // handing out does. Walking all that is finished for every hand-out would cost dozens of times as much.
  CHECK(at[3] - at[2] <= (at[1] - at[0]) * 8);
  gate = kJobs;
  REQUIRE(Eventually([&] { return w.Finished() == kJobs; }, absl::Seconds(120)));
}

TEST_CASE("F19: a leader that alone does not reach Redis makes way; meanwhile and afterwards both workers work") {
  World w;
  Registry registry;
  registry.Register("test.note", [&](RunningJob&) {
    absl::SleepFor(absl::Milliseconds(2));
    return Outcome::Done();
  });
  Engine cut_off(FastOptions("redis://127.0.0.1:1"), registry, w.pool);
  REQUIRE_THAT(cut_off.Start(), IsOk());
  REQUIRE(Eventually([&] { return cut_off.stats().leading; }));
  w.Add(std::vector<JobSpec>(50, JobSpec{.kind = "test.note"}));
  REQUIRE(Eventually([&] { return w.Finished() == 50; }, absl::Seconds(60)));
  EngineOptions options = FastOptions(w.redis.url());
  options.window = options.window_floor = 100;
  Engine good(options, registry, w.pool);
  REQUIRE_THAT(good.Start(), IsOk());
  REQUIRE(Eventually([&] { return good.stats().leading && !cut_off.stats().leading; }, absl::Seconds(60)));
  const int64_t claimed = cut_off.stats().claimed;
  // Until each had its part: the good one may be done with some before the other looks at the backlog again.
  int added = 50;
  REQUIRE(Eventually(
      [&] {
        w.Add(std::vector<JobSpec>(500, JobSpec{.kind = "test.note"}));
        added += 500;
        return cut_off.stats().claimed > claimed && good.stats().succeeded > 0;
      },
      absl::Seconds(120)));
  REQUIRE(Eventually([&] { return w.Finished() == added; }, absl::Seconds(120)));
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs_history WHERE crashes > 0 OR errors IS NOT NULL") == 0);
}

TEST_CASE("F17: while Redis is full, enqueue commits and jobs are claimed from PostgreSQL; then it is used again") {
  const auto redis = testing::Redis::StartOwn();
  World w(nullptr, redis.get());
  Registry registry;
  registry.Register("test.note", [&](RunningJob&) { return Outcome::Done(); });
  Engine engine(FastOptions(redis->url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  w.Add(std::vector<JobSpec>(50, JobSpec{.kind = "test.note"}));
  REQUIRE(Eventually([&] { return w.Finished() == 50; }));
  redis->Command({"CONFIG", "SET", "maxmemory", "1"});
  w.Add(std::vector<JobSpec>(200, JobSpec{.kind = "test.note"}));
  w.Add(std::vector<JobSpec>(20, JobSpec{.kind = "test.note", .ordering_key = "k"}));
  REQUIRE(Eventually([&] { return w.Finished() == 270; }, absl::Seconds(60)));
  CHECK(engine.stats().redis_down);
  CHECK(engine.stats().claimed > 0);
  redis->Command({"CONFIG", "SET", "maxmemory", "0"});
  REQUIRE(Eventually([&] { return !engine.stats().redis_down; }));
  REQUIRE(
      Eventually([&] { return w.Count("SELECT count(*) FROM mainstay.job_windows WHERE open_until > now()") > 0; }));
  const int64_t claimed = engine.stats().claimed;
  w.Add(std::vector<JobSpec>(200, JobSpec{.kind = "test.note"}));
  REQUIRE(Eventually([&] { return w.Finished() == 470; }, absl::Seconds(60)));
  CHECK(engine.stats().claimed == claimed);
}

TEST_CASE("finished jobs go when their queue's retention is over, or their own") {
  World w;
  Registry registry;
  registry.Register("test.note", [&](RunningJob&) { return Outcome::Done(); });
  const EngineOptions options = With(w, {{.name = "default"}, {.name = "brief", .retention = absl::Hours(1)}});
  {
    Engine engine(options, registry, w.pool);
    REQUIRE_THAT(engine.Start(), IsOk());
    REQUIRE(Eventually([&] { return w.Count("SELECT count(*) FROM mainstay.job_queues WHERE name = 'brief'") == 1; }));
    w.Add(std::vector<JobSpec>(20, JobSpec{.kind = "test.note", .queue = "brief", .args = "1"}));
    w.Add(std::vector<JobSpec>(10, JobSpec{.kind = "test.note", .args = "2"}));
    w.Add(std::vector<JobSpec>(10,
                               JobSpec{.kind = "test.note", .args = "3", .options = {.retention = absl::Minutes(30)}}));
    REQUIRE(Eventually([&] { return w.Finished() == 40; }));
  }
  // Two hours pass for all but one of each.
  Sql(w.url,
      "UPDATE mainstay.jobs_history SET finished_at = finished_at - interval '2 hours' WHERE id NOT IN (SELECT "
      "DISTINCT ON (args::text) id FROM mainstay.jobs_history ORDER BY args::text, id)");
  Sql(w.url, "UPDATE mainstay.job_queues SET purged_until = purged_until - interval '2 hours'");
  Engine engine(options, registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  auto left = [&] {
    return SqlValue(w.url,
                    "SELECT string_agg(n::text, ' ' ORDER BY a) FROM (SELECT args::text AS a, count(*) AS n FROM "
                    "mainstay.jobs_history GROUP BY 1) h");
  };
  CHECK(Eventually([&] { return left() == "1 10 1"; }, absl::Seconds(60)));
  CHECK(left() == "1 10 1");
}

TEST_CASE(
    "F48: a new kind goes only to workers that announced it, through a lane of its own, and waits where none is left") {
  World w;
  Order by_old, by_new;
  Registry old_kinds, new_kinds;
  auto note = [](Order& order) {
    return [&order](RunningJob& job) {
      order.Note(job.kind());
      absl::SleepFor(absl::Milliseconds(2));
      return Outcome::Done();
    };
  };
  old_kinds.Register("test.old", note(by_old));
  new_kinds.Register("test.old", note(by_new));
  new_kinds.Register("test.new", note(by_new));
  Engine before(FastOptions(w.redis.url()), old_kinds, w.pool);
  REQUIRE_THAT(before.Start(), IsOk());
  w.Add(std::vector<JobSpec>(50, JobSpec{.kind = "test.new"}));
  w.Add(std::vector<JobSpec>(50, JobSpec{.kind = "test.old"}));
  REQUIRE(Eventually([&] { return w.Finished() == 50; }));
  {
    Engine after(FastOptions(w.redis.url()), new_kinds, w.pool);
    REQUIRE_THAT(after.Start(), IsOk());
    REQUIRE(Eventually([&] { return w.Finished() == 100; }));
    REQUIRE(Eventually([&] {
      return SqlValue(w.url,
                      "SELECT string_agg(route, ' ') FROM mainstay.job_lanes WHERE queue = 'default' AND closing_at IS "
                      "NULL") == "test.new";
    }));
    std::vector<JobSpec> mixed;
    for (int i = 0; i < 400; ++i) mixed.push_back({.kind = i % 2 == 0 ? "test.old" : "test.new"});
    w.Add(mixed);
    REQUIRE(Eventually([&] { return w.Finished() == 500; }));
    after.Drain(absl::Seconds(5));
  }
  // Rolled back: what only the new one knows waits, at no cost.
  w.Add(std::vector<JobSpec>(20, JobSpec{.kind = "test.new"}));
  w.Add(std::vector<JobSpec>(20, JobSpec{.kind = "test.old"}));
  REQUIRE(Eventually([&] { return w.Finished() == 520; }));
  absl::SleepFor(absl::Milliseconds(500));
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs WHERE kind = 'test.new' AND attempt = 0 AND crashes = 0 AND "
                "suspicions = 0") == 20);
  CHECK(by_old.Count("test.new") == 0);
  CHECK(by_new.Count("test.new") == 250);
  CHECK(w.Finished() == 520);
  Engine again(FastOptions(w.redis.url()), new_kinds, w.pool);
  REQUIRE_THAT(again.Start(), IsOk());
  CHECK(Eventually([&] { return w.Finished() == 540; }));
}

TEST_CASE("F48: versions of a kind are told apart: a job of version 1 waits for a worker that announced it") {
  World w;
  Registry registry;
  registry.Register("test.note", [&](RunningJob&) { return Outcome::Done(); });
  Engine engine(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  const Uuid now = w.AddOne({.kind = "test.note"});
  REQUIRE(w.WaitFor(now, "succeeded"));
  REQUIRE(
      Eventually([&] { return w.Count("SELECT count(*) FROM mainstay.job_windows WHERE open_until > now()") > 0; }));
  Sql(w.url, "SELECT mainstay.enqueue('test.note', version => 1)");
  w.AddOne({.kind = "test.note"});
  REQUIRE(Eventually([&] { return w.Finished() == 2; }));
  absl::SleepFor(absl::Milliseconds(300));
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs WHERE version = 1 AND state = 3") == 1);
}

TEST_CASE("a worker takes from its queues alone") {
  World w;
  Order order;
  Registry registry;
  registry.Register("test.note", [&](RunningJob& job) {
    order.Note(job.args());
    return Outcome::Done();
  });
  EngineOptions options = With(w, {{.name = "default"}, {.name = "imports"}});
  options.takes = {"imports"};
  Engine engine(options, registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  REQUIRE(Eventually([&] { return w.Count("SELECT count(*) FROM mainstay.job_queues WHERE name = 'imports'") == 1; }));
  w.Add(std::vector<JobSpec>(20, JobSpec{.kind = "test.note", .args = "1"}));
  w.Add(std::vector<JobSpec>(20, JobSpec{.kind = "test.note", .queue = "imports", .args = "2"}));
  REQUIRE(Eventually([&] { return order.Count("2") == 20; }));
  absl::SleepFor(absl::Milliseconds(300));
  CHECK(order.Count("1") == 0);
  options.takes = {};
  Engine other(options, registry, w.pool);
  REQUIRE_THAT(other.Start(), IsOk());
  CHECK(Eventually([&] { return order.Count("1") == 20; }));
}

TEST_CASE("S14: a paused kind, tenant or key starts nothing while all others go on, and a pause outlives the workers") {
  World w;
  Order order;
  Registry registry;
  for (const char* kind : {"test.one", "test.two"}) {
    registry.Register(kind, [&](RunningJob& job) {
      order.Note(job.args());
      return Outcome::Done();
    });
  }
  const CallContext other = Of("other");
  const EngineOptions options = With(w, {{.name = "default"}});
  auto engine = std::make_unique<Engine>(options, registry, w.pool);
  REQUIRE_THAT(engine->Start(), IsOk());
  REQUIRE(
      Eventually([&] { return w.Count("SELECT count(*) FROM mainstay.job_windows WHERE open_until > now()") > 0; }));
  Pause(w, "kind", "test.one");
  Pause(w, "tenant", "other");
  Pause(w, "key", "k1", "acme");
  w.Add(std::vector<JobSpec>(20, JobSpec{.kind = "test.one", .args = "1"}));
  w.Add(std::vector<JobSpec>(20, JobSpec{.kind = "test.two", .args = "2", .context = &other}));
  w.Add(std::vector<JobSpec>(20, JobSpec{.kind = "test.two", .args = "3", .ordering_key = "k1"}));
  w.Add(std::vector<JobSpec>(20, JobSpec{.kind = "test.two", .args = "4", .ordering_key = "k2"}));
  w.Add(std::vector<JobSpec>(20, JobSpec{.kind = "test.two", .args = "5"}));
  REQUIRE(Eventually([&] { return order.Count("4") == 20 && order.Count("5") == 20; }));
  engine.reset();
  engine = std::make_unique<Engine>(options, registry, w.pool);
  REQUIRE_THAT(engine->Start(), IsOk());
  absl::SleepFor(absl::Milliseconds(700));
  CHECK(order.size() == 40);
  Sql(w.url, "DELETE FROM mainstay.job_pauses WHERE scope = 'kind'");
  CHECK(Eventually([&] { return order.Count("1") == 20; }));
  Sql(w.url, "DELETE FROM mainstay.job_pauses WHERE scope = 'tenant'");
  CHECK(Eventually([&] { return order.Count("2") == 20; }));
  CHECK(order.Count("3") == 0);
  // A pause that has an end ends by itself.
  Sql(w.url, "UPDATE mainstay.job_pauses SET ends_at = clock_timestamp() + interval '300 milliseconds'");
  CHECK(Eventually([&] { return order.Count("3") == 20; }));
}

}  // namespace
}  // namespace mainstay::jobs
