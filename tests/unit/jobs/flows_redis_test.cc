// SPDX-License-Identifier: Apache-2.0
// Flows with live workers.
#include "libs/jobs/engine.h"
#include "libs/jobs/flows.h"
#include "tests/unit/jobs/world.h"

namespace mainstay::jobs {
namespace {

using testing::IsOk;

FlowJob Job(std::string kind, std::vector<std::string> needs = {}, RunsOn runs_on = RunsOn::kSucceeded) {
  FlowJob job;
  job.job.kind = std::move(kind);
  job.needs = std::move(needs);
  job.runs_on = runs_on;
  return job;
}

TEST_CASE("F54: children fail, retry, die and add others while they run: the callback starts once, after the last") {
  World w;
  Registry registry;
  registry.Register("test.child", [&](RunningJob& job) -> Outcome {
    w.Note(job, "child");
    if (job.args() == R"({"dies":true})") return Outcome::Dead("broken", "it broke");
    if (job.args() == R"({"adds":true})") {
      Flow more;
      const absl::Status status =
          w.pool.Transaction(absl::Now() + absl::Seconds(20), [&](pqxx::transaction_base& tx) -> absl::Status {
            auto added = AddToFlow(tx, w.context, job.id(), std::vector<FlowJob>(3, Job("test.child")));
            if (!added.ok()) return added.status();
            more = *std::move(added);
            return job.FinishIn(tx, Outcome::Done());
          });
      if (!status.ok()) return Outcome::FromStatus(status);
      w.handoff->Publish(more.jobs);
      return Outcome::Done();
    }
    return job.attempt() == 1 && job.args() == R"({"fails":true})" ? Outcome::Retry("once", "again") : Outcome::Done();
  });
  registry.Register("test.callback", [&](RunningJob& job) {
    w.Note(job, "callback");
    return Outcome::Done();
  });
  std::vector<FlowJob> jobs(100, Job("test.child"));
  for (size_t i = 0; i < 100; i += 10) {
    jobs[i].job.args = R"({"adds":true})";
    jobs[i + 1].job.args = R"({"fails":true})";
    jobs[i + 2].job.args = R"({"dies":true})";
  }
  jobs.push_back(Job("test.callback", {"*"}, RunsOn::kDone));
  Engine one(FastOptions(w.redis.url()), registry, w.pool), two(FastOptions(w.redis.url()), registry, w.pool);
  REQUIRE_THAT(one.Start(), IsOk());
  REQUIRE_THAT(two.Start(), IsOk());
  Flow flow;
  REQUIRE_THAT(w.pool.Transaction(absl::Now() + absl::Seconds(20),
                                  [&](pqxx::transaction_base& tx) -> absl::Status {
                                    auto added = EnqueueFlow(tx, w.context, "test", jobs);
                                    if (added.ok()) flow = *std::move(added);
                                    return added.status();
                                  }),
               IsOk());
  w.handoff->Publish(flow.jobs);
  REQUIRE(w.WaitFor(flow.jobs.back().id, "succeeded", absl::Seconds(60)));
  CHECK(w.Count("SELECT count(*) FROM ledger WHERE what = 'callback'") == 1);
  CHECK(w.Count("SELECT count(DISTINCT job) FROM ledger WHERE what = 'child'") == 130);
  CHECK(
      w.Count("SELECT count(*) FROM ledger c, ledger o WHERE c.what = 'callback' AND o.what = 'child' AND o.n > c.n") ==
      0);
  CHECK(w.Count("SELECT total FROM mainstay.flows_view") == 131);
  CHECK(w.Count("SELECT dead FROM mainstay.flows_view") == 10);
  CHECK(w.Count("SELECT succeeded FROM mainstay.flows_view") == 121);
  one.Drain(absl::Seconds(10));
  two.Drain(absl::Seconds(10));
}

}  // namespace
}  // namespace mainstay::jobs
