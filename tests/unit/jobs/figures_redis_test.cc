// SPDX-License-Identifier: Apache-2.0
// What a worker counts of its runs, end to end: handler, heartbeat, rows.
#include "libs/jobs/stats.h"
#include "tests/unit/jobs/world.h"

namespace mainstay::jobs {
namespace {

using testing::IsOk;

std::vector<QueueFigures> Read(World& world) {
  std::vector<QueueFigures> out;
  REQUIRE_THAT(world.pool.Autocommit(absl::Now() + absl::Seconds(10),
                                     [&](pqxx::transaction_base& tx) -> absl::Status {
                                       auto figures = ReadFigures(tx, std::nullopt, true);
                                       if (figures.ok()) out = *figures;
                                       return figures.status();
                                     }),
               IsOk());
  return out;
}

TEST_CASE("every run is counted with how long it waited and ran, by kind and outcome") {
  World world;
  Registry registry;
  registry.Register("good", [](RunningJob&) {
    absl::SleepFor(absl::Milliseconds(20));
    return Outcome::Done();
  });
  registry.Register("bad", [](RunningJob&) { return Outcome::Retry("x", "y"); });
  registry.Register("shy", [](RunningJob& job) {
    return job.checkpoint().empty() && job.SaveCheckpoint("1").ok() ? Outcome::Snooze(absl::ZeroDuration())
                                                                    : Outcome::Discard("enough");
  });
  Engine engine(FastOptions(world.redis.url()), registry, world.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  std::vector<JobSpec> jobs(50, JobSpec{.kind = "good"});
  jobs.push_back({.kind = "bad", .max_attempts = 3});
  jobs.push_back({.kind = "shy"});
  jobs.push_back({.kind = "good", .run_at = absl::Now() + absl::Milliseconds(1500)});
  world.Add(jobs);
  REQUIRE(Eventually([&] { return world.Count("SELECT count(*) FROM mainstay.jobs") == 0; }));
  CHECK(engine.Drain(absl::Seconds(5)));  // what was not flushed by a heartbeat is flushed now
  const auto figures = Read(world);
  REQUIRE(figures.size() == 3);
  CHECK(figures[0].kind == "bad");
  CHECK(figures[0].quarter.outcomes == std::array<int64_t, kRunOutcomes>{0, 2, 1, 0, 0});
  CHECK(figures[1].quarter.outcomes == std::array<int64_t, kRunOutcomes>{51, 0, 0, 0, 0});
  CHECK(figures[1].quarter.ran.count() == 51);
  CHECK(figures[1].quarter.ran.seconds >= 51 * 0.02);
  CHECK(figures[2].quarter.outcomes == std::array<int64_t, kRunOutcomes>{0, 0, 0, 1, 1});
  // A delay asked for is no waiting.
  CHECK(*figures[1].quarter.queued.Quantile(1) < 60);
  CHECK(figures[1].quarter.queued.count() == 51);
}

}  // namespace
}  // namespace mainstay::jobs
