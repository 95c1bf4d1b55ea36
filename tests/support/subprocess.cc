// SPDX-License-Identifier: Apache-2.0
#include "tests/support/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"

extern char** environ;

namespace mainstay::testing {
namespace {

// fork and exec, with nothing between them but async-signal-safe calls: the test has threads.
pid_t Spawn(const std::vector<std::string>& argv, const std::map<std::string, std::string>& environment,
            const std::string& directory, int in, int out, bool own_session) {
  std::vector<std::string> env_text;
  for (char** e = environ; *e != nullptr; ++e) {
    const std::string entry = *e;
    if (!environment.contains(entry.substr(0, entry.find('=')))) env_text.push_back(entry);
  }
  for (const auto& [k, v] : environment) env_text.push_back(k + "=" + v);
  std::vector<char*> args, env;
  for (const auto& a : argv) args.push_back(const_cast<char*>(a.c_str()));
  for (const auto& e : env_text) env.push_back(const_cast<char*>(e.c_str()));
  args.push_back(nullptr);
  env.push_back(nullptr);
  int failure[2];
  if (pipe2(failure, O_CLOEXEC) != 0) throw std::runtime_error("pipe failed");
  const pid_t pid = fork();
  if (pid == 0) {
    if (own_session) setsid();
    dup2(in, 0);
    dup2(out, 1);
    dup2(out, 2);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    signal(SIGPIPE, SIG_DFL);
    if (directory.empty() || chdir(directory.c_str()) == 0) execvpe(args[0], args.data(), env.data());
    const int error = errno;
    [[maybe_unused]] const ssize_t written = write(failure[1], &error, sizeof(error));
    _exit(127);
  }
  close(failure[1]);
  int error = 0;
  const ssize_t n = pid < 0 ? 0 : read(failure[0], &error, sizeof(error));
  close(failure[0]);
  if (pid < 0 || n == sizeof(error)) {
    if (pid > 0) waitpid(pid, nullptr, 0);
    throw std::runtime_error("cannot start " + argv[0] + ": " + std::strerror(error));
  }
  return pid;
}

}  // namespace

struct Subprocess::Impl {
  absl::Mutex mu;
  std::string output ABSL_GUARDED_BY(mu);
  bool ended ABSL_GUARDED_BY(mu) = false;  // the output is complete
  std::thread reader;
  std::optional<int> code;
  std::unique_ptr<Guard> guard;
};

Subprocess::Subprocess(SpawnOptions options) : impl_(std::make_unique<Impl>()) {
  int in[2], out[2];
  if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) throw std::runtime_error("pipe failed");
  pid_ = Spawn(options.argv, options.environment, options.directory, in[0], out[1], /*own_session=*/true);
  close(in[0]);
  close(out[1]);
  impl_->guard = std::make_unique<Guard>("kill -KILL -" + std::to_string(pid_) + " 2>/dev/null");
  // A child that reads nothing must not block us.
  std::thread([fd = in[1], text = std::move(options.standard_input)] {
    size_t at = 0;
    while (at < text.size()) {
      const ssize_t n = write(fd, text.data() + at, text.size() - at);
      if (n <= 0) break;
      at += size_t(n);
    }
    close(fd);
  }).detach();
  impl_->reader = std::thread([this, fd = out[0]] {
    char buffer[16384];
    for (;;) {
      const ssize_t n = read(fd, buffer, sizeof(buffer));
      if (n < 0 && errno == EINTR) continue;
      absl::MutexLock lock(&impl_->mu);
      if (n <= 0) {
        impl_->ended = true;
        break;
      }
      impl_->output.append(buffer, size_t(n));
    }
    close(fd);
  });
}

Subprocess::~Subprocess() {
  if (Running()) {
    kill(-pid_, SIGKILL);
    (void)Wait(absl::Seconds(10));
  }
  impl_->guard.reset();  // and what it started itself
  impl_->reader.join();
}

bool Subprocess::Running() {
  return !Wait(absl::ZeroDuration()).has_value();
}

void Subprocess::Signal(int signal) {
  kill(pid_, signal);
}

std::optional<int> Subprocess::Wait(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (!impl_->code.has_value()) {
    int status = 0;
    const pid_t pid = waitpid(pid_, &status, WNOHANG);
    if (pid == pid_) {
      impl_->code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      break;
    }
    if (absl::Now() >= deadline) return std::nullopt;
    absl::SleepFor(absl::Milliseconds(5));
  }
  if (timeout > absl::ZeroDuration()) {  // its last words; a grandchild may keep the pipe open
    absl::MutexLock lock(&impl_->mu);
    impl_->mu.AwaitWithTimeout(absl::Condition(&impl_->ended), absl::Seconds(1));
  }
  return impl_->code;
}

std::string Subprocess::output() const {
  absl::MutexLock lock(&impl_->mu);
  return impl_->output;
}

bool Subprocess::WaitForOutput(const std::string& text, absl::Duration timeout) {
  const auto there = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return impl_->ended || impl_->output.find(text) != std::string::npos;
  };
  absl::MutexLock lock(&impl_->mu);
  impl_->mu.AwaitWithTimeout(absl::Condition(&there), timeout);
  return impl_->output.find(text) != std::string::npos;
}

RunResult Run(SpawnOptions options, absl::Duration timeout) {
  Subprocess process(std::move(options));
  const auto code = process.Wait(timeout);
  if (!code.has_value()) {
    process.Signal(SIGKILL);
    return {124, process.output()};
  }
  return {*code, process.output()};
}

Guard::Guard(const std::string& script) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe failed");
  const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
  // `read` returns when the last writer, this process, is gone.
  pid_ = Spawn({"/bin/sh", "-c", "trap '' INT TERM HUP; cd /; read _; " + script}, {}, "", ends[0], null,
               /*own_session=*/true);
  close(ends[0]);
  close(null);
  pipe_ = ends[1];
}

Guard::~Guard() {
  close(pipe_);
  waitpid(pid_, nullptr, 0);
}

}  // namespace mainstay::testing
