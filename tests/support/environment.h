// SPDX-License-Identifier: Apache-2.0
// Where a test finds things, and things it needs of the machine.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace mainstay::testing {

std::string SourceDir();  // the checkout (MAINSTAY_SOURCE_DIR)
std::string BinDir();     // where the built programs lie (MAINSTAY_BIN_DIR, else beside the running test)
std::string ReadFile(const std::string& path);  // fails the test when it cannot
// A port of 127.0.0.1 on which nobody listens now. Nothing reserves it: whoever starts a server on it must look whether
// that worked.
int FreePort();

// The environment of a program whose wall clock is to be so many seconds wrong (skew.cc); empty for 0.
std::map<std::string, std::string> Skewed(int seconds);

// A fresh folder, removed at the end of its life.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace mainstay::testing
