// SPDX-License-Identifier: Apache-2.0
// Redis over hiredis: blocking, deadline on every command, pipelines, scripts by SHA.
//
// Redis down is normal operation for the suite: every call answers Unavailable fast (one reconnect attempt per backoff
// step, never inline waiting) and callers go on from PostgreSQL.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace mainstay::redis {

struct Reply {
  enum class Type { kNil, kString, kStatus, kInteger, kArray, kError };
  Type type = Type::kNil;
  std::string text;  // string, status, error
  int64_t integer = 0;
  std::vector<Reply> elements;  // array
  bool ok() const { return type != Type::kError; }
};

using Command = std::vector<std::string>;

// Adds a command in Redis' protocol.
void AppendCommand(std::string& out, std::initializer_list<std::string_view> words);

struct ClientOptions {
  std::string url;  // redis://[:password@]host:port[/db] or unix:///path.sock
  absl::Duration connect_timeout = absl::Milliseconds(500);
  absl::Duration command_timeout = absl::Seconds(2);
  absl::Duration reconnect_min = absl::Milliseconds(50), reconnect_max = absl::Seconds(2);
};

// One connection; calls are serialised. A blocking reader (XREADGROUP BLOCK) needs a Client of its own.
class Client {
 public:
  explicit Client(ClientOptions options);
  ~Client();
  // An error reply of Redis is a Reply of kError, not a status; statuses are for the connection. Unknown whether a
  // command ran when the connection broke: Unavailable "outcome unknown".
  absl::StatusOr<Reply> Execute(const Command& command);
  // All in one round trip.
  absl::StatusOr<std::vector<Reply>> Pipeline(const std::vector<Command>& commands);
  // `count` commands already in Redis' own protocol (AppendCommand), in one round trip. Their replies are only looked
  // at for errors: the text of the first one, or "".
  absl::StatusOr<std::string> PipelineEncoded(std::string_view commands, size_t count);
  // A command that blocks for up to `block`; the socket timeout is raised above it (a shorter one kills the connection
  // and loses the delivered entry).
  absl::StatusOr<Reply> Blocking(const Command& command, absl::Duration block);
  // EVALSHA, and EVAL when the server does not know the script.
  absl::StatusOr<Reply> Script(std::string_view lua, const std::vector<std::string>& keys,
                               const std::vector<std::string>& arguments);
  absl::Status Health() const;  // thread-safe, of the last use
  // Counts up whenever a new connection was made: whoever depends on state in Redis looks again.
  uint64_t generation() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mainstay::redis
