// SPDX-License-Identifier: Apache-2.0
// A worker for tests to torment, with handlers in children. Everything that a handler does to the world goes into the
// tables `ledger` and `effects` of the test, so that what happened can be judged from outside.
//
//   test.work    args: milliseconds, or {"ms":…, "own":false}. Notes start; one effect, in the finishing transaction
//                unless own is false; notes end. Looks at cancelled().
//   test.linger  args: milliseconds; the first time it waits so long between the finishing statement and its commit
//   test.plain   the same milliseconds; notes start and end, and has no transaction with its completion
//   test.flaky   nothing but the notes; a fifth of the jobs fail the first time
//   test.noop    nothing
//   test.crash   notes start and takes its process down with exit code 7
//   test.signal  the same with SIGSEGV
//   test.deaf    args: milliseconds; sleeps them whatever it is told
//   test.hog     takes memory until it may have no more; says so
//   test.typed   args: google.protobuf.SourceContext; result: its file name
//   test.fork    tries to start a process; result: the error
//   test.step    args: {"steps":n, "ms":…}: checkpoints after each step; result: at which step it began
#include <google/protobuf/source_context.pb.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <memory>
#include <pqxx/pqxx>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "libs/base/json.h"
#include "libs/base/status.h"
#include "libs/jobs/typed.h"
#include "libs/jobs/worker_main.h"
#include "libs/postgres/pool.h"

namespace mainstay::jobs {
namespace {

int64_t Number(std::string_view args, std::string_view name, int64_t fallback) {
  int64_t number = fallback;
  const auto document = JsonDocument::Parse(std::string(args));
  if (!document.ok()) return fallback;
  const JsonValue* value = document->root().is_number()   ? &document->root()
                           : document->root().is_object() ? document->root().Find(name)
                                                          : nullptr;
  if (value != nullptr && value->is_number())
    std::from_chars(value->text().data(), value->text().data() + value->text().size(), number);
  return number;
}

void Note(RunningJob& job, const char* what) {
  job.pool()
      .Autocommit(absl::Now() + absl::Seconds(10),
                  [&](pqxx::transaction_base& tx) -> absl::Status {
                    tx.exec_params("INSERT INTO ledger (job, fence, what) VALUES ($1, $2, $3)", job.id().ToString(),
                                   job.fence(), what);
                    return absl::OkStatus();
                  })
      .IgnoreError();
}

// False: told to stop.
bool Sleep(RunningJob& job, int64_t ms) {
  const absl::Time end = absl::Now() + absl::Milliseconds(ms);
  while (absl::Now() < end) {
    if (job.cancelled()) return false;
    absl::SleepFor(absl::Milliseconds(5));
  }
  return true;
}

Outcome Work(RunningJob& job) {
  Note(job, "start");
  if (!Sleep(job, Number(job.args(), "ms", 0))) return Outcome::Retry("stopped", "told to stop");
  const bool own = job.args().find("\"own\":false") == std::string_view::npos;
  const absl::Status status =
      job.pool().Transaction(absl::Now() + absl::Seconds(10), [&](pqxx::transaction_base& tx) -> absl::Status {
        tx.exec_params("INSERT INTO effects (job, fence) VALUES ($1, $2)", job.id().ToString(), job.fence());
        return own ? job.FinishIn(tx, Outcome::Done()) : absl::OkStatus();
      });
  if (!status.ok()) return Outcome::FromStatus(status);
  Note(job, "end");
  return Outcome::Done();
}

Outcome Linger(RunningJob& job) {
  Note(job, "start");
  const absl::Status status =
      job.pool().Transaction(absl::Now() + absl::Seconds(30), [&](pqxx::transaction_base& tx) -> absl::Status {
        tx.exec_params("INSERT INTO effects (job, fence) VALUES ($1, $2)", job.id().ToString(), job.fence());
        RETURN_IF_ERROR(job.FinishIn(tx, Outcome::Done()));
        if (job.attempt() == 1) absl::SleepFor(absl::Milliseconds(Number(job.args(), "ms", 0)));
        return absl::OkStatus();
      });
  if (!status.ok()) return Outcome::FromStatus(status);
  Note(job, "end");
  return Outcome::Done();
}

Outcome Plain(RunningJob& job) {
  Note(job, "start");
  if (!Sleep(job, Number(job.args(), "ms", 0))) return Outcome::Retry("stopped", "told to stop");
  Note(job, "end");
  return Outcome::Done();
}

Outcome Flaky(RunningJob& job) {
  Note(job, "start");
  if (job.attempt() == 1 && job.id().bytes.back() % 5 == 0) return Outcome::Retry("flaky", "the first time");
  Note(job, "end");
  return Outcome::Done();
}

void RegisterAll(Registry& registry) {
  registry.Register("test.work", Work);
  registry.Register("test.linger", Linger);
  registry.Register("test.plain", Plain);
  registry.Register("test.flaky", Flaky);
  registry.Register("test.noop", [](RunningJob&) { return Outcome::Done(); });
  registry.Register("test.crash", [](RunningJob& job) -> Outcome {
    Note(job, "start");
    _exit(7);
  });
  registry.Register("test.signal", [](RunningJob& job) -> Outcome {
    Note(job, "start");
    raise(SIGSEGV);
    return Outcome::Done();
  });
  registry.Register("test.deaf", [](RunningJob& job) {
    Note(job, "start");
    absl::SleepFor(absl::Milliseconds(Number(job.args(), "ms", 0)));
    return Outcome::Done();
  });
  registry.Register("test.hog", [](RunningJob& job) {
    std::vector<std::unique_ptr<char[]>> memory;
    size_t taken = 0;
    try {
      while (taken < size_t{8} << 30) {
        memory.push_back(std::make_unique<char[]>(16 << 20));
        taken += 16 << 20;
        if (job.cancelled()) break;
      }
    } catch (const std::bad_alloc&) {
      memory.clear();
      return Outcome::Done("\"refused\"");
    }
    return Outcome::Dead("unlimited", absl::StrCat("got ", taken, " bytes"));
  });
  registry.Register("test.typed", Typed<google::protobuf::SourceContext>([](RunningJob&, const auto& args) {
                      return Outcome::Done(JsonQuote(args.file_name()));
                    }));
  registry.Register("test.fork", [](RunningJob&) {
    const pid_t pid = fork();
    if (pid == 0) _exit(0);
    if (pid > 0) {
      waitpid(pid, nullptr, 0);
      return Outcome::Dead("forked", "a handler made a process");
    }
    return Outcome::Done(JsonQuote(std::strerror(errno)));
  });
  registry.Register("test.step", [](RunningJob& job) {
    const int64_t steps = Number(job.args(), "steps", 1), ms = Number(job.args(), "ms", 0);
    const int64_t began = job.checkpoint().empty() ? 0 : Number(job.checkpoint(), "step", 0);
    for (int64_t step = began; step < steps; ++step) {
      if (!Sleep(job, ms)) return Outcome::Retry("stopped", "told to stop");
      const absl::Status saved = job.SaveCheckpoint(absl::StrCat("{\"step\":", step + 1, "}"));
      if (!saved.ok()) return Outcome::FromStatus(saved);
      job.Progress(100.0 * static_cast<double>(step + 1) / static_cast<double>(steps), "stepping",
                   {{"steps", step + 1}})
          .IgnoreError();
    }
    return Outcome::Done(absl::StrCat("{\"began\":", began, "}"));
  });
}

}  // namespace
}  // namespace mainstay::jobs

int main(int argc, char** argv) {
  mainstay::jobs::Registry registry;
  mainstay::jobs::RegisterAll(registry);
  return mainstay::jobs::WorkerMain(argc, argv, registry);
}
