// SPDX-License-Identifier: Apache-2.0
#include "libs/base/config.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>

namespace mainstay {

TEST_CASE("the environment wins over the file, the file over the default") {
  ConfigReader reader({{"port", "1"}, {"name", "file"}}, {{"MAINSTAY_PORT", "2"}});
  int64_t port = 0, other = 7;
  std::string name;
  reader.Int("port", &port, 0, 65535, "the port");
  reader.Int("other", &other, 0, 10, "");
  reader.Required("name", &name, "");
  REQUIRE(reader.Finish().ok());
  CHECK(port == 2);
  CHECK(other == 7);
  CHECK(name == "file");
}

TEST_CASE("every mistake is named at once, unknown keys too") {
  ConfigReader reader({{"port", "99999"}, {"typo", "x"}, {"flag", "yes"}, {"wait", "5"}}, {{"MAINSTAY_COUNT", "abc"}});
  int64_t port = 0, count = 0;
  bool flag = false;
  absl::Duration wait;
  std::string name;
  reader.Int("port", &port, 0, 65535, "");
  reader.Int("count", &count, 0, 10, "");
  reader.Bool("flag", &flag, "");
  reader.Duration("wait", &wait, absl::ZeroDuration(), absl::Hours(1), "");
  reader.Required("name", &name, "");
  reader.Check(false, "a and b exclude each other");
  const std::string message(reader.Finish().message());
  for (const char* part : {"port: 99999", "MAINSTAY_COUNT: \"abc\"", "flag: \"yes\"", "wait: \"5\"", "name: is missing",
                           "a and b exclude", "typo: is not a known key"}) {
    INFO(message);
    CHECK(message.find(part) != std::string::npos);
  }
}

TEST_CASE("a file's lists and maps are read, and a secret may stand in a file of its own") {
  char name[] = "/tmp/mainstay-config-XXXXXX";
  close(mkstemp(name));
  std::ofstream(name) << "s3cret-value\n";
  char yaml[] = "/tmp/mainstay-config-XXXXXX";
  close(mkstemp(yaml));
  std::ofstream(yaml) << "hosts: [a, b]\ntrusted_keys:\n  gateway: k1\n  worker: k2\npassword: file:" << name << "\n";
  auto reader = ConfigReader::Open(yaml);
  REQUIRE(reader.ok());
  std::vector<std::string> hosts;
  std::map<std::string, std::string> keys;
  std::string password;
  reader->List("hosts", &hosts, "");
  reader->Map("trusted_keys", &keys, "");
  reader->Secret("password", &password, "");
  CHECK(reader->Finish().ok());
  CHECK(hosts == std::vector<std::string>{"a", "b"});
  CHECK(keys == std::map<std::string, std::string>{{"gateway", "k1"}, {"worker", "k2"}});
  CHECK(password == "s3cret-value");
  CHECK(reader->Help().find("password") != std::string::npos);
  CHECK(reader->Help().find("s3cret") == std::string::npos);
  unlink(name);
  unlink(yaml);
}

TEST_CASE("a configuration file that is missing or no map is refused") {
  CHECK(ConfigReader::Open("/nonexistent/file.yaml").status().code() == absl::StatusCode::kNotFound);
}

}  // namespace mainstay
