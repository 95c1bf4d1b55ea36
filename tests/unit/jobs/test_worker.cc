// SPDX-License-Identifier: Apache-2.0
// A worker to be killed: jobs_test_worker DATABASE_URL REDIS_URL. Kinds: test.work (notes start, sleeps args ms, one
// effect in the finishing transaction, notes end) and test.crash (notes start and takes the process down). SIGTERM
// drains with two seconds.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <pqxx/pqxx>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/jobs/engine.h"
#include "libs/postgres/pool.h"
#include "libs/telemetry/log.h"

using namespace mainstay;

int main(int, char** argv) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  log::Init("test-worker", "info");
  postgres::Pool pool({.url = argv[1], .application_name = "jobs_test_worker", .size = 12, .pin_plans = true});
  auto note = [&](const jobs::RunningJob& job, const char* what) {
    pool.Autocommit(absl::Now() + absl::Seconds(10),
                    [&](pqxx::transaction_base& tx) -> absl::Status {
                      tx.exec_params("INSERT INTO ledger (job, fence, what) VALUES ($1, $2, $3)", job.id().ToString(),
                                     job.fence(), what);
                      return absl::OkStatus();
                    })
        .IgnoreError();
  };
  jobs::Registry registry;
  registry.Register("test.work", [&](jobs::RunningJob& job) {
    note(job, "start");
    const absl::Time end = absl::Now() + absl::Milliseconds(std::atoi(std::string(job.args()).c_str()));
    while (absl::Now() < end) {
      if (job.cancelled()) return jobs::Outcome::Retry("stopped", "");
      absl::SleepFor(absl::Milliseconds(10));
    }
    const absl::Status status =
        pool.Transaction(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
          tx.exec_params("INSERT INTO effects (job, fence) VALUES ($1, $2)", job.id().ToString(), job.fence());
          return job.FinishIn(tx, jobs::Outcome::Done());
        });
    if (!status.ok()) return jobs::Outcome::FromStatus(status);
    note(job, "end");
    return jobs::Outcome::Done();
  });
  registry.Register("test.crash", [&](jobs::RunningJob& job) -> jobs::Outcome {
    note(job, "start");
    _exit(7);
  });
  jobs::EngineOptions o;
  o.name = absl::StrCat("test-worker:", getpid());
  o.redis.url = argv[2];
  o.executors = 8;
  o.heartbeat = absl::Milliseconds(250);
  o.lease = absl::Milliseconds(1200);
  o.sweep = absl::Seconds(1);
  o.dispatch_interval = absl::Milliseconds(20);
  o.claim_stale = absl::Milliseconds(500);
  o.policy = [](std::string_view) {
    return jobs::QueuePolicy{.backoff = {.base = absl::Milliseconds(50), .cap = absl::Milliseconds(200)}};
  };
  jobs::Engine engine(o, registry, pool);
  if (const absl::Status status = engine.Start(); !status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return 1;
  }
  std::puts("READY");
  std::fflush(stdout);
  int signal = 0;
  sigwait(&set, &signal);
  const bool clean = engine.Drain(absl::Seconds(2));
  std::puts("DRAINED");
  std::fflush(stdout);
  if (!clean) _exit(0);
  return 0;
}
