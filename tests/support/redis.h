// SPDX-License-Identifier: Apache-2.0
// Real Redis for tests: one server per test process, because tests empty it; started at first use, goes with the
// process.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace mainstay::testing {

class Guard;

class Redis {
 public:
  static Redis& Shared();
  // One more, for tests that stop or kill it. `skew`: how many seconds its clock is wrong (skew.cc).
  static std::unique_ptr<Redis> StartOwn(int skew = 0);
  ~Redis();
  const std::string& url() const { return url_; }
  // Empties it.
  void Flush();
  // Kill is SIGKILL; Start brings it back on the same port with what its append-only file held.
  void Kill();
  void Stop();
  void Start();
  // While it is stopped: loses all it stored, or keeps a copy of it and goes back to that.
  void Wipe();
  void Keep();
  void GoBack();
  // A command, its reply as text: for arranging and asserting.
  std::string Command(const std::vector<std::string>& words);

 private:
  Redis() = default;
  void End(const std::string& signal);
  std::string url_, directory_;
  int skew_ = 0;
  int port_ = 0;
  std::unique_ptr<Guard> guard_;
};

// A prefix for keys that no other test uses.
std::string UniquePrefix();

}  // namespace mainstay::testing
