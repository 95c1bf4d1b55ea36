// SPDX-License-Identifier: Apache-2.0
// Schedules with live workers and the real clock: seconds, so that a test waits for a few fire times only.
#include "libs/jobs/engine.h"
#include "libs/jobs/schedules.h"
#include "tests/unit/jobs/world.h"

namespace mainstay::jobs {
namespace {

using testing::IsOk;

EngineOptions WithSchedule(World& w, ScheduleSpec spec) {
  EngineOptions options = FastOptions(w.redis.url());
  spec.name = "tick";
  spec.tenant = "acme";
  spec.kind = "test.tick";
  options.schedules = [spec] { return DeclaredSchedules{.catalog_hash = "one", .schedules = {spec}}; };
  options.handoff = w.handoff.get();
  return options;
}

TEST_CASE("F44, F45: workers come and go, the leader first: each second has one row, one job and one run") {
  World w;
  Registry registry;
  registry.Register("test.tick", [&](RunningJob& job) {
    w.Note(job, "run");
    return Outcome::Done();
  });
  const EngineOptions options = WithSchedule(w, {.cron = "* * * * * *", .missed = "all", .overlap = "allow"});
  std::vector<std::unique_ptr<Engine>> engines;
  auto start = [&] {
    engines.push_back(std::make_unique<Engine>(options, registry, w.pool));
    REQUIRE_THAT(engines.back()->Start(), IsOk());
  };
  start();
  start();
  int64_t seen = 0;
  for (int change = 0; change < 3; ++change) {
    REQUIRE(Eventually([&] { return w.Finished() >= seen + 2; }));
    seen = w.Finished();
    size_t leader = engines.size();
    REQUIRE(Eventually([&] {
      for (leader = 0; leader < engines.size(); ++leader)
        if (engines[leader]->stats().leading) return true;
      return false;
    }));
    start();
    if (change == 1) {
      // As if killed: its lease runs out, nothing is handed over. (Its threads end with the object; what they write
      // meanwhile is what a woken leader writes.)
      testing::Sql(
          w.url, "UPDATE mainstay.leases SET holder = 'nobody', expires_at = clock_timestamp() + interval '2 seconds'");
    } else {
      engines[leader]->Drain(absl::Seconds(10));
      engines.erase(engines.begin() + static_cast<std::ptrdiff_t>(leader));
    }
  }
  REQUIRE(Eventually([&] { return w.Finished() >= seen + 3; }));
  for (auto& engine : engines) engine->Drain(absl::Seconds(10));
  CHECK(w.Count("SELECT count(*) FROM mainstay.schedule_runs WHERE decided_at < fire_at") == 0);
  CHECK(w.Count(
            "SELECT count(*) - extract(epoch FROM max(fire_at) - min(fire_at))::bigint FROM mainstay.schedule_runs") ==
        1);
  CHECK(w.Count("SELECT count(*) FROM mainstay.schedule_runs WHERE outcome <> 'enqueued' OR job IS NULL") == 0);
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs_view") ==
        w.Count("SELECT count(DISTINCT job) FROM mainstay.schedule_runs"));
  CHECK(w.Count("SELECT count(*) FROM (SELECT job, fence FROM ledger GROUP BY 1, 2 HAVING count(*) > 1) twice") == 0);
}

TEST_CASE("a run that does not end is replaced by the next: its handler is told, one goes on at a time") {
  World w;
  Registry registry;
  registry.Register("test.tick", [&](RunningJob& job) {
    while (!job.cancelled()) absl::SleepFor(absl::Milliseconds(10));
    w.Note(job, "told");
    return Outcome::Done();
  });
  Engine engine(WithSchedule(w, {.cron = "*/2 * * * * *", .overlap = "replace"}), registry, w.pool);
  REQUIRE_THAT(engine.Start(), IsOk());
  CHECK(
      Eventually([&] { return w.Finished(8) >= 2 && w.Count("SELECT count(*) FROM ledger") >= 2; }, absl::Seconds(40)));
  CHECK(w.Count("SELECT count(*) FROM mainstay.jobs") <= 1);
  engine.Drain(absl::Seconds(10));
}

}  // namespace
}  // namespace mainstay::jobs
