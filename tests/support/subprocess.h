// SPDX-License-Identifier: Apache-2.0
// Programs started by tests: captured output, a deadline on every wait, killed at the end of the object's life or of
// the test process.
//
// A child gets a guard (a shell that waits for the end of this process), so that nothing stays behind even when the
// test is killed with -9.
#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace mainstay::testing {

struct SpawnOptions {
  std::vector<std::string> argv;
  std::map<std::string, std::string> environment;  // added to the test's own
  std::string directory;                           // empty: the test's own
  std::string standard_input;
};

class Subprocess {
 public:
  explicit Subprocess(SpawnOptions options);  // throws when the program cannot be started
  ~Subprocess();                              // SIGKILL if it still runs
  Subprocess(const Subprocess&) = delete;
  pid_t pid() const { return pid_; }
  bool Running();
  void Signal(int signal);
  // The exit code, 128 + n when signal n ended it; nullopt when it still runs after `timeout`.
  std::optional<int> Wait(absl::Duration timeout = absl::Seconds(30));
  std::string output() const;  // stdout and stderr so far
  // Whether `text` stands in the output within `timeout`.
  bool WaitForOutput(const std::string& text, absl::Duration timeout = absl::Seconds(10));

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
  pid_t pid_ = -1;
};

struct RunResult {
  int code;
  std::string output;
};
// Starts, waits, kills after `timeout` (code 124 then).
RunResult Run(SpawnOptions options, absl::Duration timeout = absl::Seconds(60));

// Runs `script` (sh) when this process ends, however it ends.
class Guard {
 public:
  explicit Guard(const std::string& script);
  ~Guard();  // runs it now and waits for it
  Guard(const Guard&) = delete;

 private:
  int pipe_ = -1;
  pid_t pid_ = -1;
};

}  // namespace mainstay::testing
