// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "libs/redis/client.h"
#include "tests/support/environment.h"
#include "tests/support/redis.h"
#include "tests/support/status.h"

namespace mainstay::redis {
namespace {

using testing::IsOk;
using testing::StatusIs;

std::string Key(std::string_view name) {
  return testing::UniquePrefix() + std::string(name);
}

TEST_CASE("commands carry any bytes and replies keep their type") {
  Client client({.url = testing::Redis::Shared().url()});
  const std::string key = Key("bytes"), value("a\0b\r\nc \xff", 8);
  CHECK(client.Execute({"SET", key, value})->type == Reply::Type::kStatus);
  auto reply = client.Execute({"GET", key});
  REQUIRE_THAT(reply, IsOk());
  CHECK(reply->text == value);
  CHECK(client.Execute({"GET", key + "x"})->type == Reply::Type::kNil);
  CHECK(client.Execute({"STRLEN", key})->integer == 8);
  reply = client.Execute({"INCR", key});
  REQUIRE_THAT(reply, IsOk());
  CHECK_FALSE(reply->ok());
  CHECK(reply->text.find("not an integer") != std::string::npos);
  CHECK_THAT(client.Execute({}), StatusIs(absl::StatusCode::kInvalidArgument));
  CHECK_THAT(client.Health(), IsOk());
  CHECK(client.generation() == 1);
}

TEST_CASE("a pipeline answers in order; an error leaves the others alone") {
  Client client({.url = testing::Redis::Shared().url()});
  const std::string key = Key("pipe");
  std::vector<Command> commands;
  for (int i = 0; i < 3000; ++i)
    commands.push_back(i % 100 == 7 ? Command{"NONSENSE"} : Command{"RPUSH", key, std::to_string(i)});
  auto replies = client.Pipeline(commands);
  REQUIRE_THAT(replies, IsOk());
  REQUIRE(replies->size() == 3000);
  int64_t expected = 0;
  for (int i = 0; i < 3000; ++i) {
    if (i % 100 == 7) {
      CHECK_FALSE((*replies)[i].ok());
    } else {
      CHECK((*replies)[i].integer == ++expected);
    }
  }
}

TEST_CASE("a blocking read may last longer than the command timeout") {
  Client client({.url = testing::Redis::Shared().url(), .command_timeout = absl::Milliseconds(200)});
  const std::string stream = Key("stream");
  REQUIRE(client.Execute({"XGROUP", "CREATE", stream, "g", "0", "MKSTREAM"})->ok());
  const absl::Time start = absl::Now();
  auto reply = client.Blocking({"XREADGROUP", "GROUP", "g", "c", "BLOCK", "500", "STREAMS", stream, ">"},
                               absl::Milliseconds(500));
  REQUIRE_THAT(reply, IsOk());
  CHECK(reply->type == Reply::Type::kNil);
  CHECK(absl::Now() - start >= absl::Milliseconds(450));
  CHECK(client.generation() == 1);
  Client producer({.url = testing::Redis::Shared().url()});
  std::thread later([&] {
    absl::SleepFor(absl::Milliseconds(100));
    CHECK(producer.Execute({"XADD", stream, "*", "id", "7"})->ok());
  });
  reply = client.Blocking({"XREADGROUP", "GROUP", "g", "c", "BLOCK", "5000", "STREAMS", stream, ">"}, absl::Seconds(5));
  later.join();
  REQUIRE_THAT(reply, IsOk());
  CHECK(reply->elements.at(0).elements.at(1).elements.at(0).elements.at(1).elements.at(1).text == "7");
}

TEST_CASE("a script runs by its hash, also on a server that has never seen it") {
  Client client({.url = testing::Redis::Shared().url()});
  const std::string lua =
      "redis.call('INCRBY', KEYS[1], ARGV[1]) return {redis.call('GET', KEYS[1]), '" + Key("") + "'}";
  const std::string key = Key("script");
  for (int i = 1; i <= 3; ++i) {
    auto reply = client.Script(lua, {key}, {"5"});
    REQUIRE_THAT(reply, IsOk());
    CHECK(reply->elements.at(0).text == std::to_string(5 * i));
    if (i == 2) CHECK(client.Execute({"SCRIPT", "FLUSH"})->ok());
  }
  auto broken = client.Script("this is no lua", {}, {});
  REQUIRE_THAT(broken, IsOk());
  CHECK_FALSE(broken->ok());
}

TEST_CASE("Redis goes and comes back: calls fail fast meanwhile, and the new connection is counted") {
  const auto server = testing::Redis::StartOwn();
  Client client({.url = server->url()});
  REQUIRE(client.Execute({"SET", "kept", "1"})->ok());
  for (int round = 1; round <= 2; ++round) {
    server->Kill();
    CHECK_THAT(client.Execute({"PING"}), StatusIs(absl::StatusCode::kUnavailable, "Redis"));
    const absl::Time start = absl::Now();
    for (int i = 0; i < 1000; ++i) CHECK_THAT(client.Execute({"PING"}), StatusIs(absl::StatusCode::kUnavailable));
    CHECK(absl::Now() - start < absl::Seconds(1));
    CHECK_FALSE(client.Health().ok());
    server->Start();
    for (int i = 0; i < 100 && !client.Execute({"PING"}).ok(); ++i) absl::SleepFor(absl::Milliseconds(50));
    CHECK_THAT(client.Health(), IsOk());
    CHECK(client.generation() == uint64_t(1 + round));
    CHECK(client.Execute({"GET", "kept"})->text == "1");
  }
}

TEST_CASE("a restart between two calls costs no error") {
  const auto server = testing::Redis::StartOwn();
  Client client({.url = server->url()});
  REQUIRE_THAT(client.Execute({"PING"}), IsOk());
  server->Stop();
  server->Start();
  CHECK_THAT(client.Execute({"PING"}), IsOk());
  CHECK(client.generation() == 2);
}

TEST_CASE("a reply that does not come in time: outcome unknown, and it is never taken for the next one's") {
  Client client({.url = testing::Redis::Shared().url(), .command_timeout = absl::Milliseconds(100)});
  const std::string key = Key("late");
  CHECK_THAT(client.Execute({"BLPOP", key, "1"}), StatusIs(absl::StatusCode::kUnavailable, "outcome unknown"));
  CHECK(client.Execute({"ECHO", "mine"})->text == "mine");
}

TEST_CASE("databases, passwords and bad URLs") {
  const auto server = testing::Redis::StartOwn();
  Client second({.url = server->url() + "/2"});
  CHECK(second.Execute({"SET", "here", "1"})->ok());
  Client first({.url = server->url()});
  CHECK(first.Execute({"GET", "here"})->type == Reply::Type::kNil);
  CHECK(first.Execute({"CONFIG", "SET", "requirepass", "p@ss/word"})->ok());
  const std::string address = server->url().substr(8);
  Client locked({.url = "redis://" + address});
  CHECK_THAT(locked.Execute({"PING"}), StatusIs(absl::StatusCode::kUnavailable, "refuses"));
  Client opened({.url = "redis://:p%40ss%2Fword@" + address + "/2"});
  CHECK(opened.Execute({"GET", "here"})->text == "1");
  for (const char* bad : {"http://x", "redis://", "redis://host:99999", "redis://host:1/x", "unix://relative",
                          "redis://:hunter2@host:0"}) {
    Client client({.url = bad});
    const auto reply = client.Execute({"PING"});
    CHECK_THAT(reply, StatusIs(absl::StatusCode::kInvalidArgument, "the Redis URL"));
    CHECK(std::string(reply.status().message()).find("hunter2") == std::string::npos);
  }
}

TEST_CASE("threads share a client") {
  Client client({.url = testing::Redis::Shared().url()});
  const std::string key = Key("threads");
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const std::string mine = std::to_string(t) + "." + std::to_string(i);
        auto reply = client.Execute({"ECHO", mine});
        wrong += !reply.ok() || reply->text != mine;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
}

}  // namespace
}  // namespace mainstay::redis
