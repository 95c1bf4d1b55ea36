// SPDX-License-Identifier: Apache-2.0
#include "libs/telemetry/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <functional>
#include <iterator>

#include "libs/base/json.h"

namespace mainstay {
namespace {

// What `write` sends to stderr.
std::string Captured(const std::function<void()>& write) {
  char name[] = "/tmp/mainstay-log-XXXXXX";
  const int file = mkstemp(name);
  fflush(stderr);
  const int saved = dup(2);
  dup2(file, 2);
  write();
  fflush(stderr);
  dup2(saved, 2);
  close(saved);
  close(file);
  std::ifstream in(name);
  std::string text(std::istreambuf_iterator<char>(in), {});
  unlink(name);
  return text;
}

}  // namespace

TEST_CASE("an event is one line of JSON, whatever its fields hold") {
  log::Init("test", "info");
  const std::string line = Captured([] {
    log::Info("a\nb", {{"path", "/x\r\n{\"level\":\"error\"}"}, {"n", 7}, {"ok", true}});
  });
  CHECK(std::count(line.begin(), line.end(), '\n') == 1);
  const auto json = JsonDocument::Parse(line);
  REQUIRE(json.ok());
  CHECK(json->root().Find("service")->text() == "test");
  CHECK(json->root().Find("level")->text() == "info");
  CHECK(json->root().Find("message")->text() == "a\nb");
  CHECK(json->root().Find("n")->text() == "7");
  CHECK(json->root().Find("ok")->is_bool());
}

TEST_CASE("secrets never reach a line: by field name, by value, encoded, or inside another text") {
  log::Init("test", "info");
  log::RegisterSecret("canary \"secret\" 1");
  const std::string line = Captured([] {
    log::Warn("got canary \"secret\" 1", {{"authorization", "Bearer abc"},
                                          {"url", "https://x/?k=canary%20%22secret%22%201"},
                                          {"b64", "Y2FuYXJ5ICJzZWNyZXQiIDE="},
                                          {"fine", "visible"}});
  });
  CHECK(line.find("canary") == std::string::npos);
  CHECK(line.find("Y2FuYXJ5") == std::string::npos);
  CHECK(line.find("Bearer") == std::string::npos);
  CHECK(line.find("visible") != std::string::npos);
  CHECK(JsonDocument::Parse(line).ok());
}

TEST_CASE("what is below the level is not written") {
  log::Init("test", "warn");
  CHECK(Captured([] { log::Info("quiet"); }).empty());
  log::Init("test", "info");
}

}  // namespace mainstay
