// SPDX-License-Identifier: Apache-2.0
// What is promised at enqueue and kept by workers: unique keys from the commit to the end of their job.
#include <signal.h>

#include <atomic>

#include "absl/strings/str_cat.h"
#include "tests/unit/jobs/world.h"

namespace mainstay::jobs {
namespace {

using testing::IsOk;

// The job that has the key: a new one, or its holder.
Enqueued Again(World& w, const std::string& kind) {
  return w.Add({{.kind = kind, .unique_key = "u", .max_attempts = 2}})[0];
}

TEST_CASE("F53: a unique key is held through retries and free with the job's end, whichever end that is") {
  World w;
  Registry registry;
  std::atomic<bool> go{false};
  registry.Register("test.done", [](RunningJob&) { return Outcome::Done(); });
  registry.Register("test.discard", [](RunningJob&) { return Outcome::Discard("not wanted"); });
  registry.Register("test.dead", [](RunningJob&) { return Outcome::Dead("x", "never again"); });
  registry.Register("test.exhausted", [](RunningJob&) { return Outcome::Retry("x", "always"); });
  registry.Register("test.finish", [&](RunningJob& job) {
    const absl::Status status = w.pool.Transaction(
        absl::Now() + absl::Seconds(20),
        [&](pqxx::transaction_base& tx) -> absl::Status { return job.FinishIn(tx, Outcome::Done()); });
    return Outcome::FromStatus(status);
  });
  registry.Register("test.flaky", [&](RunningJob& job) {
    if (job.attempt() == 1) return Outcome::Retry("x", "once");
    while (!go && !job.cancelled()) absl::SleepFor(absl::Milliseconds(5));
    return Outcome::Done();
  });
  registry.Register("test.cancelled", [&](RunningJob& job) {
    while (!job.cancelled()) absl::SleepFor(absl::Milliseconds(5));
    return Outcome::Done();
  });
  Engine engine(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());

  const Uuid flaky = Again(w, "test.flaky").id, cancelled = Again(w, "test.cancelled").id;
  for (const auto& [kind, state] : std::map<std::string, std::string>{{"test.done", "succeeded"},
                                                                      {"test.discard", "discarded"},
                                                                      {"test.dead", "dead"},
                                                                      {"test.exhausted", "dead"},
                                                                      {"test.finish", "succeeded"}}) {
    INFO(kind);
    const Uuid first = Again(w, kind).id;
    REQUIRE(w.WaitFor(first, state));
    const Enqueued second = Again(w, kind);
    CHECK_FALSE(second.existed);
    REQUIRE(w.WaitFor(second.id, state));
  }
  REQUIRE(Eventually([&] { return w.Get(flaky).attempt == 2; }));
  CHECK(Again(w, "test.flaky").id == flaky);
  CHECK(Again(w, "test.cancelled").id == cancelled);
  go = true;
  REQUIRE(w.WaitFor(flaky, "succeeded"));
  REQUIRE(Eventually([&] { return w.Get(cancelled).state == "running"; }));
  std::vector<Enqueued> next;
  REQUIRE_THAT(w.pool.Transaction(absl::Now() + absl::Seconds(20),
                                  [&](pqxx::transaction_base& tx) -> absl::Status {
                                    auto result = CancelJob(tx, w.context, cancelled, "test");
                                    if (result.ok()) next = *std::move(result);
                                    return result.status();
                                  }),
               IsOk());
  const Enqueued after = Again(w, "test.cancelled");
  CHECK_FALSE(after.existed);
  CHECK(w.Count("SELECT count(*) FROM mainstay.job_unique") == 1);  // that one's
}

TEST_CASE("F53: a holder that crashes its process keeps the key until it is dead; then the key is free") {
  World w;
  w.StartUpkeep();
  testing::Subprocess worker(w.Worker());
  const Uuid poison = Again(w, "test.crash").id;
  bool held = true;
  const bool dead = Eventually(
      [&] {
        const Enqueued again = Again(w, "test.crash");
        const bool ended = w.Get(poison).state == "dead";
        held = held && (ended || again.id == poison);
        return ended;
      },
      absl::Seconds(90));
  REQUIRE(dead);
  CHECK(held);
  worker.Signal(SIGKILL);
  const Uuid next = Again(w, "test.crash").id;
  CHECK(next != poison);
  CHECK(Again(w, "test.crash").id == next);
}

}  // namespace
}  // namespace mainstay::jobs
