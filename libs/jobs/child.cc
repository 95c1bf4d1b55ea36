// SPDX-License-Identifier: Apache-2.0
// One thread reads frames and ticks; the others run handlers. A result leaves at once when nothing else waits, else
// with those that follow within a millisecond or so. With short jobs one thread does all of them, without waking the
// others.
#include "libs/jobs/child.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "libs/base/strings.h"
#include "libs/jobs/frames.h"
#include "libs/jobs/running.h"
#include "libs/telemetry/log.h"

namespace mainstay::jobs {
namespace {

constexpr char kFlag[] = "--job-child=";
constexpr int kTickMillis = 2;
constexpr size_t kFlushAt = 32;
constexpr int64_t kFlushAfterMicros = 1000, kShortMicros = 100;

// No process beside this one: a fork bomb would outlive the limits, and RLIMIT_NPROC spares root. Threads are fine;
// clone3 hides its flags from filters, so libc is told to use clone.
void ForbidProcesses() {
#if defined(__x86_64__) || defined(__aarch64__)
  auto fail = [](uint16_t error) { return SECCOMP_RET_ERRNO | static_cast<uint32_t>(error); };
  sock_filter filter[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, fail(ENOSYS)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execve, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, fail(EPERM)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execveat, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, fail(EPERM)),
#if defined(__x86_64__)
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fork, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, fail(EPERM)),
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_vfork, 0, 1),
    BPF_STMT(BPF_RET | BPF_K, fail(EPERM)),
#endif
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3),
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[0])),
    BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 1, 0),
    BPF_STMT(BPF_RET | BPF_K, fail(EPERM)),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program = {.len = static_cast<unsigned short>(std::size(filter)), .filter = filter};
  // For the threads there are as well.
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0)
    log::Warn("handlers may start processes: this system has no seccomp", {{"error", std::strerror(errno)}});
#endif
}

class Child {
 public:
  Child(const ChildArgument& argument, const Registry& registry, postgres::Pool& pool)
      : argument_(argument), home_{registry, argument.worker, argument.worker_name, pool} {}

  [[noreturn]] void Run();

 private:
  struct Job : JobData {
    uint32_t slot = 0;
    std::atomic<Stop> stop{Stop::kNone};
    bool finished_in = false;
    std::vector<Handout> successors;
    std::shared_ptr<Job> next;  // of its run, to be started by the same thread once this one is done
  };
  struct Answer {
    absl::Notification done;
    absl::Status status;
  };
  class Handle : public HandlerJob {
   public:
    Handle(Child& child, Job& job) : HandlerJob(child.home_, job), child_(child), job_(job) {}
    bool cancelled() const override { return job_.stop.load(std::memory_order_relaxed) != Stop::kNone; }

   private:
    absl::Status StoreNote(bool checkpoint, std::string json) override {
      absl::Status status = child_.StoreNote(job_.slot, checkpoint, json);
      if (absl::IsFailedPrecondition(status)) Fenced();
      return status;
    }
    void Fenced() override { job_.stop = Stop::kFenced; }
    void FinishedIn(std::vector<Handout> successors) override {
      job_.finished_in = true;
      job_.successors = std::move(successors);
    }
    Child& child_;
    Job& job_;
  };

  void Execute();
  // Takes a job that has not started, and those of its run behind it, out of the child's hands.
  void Unstarted(std::shared_ptr<Job> job, std::vector<ChildResult>& results) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Read(FrameBuffer& buffer);
  bool OnFrame(FrameType type, std::string_view body);
  absl::Status StoreNote(uint32_t slot, bool checkpoint, const std::string& json);
  void Flush(const std::vector<ChildResult>& results) ABSL_LOCKS_EXCLUDED(write_mu_);
  void Send(const std::string& frames) ABSL_LOCKS_EXCLUDED(write_mu_);
  [[noreturn]] static void Die(int code) { _exit(code); }

  const ChildArgument argument_;
  const HandlerHome home_;
  std::atomic<int64_t>* started_ = nullptr;  // the shared page, by slot

  absl::Mutex mu_;
  absl::CondVar work_;
  std::deque<std::shared_ptr<Job>> waiting_ ABSL_GUARDED_BY(mu_);
  std::map<uint32_t, std::shared_ptr<Job>> jobs_ ABSL_GUARDED_BY(mu_);  // waiting and running
  std::vector<ChildResult> results_ ABSL_GUARDED_BY(mu_);
  int64_t results_since_ ABSL_GUARDED_BY(mu_) = 0;
  int idle_ ABSL_GUARDED_BY(mu_) = 0, busy_ ABSL_GUARDED_BY(mu_) = 0;
  double run_micros_ ABSL_GUARDED_BY(mu_) = 1000;  // of late, per job
  uint64_t taken_ ABSL_GUARDED_BY(mu_) = 0;        // jobs started, ever
  uint64_t note_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<uint64_t, std::shared_ptr<Answer>> answers_ ABSL_GUARDED_BY(mu_);
  absl::Mutex write_mu_;
};

void Child::Send(const std::string& frames) {
  absl::MutexLock lock(&write_mu_);
  for (size_t at = 0; at < frames.size();) {
    const ssize_t n = send(argument_.socket, frames.data() + at, frames.size() - at, MSG_NOSIGNAL);
    if (n > 0) {
      at += static_cast<size_t>(n);
    } else if (errno != EINTR) {
      Die(0);  // the worker is gone
    }
  }
}

void Child::Flush(const std::vector<ChildResult>& results) {
  if (results.empty()) return;
  std::string frames;
  {
    FrameWriter frame(frames, FrameType::kResults);
    for (const ChildResult& result : results) WriteResult(frame, result);
  }
  Send(frames);
}

absl::Status Child::StoreNote(uint32_t slot, bool checkpoint, const std::string& json) {
  const auto answer = std::make_shared<Answer>();
  std::string frames;
  {
    absl::MutexLock lock(&mu_);
    answers_[++note_] = answer;
    FrameWriter(frames, FrameType::kNote).Number(note_).Number(slot).Number(checkpoint ? 1 : 0).Text(json);
  }
  Send(frames);
  answer->done.WaitForNotification();
  return answer->status;
}

void Child::Unstarted(std::shared_ptr<Job> job, std::vector<ChildResult>& results) {
  for (; job != nullptr; job = job->next) {
    jobs_.erase(job->slot);
    ChildResult& result = results.emplace_back();
    result.slot = job->slot;
    result.unstarted = true;
  }
}

void Child::Execute() {
  ChildResult result;
  std::shared_ptr<Job> done;  // that `result` is of
  while (true) {
    std::shared_ptr<Job> job;
    std::vector<ChildResult> flush;
    {
      absl::MutexLock lock(&mu_);
      std::shared_ptr<Job> next;
      if (done != nullptr) {
        next = std::move(done->next);
        --busy_;
        run_micros_ += (static_cast<double>(result.ran_us) - run_micros_) / 8;
        jobs_.erase(result.slot);
        if (results_.empty()) results_since_ = MonoMicros();
        const bool goes_on =
            result.outcome.kind == Outcome::Kind::kDone && !result.finished_in && done->stop == Stop::kNone;
        done = nullptr;
        results_.push_back(std::exchange(result, ChildResult()));
        if (!goes_on) Unstarted(std::move(next), results_);
        if ((waiting_.empty() && next == nullptr) || results_.size() >= kFlushAt ||
            MonoMicros() - results_since_ > kFlushAfterMicros)
          flush.swap(results_);
      }
      if (next != nullptr || flush.empty()) {
        job = std::move(next);
        if (job == nullptr) {
          ++idle_;
          while (waiting_.empty()) work_.Wait(&mu_);
          --idle_;
          job = std::move(waiting_.front());
          waiting_.pop_front();
        }
        ++taken_;
        if (job->stop != Stop::kNone) {  // told to stop before it began
          Unstarted(std::exchange(job, nullptr), flush);
        } else {
          ++busy_;
          started_[job->slot].store(std::max<int64_t>(1, MonoMicros()), std::memory_order_release);
        }
        if (!waiting_.empty() && idle_ > 0 && run_micros_ > kShortMicros) work_.Signal();
      }
    }
    Flush(flush);
    if (job == nullptr) continue;
    Handle handle(*this, *job);
    result.slot = job->slot;
    result.outcome = handle.RunHandler();
    result.ran_us = std::max<int64_t>(1, MonoMicros() - started_[job->slot].load(std::memory_order_relaxed));
    result.finished_in = job->finished_in;
    result.fenced = job->stop == Stop::kFenced;
    result.successors = std::move(job->successors);
    done = std::move(job);
  }
}

bool Child::OnFrame(FrameType type, std::string_view body) {
  FrameReader frame(body);
  switch (type) {
    case FrameType::kJobs: {
      std::vector<std::shared_ptr<Job>> jobs, members;
      std::shared_ptr<Job> last;
      while (!frame.done()) {
        auto job = std::make_shared<Job>();
        job->slot = static_cast<uint32_t>(frame.Number());
        const bool follows = frame.Number() != 0;
        if (!ReadJob(frame, *job) || job->slot >= static_cast<uint32_t>(argument_.slots) || (follows && jobs.empty()))
          return false;
        job->follows = follows;
        if (follows) {
          last->next = job;
          members.push_back(job);
        } else {
          jobs.push_back(job);
        }
        last = job;
      }
      absl::MutexLock lock(&mu_);
      int wake = run_micros_ > kShortMicros ? static_cast<int>(jobs.size()) : (busy_ == 0 ? 1 : 0);
      for (auto& job : jobs) {
        jobs_[job->slot] = job;
        waiting_.push_back(std::move(job));
      }
      for (auto& job : members) jobs_[job->slot] = std::move(job);
      for (wake = std::min(wake, idle_); wake > 0; --wake) work_.Signal();
      return true;
    }
    case FrameType::kStop: {
      const auto slot = static_cast<uint32_t>(frame.Number());
      const auto why = static_cast<Stop>(frame.Number());
      absl::MutexLock lock(&mu_);
      if (const auto it = jobs_.find(slot); it != jobs_.end()) {
        Stop none = Stop::kNone;
        it->second->stop.compare_exchange_strong(none, why);
      }
      return frame.ok();
    }
    case FrameType::kRecall: {
      std::vector<ChildResult> back;
      {
        absl::MutexLock lock(&mu_);
        std::vector<std::shared_ptr<Job>> first(waiting_.begin(), waiting_.end());
        for (auto& [slot, job] : jobs_) {
          if (started_[slot].load(std::memory_order_relaxed) != 0) first.push_back(std::move(job->next));
        }
        waiting_.clear();
        for (auto& job : first) Unstarted(std::move(job), back);
      }
      Flush(back);
      return true;
    }
    case FrameType::kNoteAnswer: {
      const uint64_t request = frame.Number();
      const auto code = static_cast<absl::StatusCode>(frame.Number());
      const std::string_view message = frame.Text();
      std::shared_ptr<Answer> answer;
      {
        absl::MutexLock lock(&mu_);
        const auto it = answers_.find(request);
        if (it == answers_.end()) return frame.ok();
        answer = std::move(it->second);
        answers_.erase(it);
      }
      answer->status = absl::Status(code, ToAbsl(message));
      answer->done.Notify();
      return frame.ok();
    }
    default:
      return false;
  }
}

void Child::Read(FrameBuffer& buffer) {
  const ssize_t n = recv(argument_.socket, buffer.Space(64 << 10), 64 << 10, MSG_DONTWAIT);
  if (n == 0) Die(0);
  if (n < 0) {
    if (errno == EAGAIN || errno == EINTR) return;
    Die(0);
  }
  buffer.Wrote(static_cast<size_t>(n));
  while (const auto frame = buffer.Next()) {
    if (!OnFrame(frame->first, frame->second)) Die(70);
  }
  if (buffer.broken()) Die(70);
}

void Child::Run() {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  prctl(PR_SET_NAME, "jobs-child");
  signal(SIGPIPE, SIG_IGN);
  // A drain is the worker's decision, also when a terminal sends the signal to all.
  signal(SIGTERM, SIG_IGN);
  signal(SIGINT, SIG_IGN);
  if (argument_.memory_bytes > 0) {
    const rlimit limit = {static_cast<rlim_t>(argument_.memory_bytes), static_cast<rlim_t>(argument_.memory_bytes)};
    setrlimit(RLIMIT_DATA, &limit);
  }
  if (!argument_.may_fork) ForbidProcesses();
  void* page = mmap(nullptr, static_cast<size_t>(argument_.slots) * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED,
                    argument_.page, 0);
  if (page == MAP_FAILED) Die(71);
  started_ = static_cast<std::atomic<int64_t>*>(page);
  for (int i = 0; i < argument_.threads; ++i) std::thread([this] { Execute(); }).detach();
  std::string ready;
  { FrameWriter frame(ready, FrameType::kReady); }
  Send(ready);

  FrameBuffer buffer;
  uint64_t seen = 0;
  while (true) {
    bool ticking;
    {
      absl::MutexLock lock(&mu_);
      ticking = !waiting_.empty() || !results_.empty();
    }
    pollfd fd = {.fd = argument_.socket, .events = POLLIN, .revents = 0};
    const int n = poll(&fd, 1, ticking ? kTickMillis : 100);
    if (n > 0) Read(buffer);
    std::vector<ChildResult> flush;
    {
      absl::MutexLock lock(&mu_);
      // Short jobs turned out long: the rest is for the other threads.
      if (n == 0 && !waiting_.empty() && taken_ == seen) work_.SignalAll();
      seen = taken_;
      if (!results_.empty() && MonoMicros() - results_since_ > kFlushAfterMicros) flush.swap(results_);
    }
    Flush(flush);
  }
}

}  // namespace

std::string ChildArgument::Format() const {
  return StrCat(kFlag, socket, ",", page, ",", slots, ",", threads, ",", memory_bytes, ",", may_fork ? 1 : 0, ",",
                worker.ToString(), ",", worker_name);
}

std::optional<ChildArgument> TakeChildArgument(int& argc, char** argv) {
  if (argc < 2 || std::strncmp(argv[1], kFlag, sizeof(kFlag) - 1) != 0) return std::nullopt;
  // The name comes last and may hold anything.
  const std::vector<std::string> parts = absl::StrSplit(argv[1] + sizeof(kFlag) - 1, absl::MaxSplits(',', 7));
  ChildArgument argument;
  int may_fork = 0;
  if (parts.size() != 8 || !absl::SimpleAtoi(parts[0], &argument.socket) ||
      !absl::SimpleAtoi(parts[1], &argument.page) || !absl::SimpleAtoi(parts[2], &argument.slots) ||
      !absl::SimpleAtoi(parts[3], &argument.threads) || !absl::SimpleAtoi(parts[4], &argument.memory_bytes) ||
      !absl::SimpleAtoi(parts[5], &may_fork) || argument.slots < 1 || argument.threads < 1) {
    std::exit(64);
  }
  const auto worker = ParseUuid(parts[6]);
  if (!worker.ok()) std::exit(64);
  argument.may_fork = may_fork != 0;
  argument.worker = *worker;
  argument.worker_name = parts[7];
  for (int i = 1; i + 1 < argc; ++i) argv[i] = argv[i + 1];
  argv[--argc] = nullptr;
  syscall(SYS_close_range, static_cast<unsigned>(std::max(argument.socket, argument.page) + 1), ~0U, 0U);
  return argument;
}

void RunChild(const ChildArgument& argument, const Registry& registry, postgres::Pool& pool) {
  static Child* child = new Child(argument, registry, pool);  // its threads never end
  child->Run();
}

}  // namespace mainstay::jobs
