// SPDX-License-Identifier: Apache-2.0
#include "tests/support/redis.h"

#include <hiredis/hiredis.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "libs/base/ids.h"
#include "tests/support/environment.h"
#include "tests/support/subprocess.h"

namespace mainstay::testing {
namespace {

std::string Text(const redisReply* reply) {
  switch (reply->type) {
    case REDIS_REPLY_INTEGER:
      return std::to_string(reply->integer);
    case REDIS_REPLY_NIL:
      return "(nil)";
    case REDIS_REPLY_ARRAY: {
      std::string out;
      for (size_t i = 0; i < reply->elements; ++i) out += (i > 0 ? "\n" : "") + Text(reply->element[i]);
      return out;
    }
    default:
      return std::string(reply->str, reply->len);
  }
}

}  // namespace

Redis& Redis::Shared() {
  static const std::unique_ptr<Redis> shared = StartOwn();
  return *shared;
}

std::unique_ptr<Redis> Redis::StartOwn(int skew) {
  std::unique_ptr<Redis> server(new Redis);
  server->skew_ = skew;
  char name[] = "/tmp/mst-redis-XXXXXX";
  if (mkdtemp(name) == nullptr) throw std::runtime_error("cannot make a folder in /tmp");
  server->directory_ = name;
  server->guard_ =
      std::make_unique<Guard>("p=$(cat " + server->directory_ +
                              "/pid 2>/dev/null); [ -z \"$p\" ] || kill -KILL $p; rm -rf " + server->directory_);
  for (int attempt = 0;; ++attempt) {
    server->port_ = FreePort();
    try {
      server->Start();
      break;
    } catch (const std::exception&) {
      if (attempt == 5) throw;
    }
  }
  server->url_ = "redis://127.0.0.1:" + std::to_string(server->port_);
  return server;
}

Redis::~Redis() = default;

void Redis::Start() {
  const std::string port = std::to_string(port_);
  std::vector<std::string> argv = {"redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", directory_};
  argv.insert(argv.end(), {"--appendonly", "yes", "--appendfsync", "no", "--save", "", "--daemonize", "yes"});
  argv.insert(argv.end(), {"--pidfile", directory_ + "/pid", "--logfile", directory_ + "/log"});
  argv.insert(argv.end(), {"--unixsocket", directory_ + "/s"});
  const RunResult result = Run({.argv = argv, .environment = Skewed(skew_)});
  if (result.code != 0) throw std::runtime_error("redis-server does not start: " + result.output);
  for (int i = 0; i < 400; ++i) {
    if (access((directory_ + "/pid").c_str(), R_OK) == 0) {
      try {
        if (Command({"PING"}) == "PONG") return;
      } catch (const std::exception&) {  // still starting
      }
    }
    absl::SleepFor(absl::Milliseconds(10));
  }
  throw std::runtime_error("redis-server does not answer: " + ReadFile(directory_ + "/log"));
}

void Redis::End(const std::string& signal) {
  Run({.argv = {"/bin/sh", "-c",
                "p=$(cat " + directory_ + "/pid); kill -" + signal +
                    " $p; while [ -d /proc/$p ] && ! grep -q '^State:.Z' /proc/$p/status; do sleep 0.01; done; rm -f " +
                    directory_ + "/pid"}});
}
void Redis::Kill() {
  End("KILL");
}
void Redis::Stop() {
  End("TERM");
}

void Redis::Wipe() {
  Run({.argv = {"rm", "-rf", directory_ + "/appendonlydir"}});
}
void Redis::Keep() {
  Run({.argv = {"cp", "-a", directory_ + "/appendonlydir", directory_ + "/kept"}});
}
void Redis::GoBack() {
  Wipe();
  Run({.argv = {"cp", "-a", directory_ + "/kept", directory_ + "/appendonlydir"}});
}

void Redis::Flush() {
  Command({"FLUSHALL"});
}

std::string Redis::Command(const std::vector<std::string>& words) {
  const std::unique_ptr<redisContext, decltype(&redisFree)> context(redisConnectWithTimeout("127.0.0.1", port_, {2, 0}),
                                                                    &redisFree);
  if (context == nullptr || context->err != 0) throw std::runtime_error("cannot connect to Redis");
  std::vector<const char*> argv;
  std::vector<size_t> lengths;
  for (const auto& word : words) {
    argv.push_back(word.data());
    lengths.push_back(word.size());
  }
  auto* reply =
      static_cast<redisReply*>(redisCommandArgv(context.get(), int(argv.size()), argv.data(), lengths.data()));
  if (reply == nullptr) throw std::runtime_error(std::string("Redis: ") + context->errstr);
  const std::string text = Text(reply);
  freeReplyObject(reply);
  return text;
}

std::string UniquePrefix() {
  return "t" + NewId("test") + ":";
}

}  // namespace mainstay::testing
