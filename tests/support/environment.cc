// SPDX-License-Identifier: Apache-2.0
#include "tests/support/environment.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <stdexcept>

namespace mainstay::testing {

std::string SourceDir() {
  if (const char* dir = std::getenv("MAINSTAY_SOURCE_DIR")) return dir;
  for (auto path = std::filesystem::current_path(); path != path.root_path(); path = path.parent_path()) {
    if (std::filesystem::exists(path / "libs/base/status.h")) return path;
  }
  throw std::runtime_error("set MAINSTAY_SOURCE_DIR to the checkout, or run the test inside it");
}

std::string BinDir() {
  if (const char* dir = std::getenv("MAINSTAY_BIN_DIR")) return dir;
  return std::filesystem::read_symlink("/proc/self/exe").parent_path();
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

int FreePort() {
  // Below the range the kernel gives to clients, so that no outgoing connection takes it meanwhile.
  static std::mt19937 random{std::random_device{}()};
  for (int i = 0; i < 1000; ++i) {
    const int port = 20000 + int(random() % 12000);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(uint16_t(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const bool free = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    close(fd);
    if (free) return port;
  }
  throw std::runtime_error("no free port found");
}

std::map<std::string, std::string> Skewed(int seconds) {
  if (seconds == 0) return {};
  return {{"LD_PRELOAD", BinDir() + "/libmainstay_test_skew.so"}, {"MAINSTAY_TEST_SKEW", std::to_string(seconds)}};
}

TempDir::TempDir() {
  char name[] = "/tmp/mainstay-test-XXXXXX";
  if (mkdtemp(name) == nullptr) throw std::runtime_error("cannot make a folder in /tmp");
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace mainstay::testing
