// SPDX-License-Identifier: Apache-2.0
// The engine in quiet weather: what a job goes through, one claim per case.
#include <atomic>
#include <map>
#include <set>
#include <thread>

#include "absl/synchronization/notification.h"
#include "libs/jobs/engine.h"
#include "libs/jobs/in_hand.h"
#include "libs/jobs/keys.h"
#include "libs/jobs/sealer.h"
#include "tests/unit/jobs/world.h"

namespace mainstay::jobs {
namespace {

using testing::IsOk;
using testing::Sql;
using testing::SqlValue;

TEST_CASE("jobs run once each and leave nothing behind, in Redis neither") {
  World w;
  Registry registry;
  std::atomic<int> ran{0};
  registry.Register("test.note", [&](RunningJob& job) {
    ++ran;
    return Outcome::Done(absl::StrCat("{\"saw\":", std::string(job.args()), "}"));
  });
  Engine engine(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  std::vector<JobSpec> batch;
  for (int i = 0; i < 500; ++i) batch.push_back({.kind = "test.note", .args = absl::StrCat(i)});
  for (int i = 0; i < 4; ++i) w.Add(batch);
  const Uuid one = w.AddOne({.kind = "test.note", .args = "[1.50]"});
  REQUIRE(Eventually([&] { return w.Finished() == 2001; }));
  CHECK(ran == 2001);
  const JobView job = w.Get(one);
  CHECK(job.result == "{\"saw\":[1.50]}");
  CHECK(job.attempt == 1);
  CHECK(job.fence == 1);
  CHECK(job.started_at.has_value());
  CHECK(*job.started_at <= *job.finished_at);
  CHECK(Eventually([&] { return w.redis.Command({"XLEN", "mainstay:jobs:{default}:4"}) == "0"; }));
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs") == 0);
  CHECK(engine.stats().fenced == 0);
  CHECK(engine.Drain(absl::Seconds(5)));
  CHECK(w.Count("SELECT count(*) FROM mainstay.job_workers") == 0);
}

TEST_CASE("a failing job is tried again with its errors kept, then dead; run again by hand it may succeed") {
  World w;
  Registry registry;
  std::atomic<bool> heal{false};
  registry.Register("test.fail", [&](RunningJob& job) {
    if (heal || job.attempt() == 4) return Outcome::Done();
    if (job.attempt() == 2) throw std::runtime_error("thrown");
    return Outcome::Retry("flaky", absl::StrCat("run ", job.attempt()));
  });
  registry.Register("test.dead",
                    [&](RunningJob&) { return heal ? Outcome::Done() : Outcome::Dead("no_use", "never"); });
  Engine engine(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  const Uuid lives = w.AddOne({.kind = "test.fail"}), dies = w.AddOne({.kind = "test.fail", .max_attempts = 3}),
             dead = w.AddOne({.kind = "test.dead"});
  REQUIRE(w.WaitFor(lives, "succeeded"));
  REQUIRE(w.WaitFor(dies, "dead"));
  REQUIRE(w.WaitFor(dead, "dead"));
  CHECK(w.Get(lives).attempt == 4);
  CHECK(w.Get(lives).fence == 4);
  CHECK(w.Get(dies).attempt == 3);
  const std::string errors = w.Get(dies).errors;
  CHECK(errors.find("\"run 1\"") != std::string::npos);
  CHECK(errors.find("\"thrown\"") != std::string::npos);
  CHECK(errors.find("\"run 3\"") != std::string::npos);
  CHECK(w.Get(dead).attempt == 1);
  heal = true;
  REQUIRE_THAT(
      w.pool.Transaction(absl::Now() + absl::Seconds(5),
                         [&](pqxx::transaction_base& tx) { return RetryJob(tx, w.context, dead, "healed").status(); }),
      IsOk());
  CHECK(w.WaitFor(dead, "succeeded"));
  CHECK(w.Get(dead).attempt == 1);
}

TEST_CASE("snoozes cost no attempt, delays are kept, deadlines discard, unknown kinds wait visibly") {
  World w;
  Registry registry;
  std::atomic<int> naps{0};
  registry.Register(
      "test.nap", [&](RunningJob&) { return ++naps <= 3 ? Outcome::Snooze(absl::Milliseconds(30)) : Outcome::Done(); });
  registry.Register("test.note", [&](RunningJob&) { return Outcome::Done(); });
  Engine engine(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  const Uuid nap = w.AddOne({.kind = "test.nap", .max_attempts = 1});
  const Uuid later = w.AddOne({.kind = "test.note", .run_at = absl::Now() + absl::Milliseconds(800)});
  const Uuid late = w.AddOne({.kind = "test.note", .deadline = absl::Now() - absl::Seconds(1)});
  const Uuid unknown = w.AddOne({.kind = "nobody.knows"}),
             keyed_unknown = w.AddOne({.kind = "nobody.knows", .ordering_key = "k"});
  REQUIRE(w.WaitFor(nap, "succeeded"));
  CHECK(w.Get(nap).snoozes == 3);
  CHECK(w.Get(nap).attempt == 1);
  REQUIRE(w.WaitFor(late, "discarded"));
  REQUIRE(w.WaitFor(later, "succeeded"));
  CHECK(*w.Get(later).started_at >= *w.Get(later).run_at);
  CHECK(w.Get(unknown).state == "ready");
  CHECK_FALSE(w.Get(keyed_unknown).final());
  CHECK(w.Get(unknown).attempt == 0);
}

TEST_CASE("a cancel reaches the handler, and its late success does not revive the job") {
  World w;
  Registry registry;
  absl::Notification started, told;
  registry.Register("test.long", [&](RunningJob& job) {
    started.Notify();
    while (!job.cancelled()) absl::SleepFor(absl::Milliseconds(5));
    told.Notify();
    return Outcome::Done("\"too late\"");
  });
  Engine engine(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  const Uuid id = w.AddOne({.kind = "test.long"});
  REQUIRE(started.WaitForNotificationWithTimeout(absl::Seconds(10)));
  REQUIRE(w.WaitFor(id, "running"));
  CHECK(Eventually([&] {
    return w.redis.Command({"XLEN", "mainstay:jobs:{default}:4"}) == "0";
  }));  // it has left the stream
  REQUIRE_THAT(
      w.pool.Transaction(absl::Now() + absl::Seconds(5),
                         [&](pqxx::transaction_base& tx) { return CancelJob(tx, w.context, id, "").status(); }),
      IsOk());
  REQUIRE(told.WaitForNotificationWithTimeout(absl::Seconds(5)));
  REQUIRE(Eventually([&] { return engine.stats().fenced == 1; }));
  CHECK(w.Get(id).state == "cancelled");
  CHECK_FALSE(w.Get(id).result.has_value());
}

TEST_CASE("the soft limit asks, the hard limit takes the job away") {
  World w;
  Registry registry;
  std::atomic<bool> release{false};
  std::atomic<int> runs{0};
  registry.Register("test.deaf", [&](RunningJob& job) {
    if (++runs > 1) return Outcome::Done();
    bool asked = false;
    while (!release) {
      asked |= job.cancelled();
      absl::SleepFor(absl::Milliseconds(5));
    }
    return asked ? Outcome::Done("\"asked\"") : Outcome::Done();
  });
  EngineOptions options = FastOptions(w.redis.url());
  options.policy = [](std::string_view) {
    return QueuePolicy{.backoff = {.base = absl::Milliseconds(10)},
                       .soft_limit = absl::Milliseconds(300),
                       .hard_limit = absl::Milliseconds(600)};
  };
  Engine engine(options, registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  const Uuid id = w.AddOne({.kind = "test.deaf"});
  CHECK(w.WaitFor(id, "succeeded"));
  CHECK(w.Get(id).attempt == 2);
  CHECK(w.Get(id).errors.find("hard_limit") != std::string::npos);
  CHECK_FALSE(w.Get(id).result.has_value());
  release = true;
}

TEST_CASE("jobs of a key run one after another in order of enqueue, also when heads fail and other keys are busy") {
  World w;
  Registry registry;
  absl::Mutex mu;
  std::map<std::string, int> busy, last;
  std::vector<std::string> breaks;
  registry.Register("test.keyed", [&](RunningJob& job) {
    const std::string args(job.args());
    const std::string key = args.substr(1, args.find(':') - 1);
    const int n = std::stoi(args.substr(args.find(':') + 1));
    {
      absl::MutexLock lock(&mu);
      if (++busy[key] > 1) breaks.push_back(absl::StrCat("two of ", key, " at once at ", n));
    }
    absl::SleepFor(absl::Milliseconds(1));
    absl::MutexLock lock(&mu);
    --busy[key];
    if (n % 7 == 3 && job.attempt() == 1) return Outcome::Retry("flaky", "head fails", absl::Milliseconds(20));
    if (n != last[key] + 1) breaks.push_back(absl::StrCat(key, ": ", n, " after ", last[key]));
    last[key] = n;
    return Outcome::Done();
  });
  Engine engine(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  constexpr int kKeys = 10, kEach = 30;
  for (int n = 1; n <= kEach; ++n) {
    std::vector<JobSpec> batch;
    for (int k = 0; k < kKeys; ++k)
      batch.push_back(
          {.kind = "test.keyed", .args = absl::StrCat("\"k", k, ":", n, "\""), .ordering_key = absl::StrCat("k", k)});
    // args is "k3:17" with its quotes; stoi stops at the closing one
    w.Add(batch);
  }
  REQUIRE(Eventually([&] { return w.Finished() == kKeys * kEach; }, absl::Seconds(40)));
  absl::MutexLock lock(&mu);
  for (const auto& b : breaks) FAIL_CHECK(b);
  CHECK(w.Count("SELECT count(*) FROM mainstay.job_slots") == 0);
}

TEST_CASE("a key goes on while thousands of other jobs stand in the stream") {
  World w;
  Registry registry;
  std::atomic<int> others = 0, before_last = -1;
  absl::Notification last_began;
  // Too long for runs: each takes a turn of its own.
  registry.Register("test.keyed", [&](RunningJob& job) {
    absl::SleepFor(absl::Milliseconds(15));
    if (job.args() == "8" && !last_began.HasBeenNotified()) {
      before_last = others.load();
      last_began.Notify();
    }
    return Outcome::Done();
  });
  // All of them take so long that a turn of the key has most of a second, however busy the machine is; once the last
  // has had its turn there is nothing left to wait for.
  registry.Register("test.other", [&](RunningJob&) {
    last_began.WaitForNotificationWithTimeout(absl::Milliseconds(20));
    ++others;
    return Outcome::Done();
  });
  constexpr int kOthers = 3000;
  std::vector<JobSpec> jobs;
  for (int n = 1; n <= 8; ++n)
    jobs.push_back({.kind = "test.keyed", .args = absl::StrCat(n), .ordering_key = std::string("hot")});
  jobs.resize(jobs.size() + kOthers, {.kind = "test.other", .args = "0"});
  w.Add(jobs);
  auto options = FastOptions(w.redis.url());
  options.read_batch = 50;
  Engine engine(options, registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  REQUIRE(Eventually([&] { return w.Finished() == 8 + kOthers; }, absl::Seconds(60)));
  INFO(before_last << " others had run before the key's last");
  CHECK(before_last < kOthers);
  CHECK(w.Count("SELECT count(*) FROM mainstay.job_slots") == 0);
}

TEST_CASE("a handler finishes its job in its own transaction: both or neither") {
  World w;
  Registry registry;
  registry.Register("test.effect", [&](RunningJob& job) {
    const bool fail = job.attempt() == 1 && job.args() == "\"fail\"";
    const absl::Status status =
        w.pool.Transaction(absl::Now() + absl::Seconds(5), [&](pqxx::transaction_base& tx) -> absl::Status {
          tx.exec_params("INSERT INTO effects (job, fence) VALUES ($1, $2)", job.id().ToString(), job.fence());
          const absl::Status finished = job.FinishIn(tx, Outcome::Done("1"));
          if (!finished.ok()) return finished;
          return fail ? absl::AbortedError("changed my mind") : absl::OkStatus();
        });
    if (fail) return Outcome::Done("\"a lie\"");  // says done, but nothing was committed
    return Outcome::FromStatus(status);
  });
  Engine engine(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  const Uuid good = w.AddOne({.kind = "test.effect"}),
             lied = w.AddOne({.kind = "test.effect", .args = "\"fail\"", .ordering_key = "k"}),
             next = w.AddOne({.kind = "test.effect", .ordering_key = "k"});
  REQUIRE(w.WaitFor(good, "succeeded"));
  REQUIRE(w.WaitFor(lied, "succeeded"));
  REQUIRE(w.WaitFor(next, "succeeded"));
  CHECK(w.Get(good).result == "1");
  CHECK(w.Get(lied).attempt == 2);
  CHECK(w.Get(lied).errors.find("not_committed") != std::string::npos);
  CHECK(w.Count("SELECT count(*) FROM effects") == 3);
}

TEST_CASE("F4: of a completion and a reclaim at the same moment exactly one wins") {
  World w;
  for (int round = 0; round < 100; ++round) {
    const Uuid id = w.AddOne({.kind = "test.race"});
    std::atomic<int64_t> completed{0}, reissued{0};
    auto complete = [&] {
      CHECK_THAT(w.pool.Transaction(absl::Now() + absl::Seconds(5),
                                    [&](pqxx::transaction_base& tx) -> absl::Status {
                                      CompleteArrays batch;
                                      batch.Add(id, 1, kStateSucceeded, nullptr, "", "", 1, 0);
                                      std::vector<int64_t> freed;
                                      std::vector<Handout> handouts;
                                      completed = Complete(tx, std::move(batch), nullptr, "zombie", &freed, &handouts);
                                      return absl::OkStatus();
                                    }),
                 IsOk());
    };
    Sql(w.url, "UPDATE mainstay.jobs SET state = 5");
    std::thread zombie(complete);
    CHECK_THAT(w.pool.Transaction(absl::Now() + absl::Seconds(5),
                                  [&](pqxx::transaction_base& tx) -> absl::Status {
                                    reissued = static_cast<int64_t>(Run(tx, sql::kReissue,
                                                                        absl::StrCat("{", id.ToString(), "}"), "{1}",
                                                                        kStateReady, "{1}", "{0}")
                                                                        .size());
                                    return absl::OkStatus();
                                  }),
               IsOk());
    zombie.join();
    REQUIRE(completed + reissued == 1);
    REQUIRE(w.Get(id).state == (completed == 1 ? "succeeded" : "scheduled"));
    Sql(w.url, "DELETE FROM mainstay.jobs");
  }
}

TEST_CASE("progress and checkpoints are stored under the fence, and the next run starts from the checkpoint") {
  World w;
  Registry registry;
  registry.Register("test.steps", [&](RunningJob& job) {
    if (job.checkpoint().empty()) {
      CHECK_THAT(job.Progress(40, "almost half"), IsOk());
      CHECK_THAT(job.SaveCheckpoint("{\"row\": 400}"), IsOk());
      CHECK_FALSE(job.SaveCheckpoint("{not json").ok());
      return Outcome::Retry("stop", "here");
    }
    Sql(w.url, "UPDATE mainstay.jobs SET fence = fence + 1");  // someone else has it now
    CHECK_THAT(job.Progress(90, "late"), testing::StatusIs(absl::StatusCode::kFailedPrecondition, "fenced"));
    CHECK(job.cancelled());
    return Outcome::Done();
  });
  Engine engine(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  const Uuid id = w.AddOne({.kind = "test.steps"});
  REQUIRE(Eventually([&] { return engine.stats().fenced == 1; }));
  CHECK(w.Get(id).progress == "{\"message\": \"almost half\", \"percent\": 40}");
  CHECK(SqlValue(w.url, "SELECT checkpoint::text FROM mainstay.jobs") == "{\"row\": 400}");
}

TEST_CASE("a paused queue starts nothing, takes jobs, and goes on where it stood") {
  World w;
  Registry registry;
  registry.Register("test.note", [&](RunningJob&) { return Outcome::Done(); });
  Engine engine(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  const Uuid before = w.AddOne({.kind = "test.note"});
  REQUIRE(w.WaitFor(before, "succeeded"));
  REQUIRE_THAT(
      w.pool.Transaction(absl::Now() + absl::Seconds(5),
                         [&](pqxx::transaction_base& tx) { return PauseQueue(tx, w.context, "default", "test"); }),
      IsOk());
  std::vector<JobSpec> batch(200, JobSpec{.kind = "test.note"});
  w.Add(batch);
  absl::SleepFor(absl::Milliseconds(700));
  CHECK(w.Finished() == 1);
  REQUIRE_THAT(w.pool.Transaction(absl::Now() + absl::Seconds(5),
                                  [&](pqxx::transaction_base& tx) { return ResumeQueue(tx, "default"); }),
               IsOk());
  CHECK(Eventually([&] { return w.Finished() == 201; }));
}

TEST_CASE("F22, F31: entries delivered twice, of an old fence, of unknown jobs and of no known form start nothing") {
  World w;
  Registry registry;
  registry.Register("test.note", [&](RunningJob& job) {
    w.Note(job, "start");
    return Outcome::Done();
  });
  const std::string stream = StreamKey("default", 4);
  Sql(w.url, "INSERT INTO mainstay.job_windows VALUES ('default', 4, now() + interval '1 minute')");
  const auto added = w.Add(std::vector<JobSpec>(20, JobSpec{.kind = "test.note"}));
  REQUIRE(Eventually([&] { return w.redis.Command({"XLEN", stream}) == "20"; }));
  Sql(w.url, "UPDATE mainstay.jobs SET fence = 2 WHERE id = '" + added[0].id.ToString() + "'");
  for (const auto& job : added) w.redis.Command({"XADD", stream, "*", kEntryField, job.entry});
  w.redis.Command({"XADD", stream, "*", kEntryField,
                   EncodeEntry({.id = added[0].id, .fence = 2, .kind = "test.note", .args = "{}"})});
  w.redis.Command(
      {"XADD", stream, "*", kEntryField, EncodeEntry({.id = NewUuid(), .kind = "test.note", .args = "{}"})});
  w.redis.Command({"XADD", stream, "*", kEntryField, "garbage"});
  w.redis.Command({"XADD", stream, "*", "other", "field"});
  Engine engine(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  REQUIRE(Eventually([&] { return w.Finished() == 20 && w.redis.Command({"XLEN", stream}) == "0"; }));
  // Each job, and no fence twice. A worker that was slow may have lost one and run it again.
  CHECK(w.Count("SELECT count(DISTINCT job) FROM ledger") == 20);
  CHECK(w.Count("SELECT count(*) - count(DISTINCT (job, fence)) FROM ledger") == 0);
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs_history WHERE fence = 2") >= 1);
}

TEST_CASE("the stream holds a window, whatever the backlog") {
  World w;
  Registry registry;
  std::atomic<bool> go{false};
  registry.Register("test.note", [&](RunningJob&) {
    while (!go) absl::SleepFor(absl::Milliseconds(2));
    return Outcome::Done();
  });
  EngineOptions options = FastOptions(w.redis.url());
  options.window = 200;
  Engine engine(options, registry, w.pool);
  std::vector<JobSpec> batch(2000, JobSpec{.kind = "test.note"});
  w.Add(batch);
  REQUIRE_THAT(engine.Start(), IsOk());
  REQUIRE(Eventually([&] { return engine.stats().running == 8; }));
  absl::SleepFor(absl::Milliseconds(300));
  CHECK(std::stoi(w.redis.Command({"XLEN", "mainstay:jobs:{default}:4"})) <= 200);
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs WHERE state = 3") >= 1780);
  go = true;
  CHECK(Eventually([&] { return w.Finished() == 2000; }));
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs_history WHERE fence > 1") <= 10);
}

TEST_CASE("a job's own backoff and limits stand over its queue's") {
  World w;
  Registry registry;
  std::atomic<int> runs{0};
  registry.Register("test.slow", [&](RunningJob& job) {
    ++runs;
    while (!job.cancelled()) absl::SleepFor(absl::Milliseconds(5));
    return Outcome::Retry("told_to_stop", "soft limit");
  });
  registry.Register("test.fail", [&](RunningJob&) { return Outcome::Retry("flaky", "always"); });
  EngineOptions options = FastOptions(w.redis.url());
  options.policy = [](std::string_view) {
    return QueuePolicy{.backoff = {.base = absl::Hours(1), .cap = absl::Hours(1), .floor = absl::Hours(1)},
                       .soft_limit = absl::Hours(1),
                       .hard_limit = absl::Hours(2)};
  };
  Engine engine(options, registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  const Uuid slow =
      w.AddOne({.kind = "test.slow", .max_attempts = 1, .options = {.soft_limit = absl::Milliseconds(100)}});
  const Uuid patient = w.AddOne(
      {.kind = "test.fail", .options = {.backoff = BackoffPolicy::Kind::kFixed, .backoff_base = absl::Hours(5)}});
  REQUIRE(w.WaitFor(slow, "dead"));
  CHECK(runs == 1);
  REQUIRE(w.WaitFor(patient, "scheduled"));
  CHECK(SqlValue(w.url,
                 "SELECT due_at BETWEEN now() + interval '295 minutes' AND now() + interval '301 minutes' FROM "
                 "mainstay.jobs") == "t");
}

TEST_CASE("sensitive arguments are opened for the handler; a worker without the key tries again later") {
  World w;
  secrets::KeyRing ring;
  ring.keys.emplace_back("k1", std::string(32, 'x'));
  const Sealer sealer(ring);
  Registry registry;
  std::atomic<bool> seen{false};
  registry.Register("test.secret", [&](RunningJob& job) {
    seen = job.args() == R"({"card":"4111"})";
    return Outcome::Done();
  });
  std::vector<Enqueued> added;
  const JobSpec spec{.kind = "test.secret", .args = R"({"card":"4111"})", .sensitive = true};
  REQUIRE_THAT(w.pool.Transaction(absl::Now() + absl::Seconds(20),
                                  [&](pqxx::transaction_base& tx) -> absl::Status {
                                    auto result = Enqueue(tx, w.context, {&spec, 1}, &sealer);
                                    if (result.ok()) added = *result;
                                    return result.status();
                                  }),
               IsOk());
  EngineOptions options = FastOptions(w.redis.url());
  {
    Engine blind(options, registry, w.pool);
    REQUIRE_THAT(blind.Start(), IsOk());
    REQUIRE(Eventually([&] { return w.Get(added[0].id).errors.find("secrets_key_file") != std::string::npos; }));
    CHECK_FALSE(seen);
    CHECK(blind.Drain(absl::Seconds(5)));
  }
  options.sealer = &sealer;
  Engine engine(options, registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  REQUIRE(w.WaitFor(added[0].id, "succeeded"));
  CHECK(seen);
  CHECK(SqlValue(w.url, "SELECT count(*) FROM mainstay.jobs_history h WHERE h::text LIKE '%4111%'") == "0");
}

TEST_CASE("F30: a job whose commit comes late starts after it, though younger ones have run meanwhile") {
  World w;
  Registry registry;
  std::atomic<int> ran{0};
  registry.Register("test.note", [&](RunningJob&) {
    ++ran;
    return Outcome::Done();
  });
  Engine engine(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  pqxx::connection late(w.url);
  auto open = std::make_unique<pqxx::work>(late);
  const JobSpec spec{.kind = "test.note"};
  const auto old = Enqueue(*open, w.context, {&spec, 1});
  REQUIRE_THAT(old, IsOk());
  w.Add(std::vector<JobSpec>(300, spec));
  REQUIRE(Eventually([&] { return w.Finished() == 300; }));
  absl::SleepFor(absl::Seconds(2));  // two sweeps pass by
  CHECK(ran == 300);
  open->commit();  // and nobody hands it off: the upkeep must find it below ids that were seen
  REQUIRE(w.WaitFor((*old)[0].id, "succeeded"));
  CHECK(ran == 301);
}

TEST_CASE("F29: what rolls back runs nowhere and is in no stream") {
  World w;
  Registry registry;
  std::atomic<int> ran{0};
  registry.Register("test.note", [&](RunningJob&) {
    ++ran;
    return Outcome::Done();
  });
  Engine engine(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  w.AddOne({.kind = "test.note"});
  REQUIRE(Eventually([&] { return w.Finished() == 1; }));
  const std::vector<JobSpec> batch(1000, JobSpec{.kind = "test.note"});
  CHECK_FALSE(w.pool
                  .Transaction(absl::Now() + absl::Seconds(20),
                               [&](pqxx::transaction_base& tx) -> absl::Status {
                                 for (int i = 0; i < 10; ++i) {
                                   if (auto added = Enqueue(tx, w.context, batch); !added.ok()) return added.status();
                                 }
                                 return absl::CancelledError("changed my mind");
                               })
                  .ok());
  w.AddOne({.kind = "test.note"});
  REQUIRE(Eventually([&] { return w.Finished() == 2; }));
  absl::SleepFor(absl::Seconds(1));
  CHECK(ran == 2);
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs") == 0);
}

}  // namespace
}  // namespace mainstay::jobs
