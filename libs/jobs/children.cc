// SPDX-License-Identifier: Apache-2.0
#include "libs/jobs/children.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "libs/base/strings.h"
#include "libs/jobs/child.h"
#include "libs/telemetry/log.h"
#include "libs/telemetry/metrics.h"
#include "prometheus/counter.h"

extern char** environ;

namespace mainstay::jobs {
namespace {

constexpr int kSlots = 2048;  // in a child's hands at once: a whole run, and what is given ahead
// How much work a child may hold beyond its threads: at its recent rate, so with long jobs nothing.
constexpr double kAheadSeconds = 0.02;

prometheus::Counter& Deaths() {
  static auto& counter =
      metrics::Counter("mainstay_jobs_child_deaths_total", "Children of this worker that ended by themselves");
  return counter;
}

// The arguments this process was started with.
std::vector<std::string> OwnCommand() {
  std::vector<std::string> command;
  if (FILE* file = std::fopen("/proc/self/cmdline", "re")) {
    std::string word;
    for (int c; (c = std::fgetc(file)) != EOF;) {
      if (c == '\0') {
        command.push_back(std::move(word));
        word.clear();
      } else {
        word += static_cast<char>(c);
      }
    }
    std::fclose(file);
  }
  return command;
}

// With what was to follow it.
void Unstarted(InHandPtr job, Finished::How how, std::vector<Finished>& finished) {
  const std::vector<InHandPtr> rest = std::move(job->rest);
  job->rest.clear();
  finished.push_back({std::move(job), Outcome(), how});
  for (const InHandPtr& next : rest) finished.push_back({next, Outcome(), how});
}

std::string Evidence(int status) {
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    return StrCat("its process was killed by signal ", signal, " (", strsignal(signal), ")");
  }
  return StrCat("its process ended with exit code ", WEXITSTATUS(status));
}

}  // namespace

ChildPool::ChildPool(ChildPoolOptions options) : options_(std::move(options)) {}

ChildPool::~ChildPool() {
  Stop();
  absl::MutexLock lock(&mu_);
  for (Child& child : children_) {
    if (child.started != nullptr) munmap(child.started, kSlots * sizeof(int64_t));
    if (child.page >= 0) close(child.page);
  }
  if (wake_ >= 0) close(wake_);
}

absl::Status ChildPool::Start(RunnerHost& host) {
  host_ = &host;
  wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_ < 0) return absl::InternalError(StrCat("eventfd: ", std::strerror(errno)));
  absl::MutexLock lock(&mu_);
  children_.resize(static_cast<size_t>(options_.children));
  for (Child& child : children_) {
    child.page = memfd_create("jobs", MFD_CLOEXEC);
    if (child.page < 0 || ftruncate(child.page, kSlots * sizeof(int64_t)) != 0)
      return absl::InternalError(StrCat("memory shared with a child: ", std::strerror(errno)));
    void* page = mmap(nullptr, kSlots * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, child.page, 0);
    if (page == MAP_FAILED) return absl::InternalError(StrCat("memory shared with a child: ", std::strerror(errno)));
    child.started = static_cast<std::atomic<int64_t>*>(page);
    child.slots.resize(kSlots);
  }
  thread_ = std::thread([this] { Loop(); });
  return absl::OkStatus();
}

void ChildPool::Nudge() const {
  const uint64_t one = 1;
  if (write(wake_, &one, sizeof(one)) < 0) return;  // full: it is awake
}

// Only from the pool's own thread: a child dies when the thread that made it ends (PR_SET_PDEATHSIG).
void ChildPool::Spawn(Child& child) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
    child.next_start = Mono() + absl::Seconds(1);
    log::Error("no socket for a child", {{"error", std::strerror(errno)}});
    return;
  }
  const int bytes = 1 << 20;
  setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
  setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
  ChildArgument argument;
  argument.slots = kSlots;
  argument.threads = options_.threads;
  argument.memory_bytes = options_.memory_bytes;
  argument.may_fork = options_.may_fork;
  argument.worker = options_.worker;
  argument.worker_name = options_.worker_name;
  std::vector<std::string> command = options_.command.empty() ? OwnCommand() : options_.command;
  const std::string program = options_.command.empty() ? "/proc/self/exe" : command.at(0);
  command.insert(command.begin() + 1, argument.Format());
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pair[1], argument.socket);
  posix_spawn_file_actions_adddup2(&actions, child.page, argument.page);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, program.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(pair[1]);
  if (error != 0) {
    close(pair[0]);
    child.next_start = Mono() + absl::Seconds(1);
    log::Error("a child could not be started", {{"program", program}, {"error", std::strerror(error)}});
    return;
  }
  fcntl(pair[0], F_SETFL, O_NONBLOCK);
  for (int i = 0; i < kSlots; ++i) child.started[i] = 0;
  child.free.clear();
  for (int i = kSlots - 1; i >= 0; --i) child.free.push_back(static_cast<uint32_t>(i));
  child.pid = pid;
  child.fd = pair[0];
  child.ready = child.dying = false;
  ++child.life;
  child.given = 0;
  child.out.clear();
  child.in = FrameBuffer();
  child.killed_for.reset();
  child.born = Mono();
  child.rate = 0;
}

int ChildPool::Target(const Child& child) const {
  return std::min(kSlots, options_.threads + static_cast<int>(child.rate * kAheadSeconds));
}

void ChildPool::UpdateCredit() {
  int credit = 0;
  for (const Child& child : children_) {
    if (child.ready && !child.dying && !child.reserved) credit += std::max(0, Target(child) - child.given);
  }
  credit_ = std::max(0, credit - static_cast<int>(waiting_.size() + suspects_.size()));
}

bool ChildPool::GiveTo(Child& child, const InHandPtr* jobs, size_t count) {
  count = std::min(count, child.free.size());
  if (count == 0) return false;
  FrameWriter frame(child.out, FrameType::kJobs);
  auto give = [&](const InHandPtr& job, bool follows) {
    const uint32_t slot = child.free.back();
    child.free.pop_back();
    child.started[slot].store(0, std::memory_order_relaxed);
    child.slots[slot] = job;
    job->place = static_cast<int>(slot);
    job->child_started = &child.started[slot];
    ++child.given;
    frame.Number(slot).Number(follows ? 1 : 0);
    WriteJob(frame, *job);
  };
  for (size_t i = 0; i < count; ++i) {
    const std::vector<InHandPtr> rest = std::move(jobs[i]->rest);
    jobs[i]->rest.clear();
    give(jobs[i], false);
    for (const InHandPtr& job : rest) {
      if (child.free.size() + i + 1 > count) {
        give(job, true);
      } else {
        left_over_.push_back({job, Outcome(), Finished::How::kUnstarted});
      }
    }
  }
  if (!left_over_.empty()) Nudge();
  return true;
}

// Spreads what waits over the children: the least busy first, in frames of a bounded size.
void ChildPool::Assign() {
  if (stopping_) return;
  if (!suspects_.empty()) {
    auto reserved = std::find_if(children_.begin(), children_.end(), [](const Child& c) { return c.reserved; });
    if (reserved == children_.end()) {
      reserved = std::min_element(children_.begin(), children_.end(),
                                  [](const Child& a, const Child& b) { return a.given < b.given; });
      reserved->reserved = true;
    }
    if (reserved->ready && !reserved->dying && reserved->given == 0) {
      GiveTo(*reserved, &suspects_.front(), 1);
      suspects_.pop_front();
      Write(*reserved);
    }
  } else {
    for (Child& child : children_) {
      if (child.given == 0) child.reserved = false;
    }
  }
  while (!waiting_.empty()) {
    Child* best = nullptr;
    int room = 0;
    for (Child& child : children_) {
      if (!child.ready || child.dying || child.reserved) continue;
      // Idle threads come before work ahead.
      const int here = child.given < options_.threads ? options_.threads - child.given : Target(child) - child.given;
      if (here > room) room = here, best = &child;
    }
    if (best == nullptr) break;
    // While others have idle threads, not more than this one's: they get the rest.
    std::vector<InHandPtr> frame;
    size_t bytes = 0;
    size_t size = 0;
    while (!waiting_.empty() && static_cast<int>(size) < room && size < kMaxJobs && bytes < kFullFrame) {
      const InHand& next = *waiting_.front();
      size += 1 + next.rest.size();
      bytes += next.args.size() + next.checkpoint.size();
      for (const auto& job : next.rest) bytes += job->args.size() + job->checkpoint.size();
      frame.push_back(std::move(waiting_.front()));
      waiting_.pop_front();
    }
    GiveTo(*best, frame.data(), frame.size());
    if (best->out.size() >= kFullFrame) Write(*best);
  }
  for (Child& child : children_) {
    if (!child.out.empty()) Write(child);
  }
  UpdateCredit();
}

void ChildPool::Write(Child& child) {
  while (!child.out.empty() && child.fd >= 0) {
    const ssize_t n = send(child.fd, child.out.data(), child.out.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n <= 0) {
      if (n < 0 && errno == EINTR) continue;
      Nudge();  // full: the thread goes on; gone: the thread reads that
      return;
    }
    child.out.erase(0, static_cast<size_t>(n));
  }
}

void ChildPool::Give(std::vector<InHandPtr> jobs) {
  absl::MutexLock lock(&mu_);
  for (InHandPtr& job : jobs) (job->suspect ? suspects_ : waiting_).push_back(std::move(job));
  Assign();
}

void ChildPool::Tell(const InHandPtr& job) {
  absl::MutexLock lock(&mu_);
  for (Child& child : children_) {
    if (job->place < 0 || child.fd < 0 || child.slots[job->place] != job) continue;
    FrameWriter(child.out, FrameType::kStop)
        .Number(static_cast<uint64_t>(job->place))
        .Number(static_cast<uint64_t>(job->stop.load()));
    Write(child);
  }
}

void ChildPool::Kill(const InHandPtr& job, Outcome outcome) {
  absl::MutexLock lock(&mu_);
  for (Child& child : children_) {
    if (job->place < 0 || child.fd < 0 || child.slots[job->place] != job || child.dying) continue;
    child.dying = true;
    child.killed_for = job;
    child.killed_outcome = std::move(outcome);
    kill(child.pid, SIGKILL);
    return;
  }
}

void ChildPool::Recall() {
  std::vector<Finished> finished;
  {
    absl::MutexLock lock(&mu_);
    for (auto* list : {&waiting_, &suspects_}) {
      for (InHandPtr& job : *list) Unstarted(std::move(job), Finished::How::kUnstarted, finished);
      list->clear();
    }
    for (Child& child : children_) {
      if (child.fd < 0) continue;
      { FrameWriter frame(child.out, FrameType::kRecall); }
      Write(child);
    }
  }
  if (!finished.empty()) host_->Finish(std::move(finished));
}

bool ChildPool::Stop() {
  if (!thread_.joinable()) return true;
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    for (Child& child : children_) {
      if (child.pid > 0) kill(child.pid, SIGKILL);
    }
  }
  Nudge();
  thread_.join();
  return true;
}

std::vector<int> ChildPool::pids() const {
  absl::MutexLock lock(&mu_);
  std::vector<int> pids;
  for (const Child& child : children_) {
    if (child.pid > 0) pids.push_back(child.pid);
  }
  return pids;
}

void ChildPool::OnFrame(int index, FrameType type, std::string_view body, std::vector<Finished>& finished) {
  Child& child = children_[static_cast<size_t>(index)];
  FrameReader frame(body);
  bool ok = true;
  switch (type) {
    case FrameType::kReady:
      child.ready = true;
      break;
    case FrameType::kResults: {
      ChildResult result;
      while (ok && !frame.done()) {
        ok = ReadResult(frame, result) && result.slot < kSlots && child.slots[result.slot] != nullptr;
        if (!ok) break;
        InHandPtr job = std::move(child.slots[result.slot]);
        child.free.push_back(result.slot);
        --child.given;
        ++child.results;
        job->place = -1;
        job->started_us = child.started[result.slot].load(std::memory_order_acquire);
        job->child_started = nullptr;
        if (result.unstarted) {
          finished.push_back({std::move(job), Outcome(), Finished::How::kUnstarted});
          continue;
        }
        job->ran_us = std::max<int64_t>(1, result.ran_us);
        if (result.fenced) job->stop = Stop::kFenced;
        if (result.finished_in) {
          absl::MutexLock lock(&job->mu);
          job->successors = std::move(result.successors);
          job->finished_in = true;
        }
        finished.push_back({std::move(job), std::move(result.outcome)});
      }
      break;
    }
    case FrameType::kNote: {
      const uint64_t request = frame.Number(), slot = frame.Number(), checkpoint = frame.Number();
      std::string json(frame.Text());
      ok = frame.ok() && slot < kSlots && child.slots[slot] != nullptr && json.size() <= 2 * kMaxCheckpoint;
      if (!ok) break;
      host_->Store(child.slots[slot], checkpoint != 0 ? RunnerHost::Note::kCheckpoint : RunnerHost::Note::kProgress,
                   std::move(json), [this, index, life = child.life, request](const absl::Status& status) {
                     absl::MutexLock lock(&mu_);
                     Child& asker = children_[static_cast<size_t>(index)];
                     if (asker.life != life || asker.fd < 0) return;
                     FrameWriter(asker.out, FrameType::kNoteAnswer)
                         .Number(request)
                         .Number(static_cast<uint64_t>(status.code()))
                         .Text(ToStd(status.message()));
                     Write(asker);
                   });
      break;
    }
    default:
      ok = false;
  }
  if (!ok && !child.dying) {
    log::Error("a child said what it cannot mean", {{"child", child.pid}});
    child.dying = true;
    kill(child.pid, SIGKILL);
  }
}

// Its socket has ended. Results that it sent are counted already.
void ChildPool::Bury(Child& child, std::vector<Finished>& finished) {
  kill(child.pid, SIGKILL);
  int status = 0;
  while (waitpid(child.pid, &status, 0) < 0 && errno == EINTR) {
  }
  close(child.fd);
  const std::string evidence = Evidence(status);
  std::vector<InHandPtr> started, unstarted;
  for (uint32_t slot = 0; slot < kSlots; ++slot) {
    if (child.slots[slot] == nullptr) continue;
    InHandPtr job = std::move(child.slots[slot]);
    job->place = -1;
    job->started_us = child.started[slot].load(std::memory_order_acquire);
    job->child_started = nullptr;
    (job->started_us == 0 ? unstarted : started).push_back(std::move(job));
  }
  std::ranges::stable_sort(unstarted, {}, [](const InHandPtr& job) { return job->turn; });
  for (InHandPtr& job : unstarted)
    finished.push_back({std::move(job), Outcome(), stopping_ ? Finished::How::kReturned : Finished::How::kUnstarted});
  using How = Finished::How;
  for (InHandPtr& job : started) {
    if (job == child.killed_for) {
      finished.push_back({std::move(job), std::move(child.killed_outcome)});
    } else if (stopping_ || child.killed_for != nullptr) {
      finished.push_back({std::move(job), Outcome(), How::kReturned});
    } else {
      finished.push_back(
          {std::move(job), Outcome::Retry("crashed", evidence), started.size() == 1 ? How::kCrashed : How::kSuspect});
    }
  }
  if (!stopping_ && child.killed_for == nullptr) {
    Deaths().Increment();
    log::Warn("a child of this worker died",
              {{"child", child.pid}, {"running", static_cast<int64_t>(started.size())}, {"evidence", evidence}});
  }
  // At once, unless it dies young again and again.
  child.deaths = Mono() - child.born > absl::Seconds(2) || !started.empty() ? 0 : child.deaths + 1;
  child.next_start = Mono() + (child.deaths == 0 ? absl::ZeroDuration()
                                                 : std::min(absl::Milliseconds(100) * (1 << std::min(child.deaths, 6)),
                                                            absl::Seconds(5)));
  child.pid = 0;
  child.fd = -1;
  child.ready = child.dying = false;
  child.killed_for.reset();
  child.given = 0;
  child.out.clear();
}

void ChildPool::Read(int index, std::vector<Finished>& finished) {
  absl::MutexLock lock(&mu_);
  Child& child = children_[static_cast<size_t>(index)];
  if (child.fd < 0) return;
  // A few reads at a time, so that a child with much to say does not keep the others waiting; all of it once it died.
  for (int reads = 0; reads < 4 || child.dying; ++reads) {
    const ssize_t n = recv(child.fd, child.in.Space(64 << 10), 64 << 10, MSG_DONTWAIT);
    if (n > 0) {
      child.in.Wrote(static_cast<size_t>(n));
      while (const auto frame = child.in.Next()) OnFrame(index, frame->first, frame->second, finished);
      if (child.in.broken() && !child.dying) {
        child.dying = true;
        kill(child.pid, SIGKILL);
      }
      if (n < (64 << 10) && !child.dying) break;
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) break;
    Bury(child, finished);
    break;
  }
}

void ChildPool::UpdateRates(absl::Duration since) {
  for (Child& child : children_) {
    const double recent = static_cast<double>(child.results) / absl::ToDoubleSeconds(since);
    child.results = 0;
    child.rate = recent > child.rate ? recent : child.rate + (recent - child.rate) / 4;
  }
}

void ChildPool::Loop() {
  absl::Time rated = Mono();
  while (true) {
    std::vector<pollfd> fds;
    std::vector<int> whose;
    absl::Duration wait = absl::Milliseconds(200);
    {
      absl::MutexLock lock(&mu_);
      bool alive = false;
      for (size_t i = 0; i < children_.size(); ++i) {
        Child& child = children_[i];
        if (child.fd < 0 && !stopping_) {
          if (Mono() >= child.next_start) Spawn(child);
          if (child.fd < 0) wait = std::min(wait, std::max(child.next_start - Mono(), absl::Milliseconds(1)));
        }
        if (child.fd < 0) continue;
        alive = true;
        fds.push_back({child.fd, static_cast<short>(child.out.empty() ? POLLIN : POLLIN | POLLOUT), 0});
        whose.push_back(static_cast<int>(i));
      }
      if (stopping_ && !alive) break;
    }
    fds.push_back({wake_, POLLIN, 0});
    const int n = poll(fds.data(), fds.size(), static_cast<int>(absl::ToInt64Milliseconds(wait)));
    if (n > 0 && fds.back().revents != 0) {
      uint64_t count;
      if (read(wake_, &count, sizeof(count)) < 0) continue;
    }
    std::vector<Finished> finished;
    for (size_t i = 0; n > 0 && i < whose.size(); ++i) {
      if ((fds[i].revents & POLLOUT) != 0) {
        absl::MutexLock lock(&mu_);
        Child& child = children_[static_cast<size_t>(whose[i])];
        if (child.fd == fds[i].fd) Write(child);
      }
      if ((fds[i].revents & (POLLIN | POLLHUP | POLLERR)) != 0) Read(whose[i], finished);
    }
    {
      absl::MutexLock lock(&mu_);
      if (const absl::Duration since = Mono() - rated; since > absl::Milliseconds(20)) {
        UpdateRates(since);
        rated = Mono();
      }
      Assign();
      for (Finished& f : left_over_) finished.push_back(std::move(f));
      left_over_.clear();
    }
    if (!finished.empty()) host_->Finish(std::move(finished));
    host_->Wake();
  }
  // What never reached a child.
  std::vector<Finished> finished;
  {
    absl::MutexLock lock(&mu_);
    for (auto* list : {&waiting_, &suspects_}) {
      for (InHandPtr& job : *list) Unstarted(std::move(job), Finished::How::kReturned, finished);
      list->clear();
    }
  }
  if (!finished.empty()) host_->Finish(std::move(finished));
}

}  // namespace mainstay::jobs
